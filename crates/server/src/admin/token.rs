//! The tokens of the admin listener: who carries one may ask.
//!
//! Owns: reading the file and comparing. Does not: know HTTP.
//! Invariants: the file counts as it is at each request; one that cannot be used leaves the tokens before in force and is
//! told of once, but at the start it is an error: there is never a listener that was to ask for a token and does not.
//! Limits: `ADMIN_TOKEN_FILE_BYTES_MAX`, `ADMIN_TOKENS_MAX`, `ADMIN_TOKEN_BYTES_MIN`.

use std::io::Read;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::limits::{ADMIN_TOKEN_BYTES_MIN, ADMIN_TOKEN_FILE_BYTES_MAX, ADMIN_TOKENS_MAX};

/// Why a file of tokens cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the tokens of the admin listener from {file}: {problem}")]
pub struct TokenError {
    file: PathBuf,
    problem: String,
}

/// Tokens, one a line, as the file has them.
pub struct Tokens {
    file: PathBuf,
    state: Mutex<State>,
}

struct State {
    tokens: Vec<String>,
    failed: Option<TokenError>,
}

impl Tokens {
    /// Reads the file for the first time.
    pub fn load(file: &Path) -> Result<Tokens, TokenError> {
        let tokens = read(file)?;
        Ok(Tokens { file: file.to_owned(), state: Mutex::new(State { tokens, failed: None }) })
    }

    /// Whether this is one of the tokens that the file has now.
    pub fn accepts(&self, token: &str) -> bool {
        let mut state = self.state.lock();
        match read(&self.file) {
            Ok(tokens) => {
                if tokens != state.tokens {
                    tracing::info!(file = %self.file.display(), "new tokens of the admin listener are in force");
                }
                *state = State { tokens, failed: None };
            }
            Err(error) => {
                if state.failed.as_ref() != Some(&error) {
                    tracing::warn!(%error, "the old tokens stay in force: correct the file");
                }
                state.failed = Some(error);
            }
        }
        // Compares with all of them, so that the time says nothing about which one is alike.
        state.tokens.iter().fold(false, |found, known| found | same(known.as_bytes(), token.as_bytes()))
    }
}

/// Compares in a time that depends on the lengths only.
fn same(known: &[u8], given: &[u8]) -> bool {
    let difference = known.iter().zip(given).fold(0, |difference, (one, other)| difference | (one ^ other));
    known.len() == given.len() && std::hint::black_box(difference) == 0
}

fn read(file: &Path) -> Result<Vec<String>, TokenError> {
    let failed = |problem: String| TokenError { file: file.to_owned(), problem };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|error| failed(error.to_string()))?;
    let mut limited = opened.take(ADMIN_TOKEN_FILE_BYTES_MAX + 1);
    let length = limited.read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    if u64::try_from(length).unwrap_or(u64::MAX) > ADMIN_TOKEN_FILE_BYTES_MAX {
        return Err(failed(format!("it has more than {ADMIN_TOKEN_FILE_BYTES_MAX} bytes")));
    }
    let tokens: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if tokens.is_empty() || tokens.len() > ADMIN_TOKENS_MAX {
        return Err(failed(format!(
            "it has {} tokens; write 1 to {ADMIN_TOKENS_MAX}, one a line",
            tokens.len()
        )));
    }
    let sound = |token: &String| {
        token.len() >= ADMIN_TOKEN_BYTES_MIN && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !tokens.iter().all(sound) {
        return Err(failed(format!(
            "a token has at least {ADMIN_TOKEN_BYTES_MIN} visible ASCII characters; openssl rand -hex 32 makes one"
        )));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestFolder;

    const OLD: &str = "0123456789abcdef";
    const NEW: &str = "fedcba9876543210";

    #[test]
    fn tokens_count_as_the_file_has_them_now() {
        let folder = TestFolder::new();
        let file = folder.path().join("token");
        std::fs::write(&file, format!("{OLD}\n")).unwrap();
        let tokens = Tokens::load(&file).unwrap();
        assert!(tokens.accepts(OLD));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg", NEW] {
            assert!(!tokens.accepts(wrong), "{wrong}");
        }
        std::fs::write(&file, format!("{OLD}\n\n  {NEW}  \n")).unwrap();
        assert!(tokens.accepts(OLD) && tokens.accepts(NEW));
        std::fs::write(&file, NEW).unwrap();
        assert!(!tokens.accepts(OLD) && tokens.accepts(NEW));
    }

    #[test]
    fn file_that_cannot_be_used_opens_nothing() {
        let folder = TestFolder::new();
        let file = folder.path().join("token");
        assert!(Tokens::load(&file).is_err());
        std::fs::write(&file, OLD).unwrap();
        let tokens = Tokens::load(&file).unwrap();
        for broken in [
            String::new(),
            "short".to_owned(),
            "a b".repeat(10),
            "x".repeat(5000),
            format!("{NEW}\n").repeat(9),
        ] {
            std::fs::write(&file, &broken).unwrap();
            assert!(Tokens::load(&file).is_err(), "{broken:?}");
            assert!(tokens.accepts(OLD) && !tokens.accepts(&broken) && !tokens.accepts(NEW), "{broken:?}");
        }
    }
}
