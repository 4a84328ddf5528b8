//! The proof that something is durable on a quorum.
//!
//! Owns: [`Durable`]. Invariants: made only in this crate, from the report of a group's leader that a committed
//! entry was applied. See: docs/decisions/0007-streams-and-outbox.md.

/// A value that a committed entry vouches for. The acknowledgements of the durable path take one, so an early
/// acknowledgement does not compile outside this crate.
#[derive(PartialEq, Eq, Debug)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// Only the code that learns of a commit calls this: see `stream.rs`.
    pub(crate) fn committed(value: T) -> Self {
        Durable(value)
    }

    /// Another value that the same commit vouches for.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Durable<U> {
        Durable(change(self.0))
    }

    /// The value, and the bare proof for another value.
    pub(crate) fn split(self) -> (T, Durable<()>) {
        (self.0, Durable(()))
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The value, giving up the proof.
    pub fn into_inner(self) -> T {
        self.0
    }
}
