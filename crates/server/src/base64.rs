//! Base64 with the standard alphabet and padding, for payloads in JSON.
//!
//! Owns: encoding. Does not: decode. Spec: RFC 4648, 4.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as Base64.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4_usize {
            let letter = if place <= chunk.len() { letter(word >> (18 - 6 * place)) } else { '=' };
            text.push(letter);
        }
    }
    text
}

/// The letter of the low six bits.
fn letter(bits: u32) -> char {
    let place = usize::try_from(bits & 63).unwrap_or(0);
    ALPHABET.get(place).copied().map_or('=', char::from)
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn test_vectors_of_the_specification() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
        }
        assert_eq!(encode(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
