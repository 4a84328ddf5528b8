//! Processes of this machine, as `/proc` shows them: which one is the node, and who listens where.
//!
//! Owns: reading `/proc`. Does not: judge. Where a process of another user may not be looked at, it is unknown.
//! Invariants: nothing here takes a lock, binds a port or signals a process.
//! Limits: PROC_BYTES_MAX for each file, DOCTOR_FILES_OF_PROCESS_MAX.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::limits::DOCTOR_FILES_OF_PROCESS_MAX;

/// A process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Name of its program.
    pub name: String,
    /// It sees other files than this program does: a container. What it has open cannot be found by name then.
    pub is_elsewhere: bool,
}

/// A socket of TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Its own address.
    pub local: SocketAddr,
    /// It listens.
    pub listens: bool,
    inode: u64,
}

/// All processes that may be looked at, with what they have open.
#[derive(Clone, Default, Debug)]
pub struct Processes {
    /// Process, and device and inode of each open file; sockets have device 0.
    open: Vec<(Process, Vec<Open>)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Open {
    File(PathBuf),
    Socket(u64),
}

impl Processes {
    /// Looks at all of them.
    pub fn look() -> Processes {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let files = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let own_files = files("self");
        let process = |pid: u32| {
            let is_elsewhere = files(&pid.to_string()) != own_files;
            Some(Process { pid, name: name_of(pid)?, is_elsewhere })
        };
        let open = pids.filter_map(|pid| Some((process(pid)?, open_files(pid)?)));
        Processes { open: open.collect() }
    }

    /// The node that runs on this data directory: the one that holds its lock.
    pub fn node_of(&self, data_dir: &Path) -> Option<Process> {
        let lock = fs::canonicalize(data_dir.join("lock")).ok()?;
        let holds =
            |files: &[Open]| files.iter().any(|open| matches!(open, Open::File(path) if *path == lock));
        self.open.iter().find(|(_, files)| holds(files)).map(|(process, _)| process.clone())
    }

    /// Who has a socket.
    pub fn holder_of(&self, socket: &Socket) -> Option<Process> {
        let holds = |files: &[Open]| files.contains(&Open::Socket(socket.inode));
        self.open.iter().find(|(_, files)| holds(files)).map(|(process, _)| process.clone())
    }
}

fn name_of(pid: u32) -> Option<String> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = program.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
    let name = name.map(|name| name.trim_end_matches(" (deleted)").to_owned());
    name.or_else(|| Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned()))
}

fn open_files(pid: u32) -> Option<Vec<Open>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = entries.flatten().take(DOCTOR_FILES_OF_PROCESS_MAX);
    let open = links.filter_map(|entry| fs::read_link(entry.path()).ok()).filter_map(|target| {
        let text = target.to_str()?;
        match text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            Some(inode) => inode.parse().ok().map(Open::Socket),
            None => text.starts_with('/').then(|| Open::File(target.clone())),
        }
    });
    Some(open.collect())
}

/// All TCP sockets of this machine (of this network namespace).
pub fn sockets() -> Vec<Socket> {
    let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let (four, six) = (text("/proc/net/tcp"), text("/proc/net/tcp6"));
    four.lines().chain(six.lines()).filter_map(socket).collect()
}

/// A line of `/proc/net/tcp` or `tcp6`.
fn socket(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    let inode = words.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Socket { local: SocketAddr::new(ip(address)?, port), listens: state == "0A", inode })
}

/// An address as the kernel prints it: words of 32 bits in the order of this machine's bytes.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

impl Socket {
    /// Whether nobody else can listen on `address` beside it.
    pub fn excludes(&self, address: SocketAddr) -> bool {
        let (own, wanted) = (self.local.ip().to_canonical(), address.ip().to_canonical());
        self.local.port() == address.port()
            && (own == wanted || own.is_unspecified() || wanted.is_unspecified())
    }
}

/// The limit of open files (soft) of a process.
pub fn files_limit(pid: u32) -> Option<u64> {
    parse_files_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

fn parse_files_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Bytes of a process that were swapped out.
pub fn swapped_bytes(pid: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmSwap:")
}

/// A line such as `MemTotal:  123 kB`, in bytes.
pub fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn lines_of_the_kernel_are_parsed() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 98765 1 0 0 10 0";
        let parsed = socket(line).unwrap();
        assert_eq!((parsed.listens, parsed.inode), (true, 98_765));
        if cfg!(target_endian = "little") {
            assert_eq!(parsed.local, "127.0.0.1:8080".parse().unwrap());
            assert_eq!(ip("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        }
        assert_eq!(socket("  sl  local_address rem_address   st tx_queue"), None);
        assert_eq!(kilobytes("VmRSS:\t  12 kB\nVmSwap:\t   3 kB\n", "VmSwap:"), Some(3072));
        let limits = "Limit Soft Limit Hard Limit Units\nMax open files            1024     524288   files\n";
        assert_eq!(parse_files_limit(limits), Some(1024));
    }

    #[test]
    fn sockets_exclude_each_other_by_port_and_address() {
        let held = |local: &str| Socket { local: local.parse().unwrap(), listens: true, inode: 1 };
        for (own, wanted, excludes) in [
            ("127.0.0.1:1883", "127.0.0.1:1883", true),
            ("127.0.0.1:1883", "127.0.0.2:1883", false),
            ("127.0.0.1:1883", "127.0.0.1:1884", false),
            ("0.0.0.0:1883", "127.0.0.1:1883", true),
            ("[::]:1883", "127.0.0.1:1883", true),
            ("[::ffff:127.0.0.1]:1883", "127.0.0.1:1883", true),
            ("127.0.0.1:1883", "0.0.0.0:1883", true),
        ] {
            assert_eq!(held(own).excludes(wanted.parse().unwrap()), excludes, "{own} {wanted}");
        }
    }

    #[test]
    fn this_process_is_found_by_its_socket_and_by_its_lock() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let _lock = fs::File::create(dir.path().join("lock")).unwrap();
        let processes = Processes::look();
        let own = std::process::id();
        let socket = sockets().into_iter().find(|socket| socket.listens && socket.excludes(address)).unwrap();
        assert_eq!(processes.holder_of(&socket).map(|process| process.pid), Some(own));
        assert_eq!(processes.node_of(dir.path()).map(|process| process.pid), Some(own));
        assert!(files_limit(own).unwrap() > 0);
    }
}
