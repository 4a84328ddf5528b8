//! UTF-8 strings on the wire, shared without copying.
//!
//! Owns: the rules of MQTT's UTF-8 encoded strings.
//! Does not: normalise. A byte order mark and composed characters stay as they are [MQTT-1.5.4-3].
//! Invariants: well-formed UTF-8 (so no surrogates [MQTT-1.5.4-1]), no U+0000 [MQTT-1.5.4-2].
//! Limits: `TEXT_BYTES_MAX`. Control characters and non-characters are accepted: the specification leaves it open,
//! and clients use them. Whoever writes a text to a log escapes it.
//! Spec: MQTT 5, 1.5.4; MQTT 3.1.1, 1.5.3.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};

use bytes::Bytes;
use thiserror::Error;

use crate::limits::TEXT_BYTES_MAX;

/// A UTF-8 string that shares the bytes it was decoded from. Never holds U+0000 [MQTT-1.5.4-2].
///
/// A text keeps the whole buffer alive that it was decoded from: copy what is kept for long.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Text(Bytes);

/// Why bytes are not a [`Text`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TextError {
    /// Not well-formed UTF-8 [MQTT-1.5.4-1].
    #[error("text is not well-formed UTF-8 from byte {at} on")]
    Utf8 {
        /// Number of well-formed bytes before.
        at: usize,
    },
    /// Holds the null character [MQTT-1.5.4-2].
    #[error("text holds the null character")]
    Null,
    /// Longer than its two bytes of length can say.
    #[error("text of {bytes} bytes is longer than {TEXT_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

impl Text {
    /// Checks bytes, without copying them.
    ///
    /// # Errors
    /// [`TextError`] for each rule that they break.
    pub fn new(bytes: Bytes) -> Result<Self, TextError> {
        check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Copies a string.
    ///
    /// # Errors
    /// [`TextError::Null`] and [`TextError::TooLong`].
    pub fn parse(text: &str) -> Result<Self, TextError> {
        check(text.as_bytes())?;
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }

    /// A text of the program itself, without copying it.
    ///
    /// # Panics
    /// If it holds U+0000 or is too long; in a constant this is found at compile time.
    pub const fn from_static(text: &'static str) -> Self {
        assert!(text.len() <= TEXT_BYTES_MAX, "the text is too long");
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            assert!(*first != 0, "the text holds the null character");
            rest = after;
        }
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// The string. Checks the bytes again (about a nanosecond for each ten), because safe code has no other way.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when the text was made")
    }

    /// The bytes, to be shared.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The bytes.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Length in bytes, at most `TEXT_BYTES_MAX`.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The part of the text in this range of bytes, shared.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let text = Self(self.0.slice(range));
        debug_assert!(std::str::from_utf8(&text.0).is_ok(), "cut between characters");
        text
    }
}

/// Bytes of text that another check than [`Text::new`] has found to be right.
pub(crate) fn checked(bytes: Bytes) -> Text {
    debug_assert!(check(&bytes).is_ok(), "checked by the caller");
    Text(bytes)
}

/// Checks the rules of [`Text`].
pub(crate) fn check(bytes: &[u8]) -> Result<(), TextError> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(TextError::TooLong { bytes: bytes.len() });
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(TextError::Utf8 { at: error.valid_up_to() });
    }
    if bytes.contains(&0) {
        return Err(TextError::Null);
    }
    Ok(())
}

impl TryFrom<Bytes> for Text {
    type Error = TextError;

    fn try_from(bytes: Bytes) -> Result<Self, TextError> {
        Self::new(bytes)
    }
}

impl TryFrom<&str> for Text {
    type Error = TextError;

    fn try_from(text: &str) -> Result<Self, TextError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Text {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        Self::new(Bytes::from(text))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// Like `str`, as [`Borrow`] demands.
impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), formatter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::{DefaultHasher, Hasher as _};

    use super::*;

    #[test]
    fn text_of_wrong_bytes_is_refused() {
        let check =
            |bytes: &'static [u8], error| assert_eq!(Text::new(Bytes::from_static(bytes)), Err(error));
        check(b"a\xc3\x28", TextError::Utf8 { at: 1 }); // [MQTT-1.5.4-1]
        check(b"a\xed\xa0\x80", TextError::Utf8 { at: 1 }); // A surrogate [MQTT-1.5.4-1].
        check(b"a\xc0\x80", TextError::Utf8 { at: 1 }); // U+0000 in two bytes.
        check(b"ab\0", TextError::Null); // [MQTT-1.5.4-2]
        check(&[b'a'; 65_536], TextError::TooLong { bytes: 65_536 });
    }

    #[test]
    fn text_keeps_byte_order_mark_and_control_characters() {
        for text in ["", "\u{feff}a", "e\u{301}", "\u{7f}\u{1}", "\u{fffe}"] {
            assert_eq!(Text::parse(text).unwrap().as_str(), text, "[MQTT-1.5.4-3]");
        }
    }

    #[test]
    fn text_borrowed_as_str_hashes_and_compares_like_str() {
        const NAME: Text = Text::from_static("name");
        let mut as_text = DefaultHasher::new();
        NAME.hash(&mut as_text);
        let mut as_str = DefaultHasher::new();
        "name".hash(&mut as_str);
        assert_eq!(as_text.finish(), as_str.finish());
        assert_eq!(BTreeMap::from([(NAME, 1)]).get("name"), Some(&1));
    }
}
