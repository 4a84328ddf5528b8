//! Seeds that once broke a promise, read from `ledger.md`.
//!
//! Owns: the rows of its table. Does not: run them.
//! Invariants: a row names the version of the draws that its seed was found with. A seed is the same world only while neither
//! the draws nor the code that consumes chance change; what lasts is the test that a row names.
//! See: docs/simulation.md.

use crate::features::DRAWS;

/// The table.
const LEDGER: &str = include_str!("../ledger.md");

/// A seed that broke a promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Version of the draws that it was found with.
    pub draws: u32,
    /// Seed.
    pub seed: u64,
    /// The promise.
    pub promise: &'static str,
    /// Test that holds the cause down; `None` when the simulator itself was wrong.
    pub test: Option<&'static str>,
}

impl Row {
    /// Whether its seed is still the world that it was, as far as draws go.
    pub fn is_current(&self) -> bool {
        self.draws == DRAWS
    }
}

/// All rows, in the order of the file.
///
/// # Panics
/// When the file, which is part of the program, has a row that does not read.
pub fn rows() -> Vec<Row> {
    let rows = LEDGER.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|line| row(line).unwrap_or_else(|| panic!("ledger.md: {line}"))).collect()
}

fn row(line: &'static str) -> Option<Row> {
    let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
    let (draws, seed) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
    let (promise, _cause, test) = (cells.next()?, cells.next()?, cells.next()?);
    let test = Some(test.trim_matches('`')).filter(|test| *test != "-");
    cells.next().is_none().then_some(Row { draws, seed, promise, test })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Whether some Rust file below a folder has a function of this name.
    fn has_function(folder: &Path, declaration: &str) -> bool {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).any(|path| {
            if path.is_dir() {
                return has_function(&path, declaration);
            }
            path.extension().is_some_and(|extension| extension == "rs")
                && fs::read_to_string(&path).unwrap().contains(declaration)
        })
    }

    #[test]
    fn rows_read_and_none_is_of_draws_to_come() {
        let rows = rows();
        assert!(rows.len() >= 9);
        assert!(rows.iter().all(|row| row.draws <= DRAWS && !row.promise.is_empty()));
    }

    #[test]
    fn tests_that_rows_name_exist() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for row in rows() {
            let Some(test) = row.test else { continue };
            assert!(
                has_function(crates, &format!("fn {test}(")),
                "seed {}: no test is called {test}",
                row.seed
            );
        }
    }
}
