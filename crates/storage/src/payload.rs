//! Payloads of damaged records, from whoever has them whole.
//!
//! Owns: the way in which one is offered and taken. Does not: fetch any; the shell asks other replicas.
//! Invariants: what is offered is taken only if it is byte for byte what was written.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::{Group, Index};

/// Data and context of an entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Payload {
    /// Data.
    pub data: Bytes,
    /// Context.
    pub context: Bytes,
}

/// What came of asking for a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// It was taken.
    Taken,
    /// Everyone was asked, and nobody has it.
    NobodyHas,
    /// Somebody could not be asked.
    NotAllAsked,
}

/// Others who may have payloads.
pub trait PayloadSource: Send + Sync {
    /// These are about to be asked for, one after the other: to get them at once is faster. What is not had that way is asked for as
    /// any other.
    fn ahead(&self, _entries: &[(Group, Index)]) {}

    /// Gives `take` the payloads that others have for an entry, one after the other, until it takes one. May wait for them for as
    /// long as it thinks right.
    fn offer(&self, group: Group, index: Index, take: &mut dyn FnMut(&Payload) -> bool) -> Offer;
}

/// The source of a log and its bodies; there is none until it is set.
pub(crate) type Sources = Arc<OnceLock<Arc<dyn PayloadSource>>>;
