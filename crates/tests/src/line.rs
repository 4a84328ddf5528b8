//! The lines that the interop runner and the drivers of foreign clients exchange: a word and `key=value` fields.
//!
//! Owns: writing and reading them. Does not: know which words there are; docs/interop.md lists them.
//! Invariants: values are percent-encoded UTF-8, so a line has no space or line break within a value; a key may come
//! more than once, and the order of the fields is kept.

use std::fmt;

use anyhow::{Context, Result};

/// One line: a request to a driver, its answer, or a message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is: `connect`, `message`, …
    pub word: String,
    fields: Vec<(String, String)>,
}

impl Line {
    /// A line without fields.
    pub fn new(word: &str) -> Line {
        Line { word: word.to_owned(), fields: Vec::new() }
    }

    /// The line with one more field.
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Line {
        self.fields.push((key.to_owned(), value.to_string()));
        self
    }

    /// The line with one more field when there is a value.
    pub fn with_some(self, key: &str, value: Option<impl fmt::Display>) -> Line {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Reads a line without its line break.
    ///
    /// # Errors
    /// When it is empty, a field has no `=`, or a value is no percent-encoded UTF-8.
    pub fn parse(text: &str) -> Result<Line> {
        let mut parts = text.split(' ').filter(|part| !part.is_empty());
        let mut line = Line::new(parts.next().context("an empty line")?);
        for part in parts {
            let (key, value) = part.split_once('=').with_context(|| format!("{part:?} without ="))?;
            let value = decode(value).with_context(|| format!("value of {key} in {text:?}"))?;
            line.fields.push((key.to_owned(), value));
        }
        Ok(line)
    }

    /// The first value of a key.
    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value of a key.
    ///
    /// # Errors
    /// When there is none.
    pub fn require(&self, key: &str) -> Result<&str> {
        self.field(key).with_context(|| format!("{} without {key}: {self}", self.word))
    }

    /// All values of a key, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.word)?;
        for (key, value) in &self.fields {
            write!(f, " {key}={}", encode(value))?;
        }
        Ok(())
    }
}

fn encode(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b',' | b':' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn decode(value: &str) -> Result<String> {
    let mut decoded = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = [rest.next().context("cut off")?, rest.next().context("cut off")?];
        decoded.push(u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?);
    }
    Ok(String::from_utf8(decoded)?)
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn line_with_every_kind_of_character_is_read_as_written() {
        let line =
            Line::new("message").with("payload", "50 % = ö\n+#$").with("user", "b:1").with("user", "a:2");
        let text = line.to_string();
        assert_eq!(text.lines().count(), 1);
        assert_eq!(Line::parse(&text).unwrap(), line);
        assert_eq!(line.all("user").collect::<Vec<_>>(), ["b:1", "a:2"]);
    }

    #[test]
    fn line_that_is_no_line_is_refused() {
        for text in ["", "word field", "word a=%", "word a=%zz", "word a=%ff"] {
            assert!(Line::parse(text).is_err(), "{text:?}");
        }
    }
}
