//! Values with units: `"30s"`, `"2MiB"`.
//!
//! Owns: their syntax. Does not: know which key they belong to. A number without a unit is refused, except 0.

use std::time::Duration;

/// Why a value with a unit was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No digits at the start.
    #[error("`{0}` does not start with a whole number")]
    Number(String),
    /// The unit is missing or unknown.
    #[error("`{0}` is not a known unit")]
    Unit(String),
    /// The value does not fit.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

fn split(text: &str) -> Result<(u64, &str), UnitError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(UnitError::Number(text.to_owned()));
    }
    let number = digits.parse().map_err(|_| UnitError::TooLarge(text.to_owned()))?;
    Ok((number, unit.trim()))
}

/// Parses a number of bytes: `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or `kB`, `MB`, `GB`, `TB` (of 1000).
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "" if number == 0 => 1,
        other => return Err(UnitError::Unit(other.to_owned())),
    };
    number.checked_mul(factor).ok_or_else(|| UnitError::TooLarge(text.to_owned()))
}

/// Parses a duration: `ms`, `s`, `m`, `h`, `d`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text)?;
    let factor_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 1,
        other => return Err(UnitError::Unit(other.to_owned())),
    };
    let ms = number.checked_mul(factor_ms).ok_or_else(|| UnitError::TooLarge(text.to_owned()))?;
    Ok(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_with_units_are_read() {
        for (text, expected) in [
            ("0", 0),
            ("1B", 1),
            ("2KiB", 2048),
            ("64 MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("3kB", 3000),
            ("5MB", 5_000_000),
            (" 7TiB ", 7 << 40),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in
            ["", "B", "-1B", "1.5MiB", "10", "10mib", "1 Mi B", "99999999999999999999B", "99999999TiB"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_with_units_are_read() {
        for (text, expected_ms) in
            [("0", 0), ("1ms", 1), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(expected_ms)), "{text}");
        }
        for text in ["", "s", "30", "1.5s", "1 year", "-3s", "99999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
