//! The daemon as a library.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod config;
pub mod limits;
pub mod net;
