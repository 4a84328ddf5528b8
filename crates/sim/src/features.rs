//! What a seed's world has in store: size, workload and kinds of faults, a different subset for each seed.
//!
//! Owns: the draw. Invariants: a seed always draws the same; a calm seed has no fault at all.

use core::time::Duration;

use crate::random::Random;

/// Version of what a seed draws. It goes up with every change of that, so that the ledger says which seeds are what they were.
pub const DRAWS: u32 = 7;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// A node dies and comes back later; unsynced sectors survive or not.
    Crash,
    /// All nodes die at once.
    CrashAll,
    /// A node stands still, then goes on as if nothing had been.
    Pause,
    /// The links between two sets of nodes carry nothing.
    Partition,
    /// One direction between some nodes carries nothing.
    OneWay,
    /// A link is reset: everything underway is lost.
    Reset,
    /// A node's disk takes long to sync.
    SlowDisk,
    /// A client's connection is cut.
    CutClient,
    /// An operator takes a node out of service, or puts it back.
    Duty,
    /// A node loses its disk and joins anew.
    Wipe,
    /// What was synced changes on a disk.
    Decay,
    /// A write of the log goes to the wrong place, or nowhere.
    Astray,
    /// Operations of a disk fail.
    DiskError,
    /// A disk has no room for some time.
    DiskFull,
}

const FAULTS: [FaultKind; 14] = [
    FaultKind::Crash,
    FaultKind::CrashAll,
    FaultKind::Pause,
    FaultKind::Partition,
    FaultKind::OneWay,
    FaultKind::Reset,
    FaultKind::SlowDisk,
    FaultKind::CutClient,
    FaultKind::Duty,
    FaultKind::Wipe,
    FaultKind::Decay,
    FaultKind::Astray,
    FaultKind::DiskError,
    FaultKind::DiskFull,
];

/// A seed's world.
#[derive(Clone, Debug)]
pub struct Features {
    /// Nodes.
    pub nodes: usize,
    /// Partitions.
    pub partitions: u32,
    /// Kinds of faults that happen.
    pub faults: Vec<FaultKind>,
    /// Pause between faults, on average.
    pub fault_every: Duration,
    /// Raft messages are lost, so many in a thousand; half as many come twice or out of order.
    pub lossy_permille: u32,
    /// The messages of streams are lost as well.
    pub lossy_streams: bool,
    /// Clocks differ by up to this many in a thousand.
    pub clock_permille: u64,
    /// Longest delay between nodes.
    pub delay_max: Duration,
    /// Longest sync.
    pub sync_max: Duration,
    /// Size of log segments.
    pub segment_bytes: u64,
    /// The log is shortened when longer.
    pub log_bytes_target: u64,
    /// Memory for entries and bodies that were written or read.
    pub cache_bytes: u64,
    /// Hosts that join while the cluster works, beside those that found it.
    pub added: usize,
    /// A node wants a checkpoint of some group, about this often.
    pub checkpoint_every: Option<Duration>,
    /// Clients take their own sessions over.
    pub takeovers: bool,
    /// Subscriptions come and go.
    pub churn: bool,
    /// Durable publishers.
    pub publishers: usize,
    /// Durable subscribers.
    pub subscribers: usize,
    /// Transient subscribers.
    pub transients: usize,
    /// Clients with wills.
    pub dying: usize,
    /// Writers and readers of retained messages.
    pub retained: bool,
    /// Share groups with members and publishers.
    pub shares: bool,
    /// Backups are taken, one after another.
    pub backups: bool,
    /// Pause between a publisher's messages.
    pub publish_every: Duration,
    /// How long faults happen.
    pub fault_time: Duration,
}

/// Of a thousand runs with few nodes, those to which one is added.
const ADDED_PERMILLE: u32 = 150;

impl Features {
    /// The world of a seed.
    pub fn draw(random: &mut Random) -> Features {
        let calm = random.permille(60);
        let mut faults: Vec<FaultKind> =
            FAULTS.into_iter().filter(|kind| random.permille(chance(*kind))).collect();
        if faults.is_empty() {
            faults.push(FaultKind::Crash);
        }
        let nodes = *random.pick(&[3, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 7]);
        let mut features = Features {
            nodes,
            partitions: *random.pick(&[1, 2, 3, 4]),
            faults: if calm { Vec::new() } else { faults },
            fault_every: random.millis(250, 2500),
            lossy_permille: if !calm && random.permille(250) { *random.pick(&[5, 20, 80]) } else { 0 },
            lossy_streams: random.permille(300),
            clock_permille: if random.permille(500) { 45 } else { 0 },
            delay_max: Duration::from_micros(*random.pick(&[300, 1000, 5000, 30_000])),
            sync_max: Duration::from_micros(*random.pick(&[200, 2000, 8000, 20_000])),
            segment_bytes: *random.pick(&[8 << 10, 16 << 10, 64 << 10]),
            log_bytes_target: *random.pick(&[16 << 10, 64 << 10, 1 << 20]),
            cache_bytes: *random.pick(&[2 << 10, 1 << 20]),
            added: 0,
            checkpoint_every: random.permille(700).then(|| random.millis(200, 3000)),
            takeovers: !calm && random.permille(350),
            churn: random.permille(500),
            publishers: 1 + random.below(3),
            subscribers: 1 + random.below(3),
            transients: random.below(3),
            dying: random.below(3),
            retained: random.permille(600),
            shares: false,
            backups: false,
            publish_every: random.millis(8, 60),
            fault_time: random.millis(6000, 14_000),
        };
        features.shares = random.permille(400);
        features.backups = random.permille(300);
        if features.nodes < 5 && random.permille(ADDED_PERMILLE) {
            features.added = 1;
        }
        features
    }

    /// No fault in the whole run.
    pub fn is_calm(&self) -> bool {
        self.faults.is_empty() && self.lossy_permille == 0 && !self.takeovers
    }
}

/// How many worlds in a thousand have a kind of fault.
fn chance(kind: FaultKind) -> u32 {
    match kind {
        FaultKind::Crash => 500,
        FaultKind::CrashAll => 250,
        FaultKind::Pause | FaultKind::Partition | FaultKind::OneWay | FaultKind::Reset => 350,
        FaultKind::SlowDisk | FaultKind::CutClient => 300,
        FaultKind::Duty => 200,
        FaultKind::Wipe => 120,
        FaultKind::Decay | FaultKind::Astray => 200,
        FaultKind::DiskError | FaultKind::DiskFull => 200,
    }
}
