//! What the operating system grants the node: open files, memory, sockets, and what its systemd unit says.
//!
//! Owns: reading limits of the node's process, or of this one where the node does not run. Does not: change any.
//! Invariants: a limit is compared with what the configuration asks for, never with a number of somebody's taste.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quorate_server::config::Config;
use quorate_server::limits::{DEPARTURE_MAX, LISTEN_BACKLOG, STOP_TIMEOUT};

use super::Host;
use super::finding::{Finding, Severity};
use super::process::{self, Process};
use crate::table::bytes;

/// Files that a node opens beside the connections of clients: log, checkpoints, links to peers, admin requests.
const FILES_OWN: u64 = 512;

/// Memory of a node without clients and without its cache of bodies.
const MEMORY_OWN_BYTES: u64 = 128 * 1024 * 1024;

/// Memory of an idle connection; measured, see docs/benchmarks.md.
const MEMORY_CONNECTION_BYTES: u64 = 7 * 1024;

/// Swapped memory below this is what a node does not use anyway.
const SWAPPED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the operating system grants.
#[derive(Clone, Debug, Default)]
pub struct ResourceFacts {
    /// The process that was looked at: the node, or `None` for the doctor itself.
    pub node: Option<Process>,
    /// Connections of clients that the configuration allows, over all listeners.
    pub connections_max: u64,
    /// Limit of open files.
    pub files_max: Option<u64>,
    /// Largest backlog that the system grants.
    pub somaxconn: Option<u64>,
    /// Memory of the machine, or less where a control group or the configuration says so.
    pub memory_bytes: Option<u64>,
    /// Configured cache of bodies.
    pub body_cache_bytes: u64,
    /// Memory of the node that was swapped out.
    pub swapped_bytes: Option<u64>,
    /// Ports for outgoing connections, and those that wait for their end.
    pub outgoing: Option<Outgoing>,
    /// How long a clean stop may take.
    pub stop: Duration,
    /// The unit of systemd that the node runs in.
    pub unit: Option<Unit>,
}

/// Ports for outgoing connections.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// How many there are.
    pub ports: u64,
    /// Connections in TIME-WAIT on this machine.
    pub time_wait: u64,
}

/// What a systemd unit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// How long a stop may take; `None` for ever, or unknown.
    pub stop_timeout: Option<Duration>,
    /// Whether it is started again when it fails.
    pub restarts: bool,
}

/// Looks at the process of the node, or at this one.
pub fn gather(config: &Config, node: Option<Process>, host: &dyn Host) -> ResourceFacts {
    let pid = node.as_ref().map(|process| process.pid);
    let looked_at = pid.unwrap_or_else(std::process::id);
    let connections = config.listeners.iter().map(|listener| listener.limits.connections_max as u64);
    ResourceFacts {
        connections_max: connections.sum(),
        files_max: host.files_max(looked_at),
        somaxconn: number("/proc/sys/net/core/somaxconn"),
        memory_bytes: [config.limits.memory_bytes, memory_bytes(looked_at)].into_iter().flatten().min(),
        body_cache_bytes: config.storage.body_cache_bytes,
        swapped_bytes: pid.and_then(process::swapped_bytes),
        outgoing: outgoing(),
        stop: config.node.stop_grace.saturating_add(DEPARTURE_MAX).saturating_add(STOP_TIMEOUT),
        unit: pid.and_then(unit),
        node,
    }
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The least of the machine's memory and of the limits of all control groups above the process.
fn memory_bytes(pid: u32) -> Option<u64> {
    let machine = process::kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| {
        let (root, file, path) = match line.splitn(3, ':').collect::<Vec<_>>().as_slice() {
            [_, "", path] => ("/sys/fs/cgroup", "memory.max", (*path).to_owned()),
            [_, "memory", path] => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", (*path).to_owned()),
            _ => return Vec::new(),
        };
        let above = Path::new(&path).ancestors().map(|group| group.to_string_lossy().into_owned());
        above.filter_map(|group| number(&format!("{root}{}/{file}", group.trim_end_matches('/')))).collect()
    });
    limits.chain([machine]).min()
}

fn outgoing() -> Option<Outgoing> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut range = range.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (first, last) = (range.next()?, range.next()?);
    let sockets = fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = sockets.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "tw");
    Some(Outgoing { ports: last.saturating_sub(first) + 1, time_wait: words.nth(1)?.parse().ok()? })
}

/// The unit of a process, when systemd runs this machine.
fn unit(pid: u32) -> Option<Unit> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let name = groups.lines().find_map(unit_name)?;
    let shown = Command::new("systemctl")
        .args(["show", "--property=TimeoutStopUSec,Restart", "--", &name])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(parse_unit(&name, &String::from_utf8_lossy(&shown.stdout)))
}

fn unit_name(line: &str) -> Option<String> {
    let last = line.rsplit('/').next()?;
    last.ends_with(".service").then(|| last.to_owned())
}

fn parse_unit(name: &str, shown: &str) -> Unit {
    let value = |key: &str| shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Unit {
        name: name.to_owned(),
        stop_timeout: value("TimeoutStopUSec").and_then(span),
        restarts: value("Restart") != Some("no"),
    }
}

/// A time as systemd prints it: `1min 30s`.
fn span(text: &str) -> Option<Duration> {
    text.split_whitespace().try_fold(Duration::ZERO, |sum, word| {
        let (number, unit) = word.split_at(word.find(|c: char| c.is_ascii_alphabetic())?);
        let number: f64 = number.parse().ok()?;
        let seconds = match unit {
            "us" => 0.000_001,
            "ms" => 0.001,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        Some(sum + Duration::try_from_secs_f64(number * seconds).ok()?)
    })
}

/// Judges what is granted.
pub fn check(facts: &ResourceFacts) -> Vec<Finding> {
    let found = [files(facts), backlog(facts), memory(facts), swapped(facts), ports(facts)];
    found
        .into_iter()
        .flatten()
        .chain(facts.unit.iter().flat_map(|unit| check_unit(unit, facts.stop)))
        .collect()
}

fn files(facts: &ResourceFacts) -> Option<Finding> {
    let (granted, needed) = (facts.files_max?, facts.connections_max.saturating_add(FILES_OWN));
    if granted >= needed {
        return None;
    }
    let (place, hint) = match (&facts.unit, &facts.node) {
        (Some(unit), _) => (unit.name.clone(), format!("LimitNOFILE={needed} in the unit")),
        (None, Some(node)) => (
            format!("process {}", node.pid),
            format!(
                "start the node with a limit of at least {needed}: ulimit -n, or LimitNOFILE in a systemd unit"
            ),
        ),
        (None, None) => (
            "this shell".to_owned(),
            format!("ulimit -n {needed} before the node is started here, or LimitNOFILE in a systemd unit"),
        ),
    };
    let left = granted.saturating_sub(FILES_OWN);
    let message = format!(
        "{granted} files may be open; that is enough for {left} of the {} connections that the listeners allow",
        facts.connections_max
    );
    let severity = if granted < FILES_OWN { Severity::Error } else { Severity::Warning };
    let hint = format!("{hint}; or lower connections_max of the listeners");
    Some(Finding::error("files_limit_low", place, message, hint).with(severity))
}

fn backlog(facts: &ResourceFacts) -> Option<Finding> {
    let asked = u64::from(LISTEN_BACKLOG);
    let granted = facts.somaxconn.filter(|granted| *granted < asked)?;
    Some(Finding::warning(
        "backlog_limit_low",
        "net.core.somaxconn",
        format!("{granted} connections may wait to be accepted, and the node asks for {asked}"),
        format!("sysctl -w net.core.somaxconn={asked}"),
    ))
}

fn memory(facts: &ResourceFacts) -> Option<Finding> {
    let granted = facts.memory_bytes?;
    // The cache has its share of what there is, whatever is configured.
    let least = MEMORY_OWN_BYTES.saturating_add(facts.body_cache_bytes.min(granted / 8));
    let most = least.saturating_add(facts.connections_max.saturating_mul(MEMORY_CONNECTION_BYTES));
    let (severity, needed, when) = match granted {
        granted if granted < least => (Severity::Error, least, "without any client"),
        granted if granted < most => {
            (Severity::Warning, most, "with all connections that the listeners allow")
        }
        _ => return None,
    };
    Some(
        Finding::error(
            "memory_low",
            "memory",
            format!("the node may have {}, and needs about {} {when}", bytes(granted), bytes(needed)),
            "raise the limit of the control group (MemoryMax=), take a larger machine, or lower storage.body_cache_bytes \
             and connections_max",
        )
        .with(severity),
    )
}

fn swapped(facts: &ResourceFacts) -> Option<Finding> {
    let swapped = facts.swapped_bytes.filter(|swapped| *swapped > SWAPPED_BYTES_MAX)?;
    Some(Finding::warning(
        "memory_swapped",
        "memory",
        format!("{} of the node are swapped out: a lease may end while they are read back", bytes(swapped)),
        "free memory; sysctl -w vm.swappiness=1, or MemorySwapMax=0 in the systemd unit",
    ))
}

fn ports(facts: &ResourceFacts) -> Option<Finding> {
    let Outgoing { ports, time_wait } = facts.outgoing?;
    (time_wait.saturating_mul(5) > ports.saturating_mul(4)).then(|| {
        Finding::warning(
            "ports_used_up",
            "net.ipv4.ip_local_port_range",
            format!("{time_wait} connections are in TIME-WAIT, and outgoing ones have {ports} ports"),
            "find who opens and closes so many connections; widen the range",
        )
    })
}

fn check_unit(unit: &Unit, stop: Duration) -> Vec<Finding> {
    let mut found = Vec::new();
    if unit.stop_timeout.is_some_and(|timeout| timeout < stop) {
        found.push(Finding::warning(
            "unit_stop_timeout",
            &unit.name,
            format!(
                "systemd kills the node before a clean stop, which may take {} s, is done",
                stop.as_secs()
            ),
            format!("TimeoutStopSec={} in the unit", stop.as_secs().saturating_add(10)),
        ));
    }
    if !unit.restarts {
        found.push(Finding::warning(
            "unit_no_restart",
            &unit.name,
            "a node that ends by itself is not started again",
            "Restart=on-failure in the unit",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn check_one(change: impl FnOnce(&mut ResourceFacts), expected: &[(&str, Severity)]) {
        let mut facts = ResourceFacts {
            connections_max: 10_000,
            stop: Duration::from_secs(35),
            files_max: Some(10_512),
            somaxconn: Some(4096),
            memory_bytes: Some(1024 * MIB),
            body_cache_bytes: 64 * MIB,
            outgoing: Some(Outgoing { ports: 28_232, time_wait: 100 }),
            ..ResourceFacts::default()
        };
        change(&mut facts);
        let found: Vec<_> = check(&facts).iter().map(|finding| (finding.code, finding.severity)).collect();
        assert_eq!(found, expected, "{facts:?}");
    }

    #[test]
    fn each_flaw_has_its_code() {
        use Severity::{Error, Warning};
        let unit = |stop, restarts| Some(Unit { name: "q.service".into(), stop_timeout: stop, restarts });
        check_one(|_| (), &[]);
        check_one(|facts| facts.files_max = Some(10_511), &[("files_limit_low", Warning)]);
        check_one(|facts| facts.files_max = Some(256), &[("files_limit_low", Error)]);
        check_one(|facts| facts.files_max = None, &[]);
        check_one(|facts| facts.somaxconn = Some(128), &[("backlog_limit_low", Warning)]);
        check_one(|facts| facts.memory_bytes = Some(146 * MIB), &[("memory_low", Error)]);
        check_one(|facts| facts.memory_bytes = Some(147 * MIB), &[("memory_low", Warning)]);
        check_one(|facts| facts.memory_bytes = Some(400 * MIB), &[]);
        check_one(|facts| facts.swapped_bytes = Some(65 * MIB), &[("memory_swapped", Warning)]);
        check_one(
            |facts| facts.outgoing = Some(Outgoing { ports: 1000, time_wait: 801 }),
            &[("ports_used_up", Warning)],
        );
        check_one(
            |facts| facts.unit = unit(Some(Duration::from_secs(34)), true),
            &[("unit_stop_timeout", Warning)],
        );
        check_one(|facts| facts.unit = unit(None, false), &[("unit_no_restart", Warning)]);
        check_one(|facts| facts.unit = unit(Some(Duration::from_secs(35)), true), &[]);
    }

    #[test]
    fn what_systemd_prints_is_understood() {
        assert_eq!(span("1min 30s"), Some(Duration::from_secs(90)));
        assert_eq!(span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(span("infinity"), None);
        let unit = parse_unit("quorate.service", "TimeoutStopUSec=5s\nRestart=on-failure\n");
        assert_eq!((unit.stop_timeout, unit.restarts), (Some(Duration::from_secs(5)), true));
        assert_eq!(unit_name("0::/system.slice/quorate.service").as_deref(), Some("quorate.service"));
        assert_eq!(unit_name("0::/user.slice"), None);
    }
}
