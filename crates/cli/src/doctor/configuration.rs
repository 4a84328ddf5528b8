//! The configuration file, as the daemon would read it.
//!
//! Owns: a finding for each error. Does not: parse; the server does, by the rules that it starts by.

use std::path::Path;

use quorate_server::config::{self, Config, ConfigError};

use super::finding::Finding;

/// Reads the file; without one the settings are those of a node without a file.
pub fn gather(file: Option<&Path>) -> Result<Config, Vec<ConfigError>> {
    file.map_or_else(|| Ok(Config::default()), config::load)
}

/// A finding for each error.
pub fn check(errors: &[ConfigError]) -> Vec<Finding> {
    let place = |error: &ConfigError| match error.line {
        0 => error.file.display().to_string(),
        line => format!("{}:{line}:{}", error.file.display(), error.column),
    };
    let found = errors.iter().map(|error| {
        Finding::error("config_invalid", place(error), error.message.clone(), error.hint.clone())
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_a_finding_with_its_place() {
        let file = Path::new("quorate.toml");
        let text = "[node]\nnmae = \"n1\"\n[storage]\nsegment_bytes = \"1KiB\"\n";
        let found = check(&config::parse(file, text).unwrap_err());
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].code, found[0].place.as_str()), ("config_invalid", "quorate.toml:2:1"));
        assert!(found[0].message.contains("nmae") && !found[0].hint.is_empty(), "{:?}", found[0]);
        let missing = check(&gather(Some(Path::new("no-such-file.toml"))).unwrap_err());
        assert_eq!(missing[0].place, "no-such-file.toml");
    }

    #[test]
    fn no_file_is_the_default_and_no_finding() {
        assert_eq!(gather(None), Ok(Config::default()));
    }
}
