//! The file with the tokens of the admin listener: usable, and for the node's eyes only.
//!
//! Owns: its permissions, and whether the node would take it. Does not: show a token.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use quorate_server::admin::token::Tokens;

use super::finding::Finding;

/// What is known of the file.
#[derive(Clone, Debug)]
pub struct TokenFacts {
    /// The file.
    pub file: PathBuf,
    /// Its permissions; `None` when it cannot be looked at.
    pub mode: Option<u32>,
    /// Why the node would not take it.
    pub problem: Option<String>,
    /// This user may not read it; perhaps that of the node may.
    pub denied: bool,
}

/// Looks at the file.
pub fn gather(file: &Path) -> TokenFacts {
    let denied = fs::File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    TokenFacts {
        file: file.to_owned(),
        mode: fs::metadata(file).ok().map(|metadata| metadata.mode()),
        problem: Tokens::load(file).err().map(|error| error.to_string()),
        denied,
    }
}

/// Judges the file.
pub fn check(facts: &TokenFacts) -> Vec<Finding> {
    let place = facts.file.display();
    let mut found = Vec::new();
    if facts.denied {
        found.push(Finding::warning(
            "token_file_unusable",
            &place,
            "this user may not read it; admin.token_file names it",
            "run the doctor as the user of the node; if it is that one, let it read the file",
        ));
    } else if let Some(problem) = &facts.problem {
        found.push(Finding::error(
            "token_file_unusable",
            &place,
            problem.clone(),
            "openssl rand -hex 32 makes a token; put it into the file, or correct admin.token_file",
        ));
    }
    if facts.mode.is_some_and(|mode| mode & 0o007 != 0) {
        found.push(Finding::warning(
            "token_file_exposed",
            &place,
            "every user of this machine can administer the node with the token in it",
            format!("chmod o-rwx {place}"),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn check_one(text: Option<&str>, mode: u32, codes: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let found: Vec<&str> = check(&gather(&file)).iter().map(|finding| finding.code).collect();
        assert_eq!(found, codes, "{text:?} {mode:o}");
    }

    #[test]
    fn each_flaw_has_its_code() {
        check_one(Some("0123456789abcdef0123456789abcdef\n"), 0o640, &[]);
        check_one(Some("0123456789abcdef0123456789abcdef\n"), 0o644, &["token_file_exposed"]);
        check_one(Some("short\n"), 0o600, &["token_file_unusable"]);
        check_one(None, 0, &["token_file_unusable"]);
    }
}
