//! Bugs put in on purpose: the proof that the simulator sees.
//!
//! Owns: their names and what each stands for. Does not: reach into the pure crates; every mutant is an error of the
//! shell around them, so that production code carries no switches.
//! See: docs/simulation.md.

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// The log is reported durable before its sync, which comes later.
    AckBeforeFsync,
    /// Hard states are not written: a vote is forgotten in a crash.
    VoteNotPersisted,
    /// Recovery cuts the log at a bad record although later ones are good.
    TruncateOnBadChecksum,
    /// A snapshot leaves out what is in flight.
    SnapshotWithoutInflight,
    /// A takeover is confirmed while the old connection still serves.
    TakeoverWithoutFencing,
    /// A node without a lease goes on acknowledging.
    LeaseIgnored,
    /// A leader takes a piece of a stream although its predecessor is missing.
    StreamGapAccepted,
    /// SUBACK does not wait for the other nodes.
    RouteBarrierSkipped,
    /// A new subscription takes what other nodes had forwarded before it.
    SubscribeUnmarked,
    /// A checkpoint keeps retained messages that were deleted.
    DeletionResurrected,
    /// A checkpoint keeps subscriptions that were given up.
    UnsubscribeReverted,
    /// A checkpoint forgets which commands of the streams were applied.
    DedupeForgotten,
    /// A checkpoint forgets which QoS 2 publishes were handed on.
    InboundForgotten,
    /// A checkpoint keeps wills that have been published.
    WillRepeated,
    /// A node passes every end of a connection on as a normal one.
    WillForgotten,
    /// A checkpoint forgets what was applied of other partitions' outboxes.
    OutboxRepeated,
    /// Messages that a lost member of a share group gives back count as consumed.
    ShareReturnDropped,
    /// A share group never hears that its members are done with messages.
    ShareCreditKept,
    /// A backup marks its cut in a group as soon as that group holds, without waiting for the others.
    CutBeforeAllHold,
    /// Followers hear of entries of older terms as committed as soon as a majority has them.
    OlderTermCounted,
    /// A node gives a delivery the packet identifier of the one before.
    PacketIdReused,
    /// A node frees the packet identifier of a QoS 2 publish when it sends PUBREC.
    DedupeReleasedEarly,
    /// PUBREL does not free the packet identifier of a QoS 2 publish.
    DedupeReleasedLate,
    /// A node answers PUBREC with PUBREL at once.
    PubrelBeforeDurable,
    /// Nodes take their time from a clock that somebody sets.
    WallClock,
    /// A node whose state was damaged goes on under its old identity.
    DamagedKeepsIdentity,
}

/// All of them, with the name on the command line and what they do.
pub const ALL: [(Mutant, &str, &str); 26] = [
    (Mutant::AckBeforeFsync, "ack-before-fsync", "the log is reported durable before its sync"),
    (Mutant::VoteNotPersisted, "vote-not-persisted", "votes and terms are not written to the log"),
    (
        Mutant::TruncateOnBadChecksum,
        "truncate-on-bad-checksum",
        "recovery drops synced entries at a bad record",
    ),
    (Mutant::SnapshotWithoutInflight, "snapshot-without-inflight", "a snapshot leaves out what is in flight"),
    (
        Mutant::TakeoverWithoutFencing,
        "takeover-without-fencing",
        "a takeover is confirmed before the old connection ends",
    ),
    (Mutant::LeaseIgnored, "lease-ignored", "a node without a lease goes on acknowledging"),
    (
        Mutant::StreamGapAccepted,
        "stream-gap-accepted",
        "a piece of a stream is taken although one before it is missing",
    ),
    (Mutant::RouteBarrierSkipped, "route-barrier-skipped", "SUBACK does not wait for the other nodes"),
    (
        Mutant::SubscribeUnmarked,
        "subscribe-unmarked",
        "a new subscription takes what other nodes had forwarded before it",
    ),
    (Mutant::DeletionResurrected, "deletion-resurrected", "a checkpoint keeps deleted retained messages"),
    (
        Mutant::UnsubscribeReverted,
        "unsubscribe-reverted",
        "a checkpoint keeps subscriptions that were given up",
    ),
    (Mutant::DedupeForgotten, "dedupe-forgotten", "a checkpoint forgets the positions of streams"),
    (
        Mutant::InboundForgotten,
        "inbound-forgotten",
        "a checkpoint forgets the packet identifiers of QoS 2 publishes",
    ),
    (Mutant::WillRepeated, "will-repeated", "a checkpoint keeps wills that were published"),
    (Mutant::WillForgotten, "will-forgotten", "every end of a connection counts as a normal one"),
    (Mutant::OutboxRepeated, "outbox-repeated", "a checkpoint forgets the positions of outboxes"),
    (
        Mutant::ShareReturnDropped,
        "share-return-dropped",
        "what a lost member of a share group gives back counts as consumed",
    ),
    (
        Mutant::ShareCreditKept,
        "share-credit-kept",
        "a share group never hears that members are done with messages",
    ),
    (
        Mutant::CutBeforeAllHold,
        "cut-before-all-hold",
        "a backup marks its cut in each group without waiting for the others",
    ),
    (
        Mutant::OlderTermCounted,
        "older-term-counted",
        "entries of an older term count as committed when a majority has them",
    ),
    (Mutant::PacketIdReused, "packet-id-reused", "a delivery gets the packet identifier of the one before"),
    (
        Mutant::DedupeReleasedEarly,
        "dedupe-released-early",
        "PUBREC frees the packet identifier of a QoS 2 publish",
    ),
    (
        Mutant::DedupeReleasedLate,
        "dedupe-released-late",
        "PUBREL does not free the packet identifier of a QoS 2 publish",
    ),
    (Mutant::PubrelBeforeDurable, "pubrel-before-durable", "PUBREC is answered before it is durable"),
    (Mutant::WallClock, "wall-clock", "nodes take their time from a clock that somebody sets"),
    (
        Mutant::DamagedKeepsIdentity,
        "damaged-keeps-identity",
        "a node whose state was damaged goes on under its old identity",
    ),
];

impl Mutant {
    /// The mutant of this name.
    pub fn parse(name: &str) -> Option<Mutant> {
        ALL.iter().find(|(_, known, _)| *known == name).map(|(mutant, ..)| *mutant)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(mutant, ..)| *mutant == self).map_or("", |(_, name, _)| name)
    }
}
