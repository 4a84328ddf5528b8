//! The list of all metrics: name, kind, labels and meaning of each, in the order of the document.
//!
//! Owns: the only place where a metric has its name. `/metrics` takes HELP and TYPE from here, and the tables of
//! docs/metrics.md are written from here. Does not: count.
//! Invariants: a name is there once; a counter ends with `_total`, and what has a unit names it; labels are closed lists
//! or bounded by the configuration. A test holds all of that, and that the document says the same.

/// What kind of metric it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// As the text format says it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says: its HELP, and its row in the document.
    pub help: &'static str,
}

/// Metrics that belong together: one table of the document.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Heading in the document.
    pub title: &'static str,
    /// Its metrics.
    pub metrics: &'static [Metric],
}

macro_rules! catalog {
    ($($title:literal { $($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )+)+

        /// All metrics.
        pub const SECTIONS: &[Section] = &[$(Section { title: $title, metrics: &[$($constant),+] }),+];
    };
}

catalog! {
    "Clients" {
        CONNECTIONS = Gauge "quorate_connections" []
            "client connections open now: accepted less closed";
        LISTENER_CONNECTIONS = Gauge "quorate_listener_connections" ["listener", "kind"]
            "the same by listener; those in a handshake of TLS or WebSocket do not count yet";
        CONNECTIONS_ACCEPTED = Counter "quorate_connections_accepted_total" []
            "client connections that got as far as MQTT: after the handshakes of TLS and WebSocket";
        CONNECTIONS_CLOSED = Counter "quorate_connections_closed_total" []
            "client connections ended, whatever the cause, of those accepted";
        DISCONNECTS = Counter "quorate_disconnects_total" ["cause"]
            "the same by cause, see below";
        CONNECTIONS_REFUSED = Counter "quorate_connections_refused_total" ["reason"]
            "connections closed as they came, each with its reason";
        HANDSHAKES_FAILED = Counter "quorate_handshakes_failed_total" ["reason"]
            "connections that were let in and did not get as far as MQTT";
        CONNECTS = Counter "quorate_connects_total" []
            "connections whose CONNECT was accepted";
        CONNECTS_REFUSED = Counter "quorate_connects_refused_total" ["reason"]
            "connections whose CONNECT was refused, by reason code";
        CLIENT_BYTES_IN = Counter "quorate_client_in_bytes_total" []
            "bytes read from clients: MQTT without TLS and WebSocket frames";
        CLIENT_BYTES_OUT = Counter "quorate_client_out_bytes_total" []
            "bytes written to clients, likewise";
        PACKETS_IN = Counter "quorate_packets_in_total" []
            "MQTT packets of any type read from clients";
        PACKETS_OUT = Counter "quorate_packets_out_total" []
            "MQTT packets of any type written to clients";
        CERTIFICATE_RELOADS = Counter "quorate_certificate_reloads_total" ["result"]
            "times that a listener found changed certificates: `replaced`, or `kept` when the new ones cannot be used";
        CERTIFICATE_EXPIRY = Gauge "quorate_certificate_expiry_timestamp_seconds" ["listener"]
            "when the first certificate of the chain in force expires, in seconds since 1970; `peer` is that of the links between nodes";
    }
    "Publishes and deliveries" {
        PUBLISHES_IN = Counter "quorate_publishes_in_total" []
            "PUBLISH packets read from clients";
        PUBLISHES_OUT = Counter "quorate_publishes_out_total" []
            "PUBLISH packets written to clients";
        PUBLISH_BYTES_IN = Counter "quorate_publish_in_bytes_total" []
            "bytes of the payloads read";
        PUBLISH_BYTES_OUT = Counter "quorate_publish_out_bytes_total" []
            "bytes of the payloads written";
        PUBLISHES_DURABLE = Counter "quorate_publishes_durable_total" []
            "publishes that went into at least one partition: QoS 1 with a durable match, QoS 2 of durable sessions, and retained ones. One for each publish";
        PUBLISHES_APPLIED = Counter "quorate_publishes_applied_total" []
            "answers of partitions to publishes, refusals included. One for each partition, so it grows faster than the one above when a publish goes to several";
        PUBLISH_TIME = Histogram "quorate_publish_seconds" []
            "from reading such a publish until all its partitions have applied it, just before its acknowledgement is written";
        ACKNOWLEDGEMENTS = Counter "quorate_acknowledgements_total" []
            "acknowledgements of clients for messages of durable sessions";
        DELIVERIES = Counter "quorate_deliveries_total" ["path"]
            "messages handed to connections of this node";
        MESSAGES_DROPPED = Counter "quorate_messages_dropped_total" ["reason"]
            "messages dropped, each with its reason";
        FORWARDS_OUT = Counter "quorate_forwards_out_total" []
            "direct messages queued for other nodes, one for each node";
        FORWARDS_IN = Counter "quorate_forwards_in_total" []
            "direct messages that came from other nodes";
    }
    "Log and worker" {
        LOG_SYNCS = Counter "quorate_log_syncs_total" []
            "syncs of the log, those of new segments and carry-over included";
        LOG_BYTES = Counter "quorate_log_bytes_total" []
            "bytes appended to the log";
        LOG_RECORDS = Counter "quorate_log_records_total" []
            "records appended to the log";
        LOG_SIZE = Gauge "quorate_log_size_bytes" []
            "size of all segments of the log";
        LOG_SEGMENTS_FREED = Counter "quorate_log_segments_freed_total" []
            "segments carried over and freed";
        LOG_SYNC_TIME = Histogram "quorate_log_sync_seconds" []
            "one append with its sync, as the log writer sees it, a wait for a full disk included";
        LOG_FSYNC_TIME = Histogram "quorate_log_fsync_seconds" []
            "the sync alone: what the disk takes to make it durable";
        LOG_WAITS_FOR_SPACE = Gauge "quorate_log_waits_for_space" []
            "1: the disk is full, and an append waits until there is room";
        DISK_LOW = Gauge "quorate_disk_low" []
            "1: fewer than `storage.disk_soft_bytes` are free, and no message of a client is taken in";
        MEMORY_BUDGET = Gauge "quorate_memory_budget_bytes" []
            "memory that the node keeps within: `limits.memory_bytes`, or what was found";
        MEMORY_USED = Gauge "quorate_memory_used_bytes" []
            "what it takes of that";
        MEMORY_PRESSURE = Gauge "quorate_memory_pressure" []
            "1: more than 80 % is in use, and clients that publish are read slowly; 2: more than 90 %, and CONNECT and messages are refused";
        DAMAGED_FOLDERS = Gauge "quorate_damaged_folders" []
            "folders with damaged state that the data folder had when the node started: look at them, then remove them";
        DAMAGE_LEFT = Gauge "quorate_damage_left" []
            "places on the disk that the last walk over it found damaged and nobody could mend";
        DAMAGE_FOUND = Counter "quorate_damage_found_total" []
            "damaged records and bodies that a read or a walk met";
        DAMAGE_REPAIRED = Counter "quorate_damage_repaired_total" []
            "of these, what was written again with the payload of another node";
        SCRUB_BYTES = Counter "quorate_scrub_bytes_total" []
            "bytes that walks over the disk have checked";
        SCRUB_PASSES = Counter "quorate_scrub_passes_total" []
            "walks over the whole disk that came to their end";
        WORKER_TURNS = Counter "quorate_worker_turns_total" []
            "turns of the worker";
        WORKER_TURN_TIME = Histogram "quorate_worker_turn_seconds" []
            "one turn of the worker, without the wait before it";
        CHECKPOINTS = Counter "quorate_checkpoints_total" []
            "checkpoints written";
        SNAPSHOTS_SENT = Counter "quorate_snapshots_sent_total" []
            "snapshots that a peer has confirmed";
        SNAPSHOTS_INSTALLED = Counter "quorate_snapshots_installed_total" []
            "snapshots put in force here";
        BACKUPS_TAKEN = Counter "quorate_backups_taken_total" []
            "backups of the cluster that this node has sent to their end";
        BACKUPS_FAILED = Counter "quorate_backups_failed_total" []
            "backups of the cluster that broke off while this node sent them";
        BACKUP_LAST = Gauge "quorate_backup_last_timestamp_seconds" []
            "when this node last sent a backup to its end, in seconds since 1970; 0: not since it started";
    }
    "Cluster" {
        NODE_INFO = Gauge "quorate_node_info" ["cluster", "node", "node_id", "zone"]
            "1; its labels say which node of which cluster this is";
        WORKER_ANSWERS = Gauge "quorate_worker_answers" []
            "1: the worker answered this request in time. 0: the figures below up to the sessions are missing";
        READY = Gauge "quorate_ready" []
            "1: the node may take traffic, as `/readyz` says";
        READY_CLAUSE = Gauge "quorate_ready_clause" ["clause"]
            "1: this clause of readiness holds";
        DRAINING = Gauge "quorate_draining" []
            "1: the node is being drained";
        LEASE_FENCED = Gauge "quorate_lease_fenced" []
            "1: this node holds no lease and acknowledges nothing";
        LEASE_LEFT = Gauge "quorate_lease_left_seconds" []
            "how long the lease holds without being renewed; 0 without a lease";
        LEASE_LAPSES = Counter "quorate_lease_lapses_total" []
            "times that the lease ran out before it was renewed; counted when it is back, or when the node takes a new incarnation";
        INCARNATION = Gauge "quorate_incarnation" []
            "incarnation of this node";
        CLUSTER_NODES = Gauge "quorate_cluster_nodes" ["state"]
            "nodes of the cluster as control knows them here: `live`, `down`";
        PLACEMENT_VIOLATIONS = Gauge "quorate_placement_violations" []
            "groups led here whose voters are fewer, on lost nodes, or in fewer zones than the live nodes allow";
        PEERS_UP = Gauge "quorate_peers_up" []
            "peers with a raft link";
        PEER_MESSAGES_LOST = Counter "quorate_peer_messages_lost_total" []
            "messages for the raft link that were not queued: link down, queue full, or above a frame. Streams and Raft send again";
        STREAM_BYTES = Gauge "quorate_stream_bytes" []
            "commands of this node that wait to be applied, over all groups";
        GROUPS_LED = Gauge "quorate_groups_led" []
            "groups that this node leads";
        ELECTIONS = Counter "quorate_elections_total" []
            "times that this node was elected leader of a group because a leader was missed, not because the one before handed over";
        GROUPS_LEADERLESS = Gauge "quorate_groups_leaderless" []
            "groups with a replica here and no leader known here";
        GROUP_LEADER = Gauge "quorate_group_leader" ["group"]
            "1: this node leads the group. Summed over all nodes, 0 is a group without leader";
        GROUP_REPLICATION_LAG = Gauge "quorate_group_replication_lag_entries" ["group"]
            "on the leader: committed entries that the slowest replica does not have yet";
        GROUP_APPLIED = Gauge "quorate_group_applied_index" ["group"]
            "applied log index of the replica here";
        GROUP_COMMITTED = Gauge "quorate_group_committed_index" ["group"]
            "committed log index, as known here";
        GROUP_CHECKPOINT = Gauge "quorate_group_checkpoint_index" ["group"]
            "log index of the durable checkpoint";
        GROUP_TERM = Gauge "quorate_group_term" ["group"]
            "term";
    }
    "Sessions" {
        SESSIONS = Gauge "quorate_sessions" []
            "sessions, connected or not; transient ones while they are connected";
        SUBSCRIPTIONS = Gauge "quorate_subscriptions" []
            "subscriptions of durable sessions";
        RETAINED_MESSAGES = Gauge "quorate_retained_messages" []
            "topics with a retained message";
        QUEUED_MESSAGES = Gauge "quorate_queued_messages" []
            "messages queued and not in flight";
        QUEUED_BYTES = Gauge "quorate_queued_bytes" []
            "bytes of these; a message queued for k sessions counts k times";
        INFLIGHT_MESSAGES = Gauge "quorate_inflight_messages" []
            "messages in flight, or held for a session that is away";
    }
    "Process and disk" {
        BUILD_INFO = Gauge "quorate_build_info" ["version"]
            "1; its label says which program runs";
        SPANS_EXPORTED = Counter "quorate_trace_spans_exported_total" []
            "spans of traces that the collector has taken";
        SPANS_DROPPED = Counter "quorate_trace_spans_dropped_total" ["reason"]
            "spans dropped: `queue_full`, or `not_exported` when the collector did not take them";
        WALL_TIME = Gauge "quorate_wall_time_seconds" []
            "this machine's clock when it was asked, in seconds since 1970";
        DISK_FREE = Gauge "quorate_disk_free_bytes" []
            "free in the file system of the data directory";
        DISK_SIZE = Gauge "quorate_disk_size_bytes" []
            "size of that file system";
        DATA_BYTES = Gauge "quorate_data_bytes" []
            "what the files of the data directory take";
        RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" []
            "resident memory";
        MEMORY_LIMIT = Gauge "quorate_memory_limit_bytes" []
            "memory that the process may take: the limit of its control group, or else all of the machine";
        OPEN_FILES = Gauge "process_open_fds" []
            "open files and sockets";
        OPEN_FILES_MAX = Gauge "process_max_fds" []
            "most of these that the system allows";
        CPU_TIME = Counter "process_cpu_seconds_total" []
            "processor time of all threads";
        START_TIME = Gauge "process_start_time_seconds" []
            "when the process began, in seconds since 1970";
    }
}

/// All metrics, in order.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|section| section.metrics)
}

/// The table of a section as the document has it.
pub fn table(section: &Section) -> String {
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in section.metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = [format!("`{}`", metric.name), metric.kind.name().to_owned(), labels.join(", ")];
        table.push_str(&format!("| {} | {} |\n", row.join(" | "), metric.help));
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    const UNITS: [&str; 4] = ["_seconds", "_bytes", "_entries", "_index"];

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        let mut names = BTreeSet::new();
        for metric in all() {
            let Metric { name, kind, labels, help } = *metric;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("quorate_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            if kind == Kind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert!(!help.is_empty() && !help.contains(['\n', '\\', '|']), "{name}");
            let told = ["seconds since 1970", "bytes of", "size of", "file system", "how long"];
            if told.iter().any(|words| help.contains(words)) && kind == Kind::Gauge {
                assert!(
                    UNITS.iter().any(|unit| name.contains(unit)),
                    "{name} has a unit that it does not name"
                );
            }
            for label in labels {
                assert!(!["client", "client_id", "topic", "address"].contains(label), "{name}{{{label}}}");
            }
        }
    }

    fn document() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md")
    }

    /// The document with each table written anew: below the heading of its section.
    fn renewed(text: &str) -> String {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for section in SECTIONS {
            let heading = format!("## {}", section.title);
            let at = lines.iter().position(|line| *line == heading);
            let at = at.unwrap_or_else(|| panic!("docs/metrics.md has no heading {heading:?}"));
            let head = "| metric | type | labels | meaning |";
            let begin =
                at + lines[at..].iter().position(|line| line == head).expect("a table below the heading");
            let rows = lines[begin..].iter().take_while(|line| line.starts_with('|')).count();
            lines.splice(begin..begin + rows, table(section).lines().map(str::to_owned));
        }
        lines.join("\n") + "\n"
    }

    #[test]
    fn document_has_every_metric_as_it_is() {
        let text = std::fs::read_to_string(document()).unwrap();
        let renewed = renewed(&text);
        for (is, should) in text.lines().zip(renewed.lines()) {
            assert_eq!(is, should, "see docs/metrics.md, \"How this page is kept\"");
        }
        assert_eq!(text, renewed);
        for row in text.lines().filter(|line| line.starts_with("| `quorate_")) {
            let name = row.trim_start_matches("| `").split(['`', '{']).next().unwrap();
            assert!(
                all().any(|metric| metric.name == name),
                "docs/metrics.md names {name}, which is no metric"
            );
        }
    }

    #[test]
    #[ignore = "writes docs/metrics.md"]
    fn write_document() {
        let text = std::fs::read_to_string(document()).unwrap();
        std::fs::write(document(), renewed(&text)).unwrap();
    }
}
