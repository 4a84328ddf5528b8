//! Backups: one file with the state of a whole cluster.
//!
//! Owns: the parts below. Does not: start anything. See: docs/formats/backup.md, docs/operations/backup.md.

pub mod content;
pub mod format;
pub mod restore;
pub mod restored;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod verify;
