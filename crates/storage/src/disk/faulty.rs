//! A disk that fails as told: errors, lost syncs, flipped bits, misdirected writes.
//!
//! Owns: the list of armed faults and the count of those that happened. Does not: store anything.
//! Invariants: the same faults, rates and seed on the same operations fail at the same places.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskUsage};
use crate::random::Random;

/// An operation that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Creating a file.
    Create,
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Renaming a file.
    Rename,
    /// Unlinking a file.
    Unlink,
    /// Syncing a directory.
    SyncDirectory,
}

/// What happens instead of the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// An input/output error. A write does nothing; a sync loses what it should have made durable.
    InputOutput,
    /// No space left.
    NoSpace,
    /// The operation is done with one bit of its bytes flipped (reads and writes only).
    FlipBit {
        /// Byte in the operation's bytes, modulo their number.
        byte: u64,
        /// Bit, modulo 8.
        bit: u8,
    },
    /// Only this many bytes are written, then an input/output error is reported (writes only).
    ShortWrite(u64),
    /// The bytes land this much further on and success is reported (writes only).
    Misdirect(u64),
    /// The bytes land here in the file, over what is there, and success is reported (writes only).
    MisdirectTo(u64),
    /// The bytes land nowhere and success is reported (writes only).
    Lose,
}

/// A fault that waits for its operation.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Operation to fail.
    pub operation: Operation,
    /// Only on paths that contain this.
    pub path_contains: String,
    /// Matching operations that pass first.
    pub after: u64,
    /// How many times it happens.
    pub times: u64,
    /// What happens.
    pub kind: FaultKind,
}

/// Chances of random faults, one in so many operations; 0 for never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultRates {
    /// Reads that fail.
    pub read_error_one_in: u64,
    /// Reads that return one flipped bit.
    pub read_flip_one_in: u64,
    /// Writes that fail.
    pub write_error_one_in: u64,
    /// Syncs that fail.
    pub sync_error_one_in: u64,
    /// Creations that find no space.
    pub create_no_space_one_in: u64,
}

/// Wraps a disk. Clones share the faults.
#[derive(Clone)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    faults: Arc<Mutex<Faults>>,
}

struct Faults {
    armed: Vec<Fault>,
    rates: FaultRates,
    random: Random,
    injected: u64,
}

impl FaultyDisk {
    /// Wraps `inner`; nothing fails until told.
    pub fn new(inner: Arc<dyn Disk>, seed: u64) -> Self {
        let random = Random::new(seed);
        let faults = Faults { armed: Vec::new(), rates: FaultRates::default(), random, injected: 0 };
        Self { inner, faults: Arc::new(Mutex::new(faults)) }
    }

    /// Arms a fault.
    pub fn arm(&self, fault: Fault) {
        self.faults.lock().armed.push(fault);
    }

    /// Sets the chances of random faults.
    pub fn set_rates(&self, rates: FaultRates) {
        self.faults.lock().rates = rates;
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        let mut faults = self.faults.lock();
        faults.armed.clear();
        faults.rates = FaultRates::default();
    }

    /// Faults that happened: a fault run proves that its fault did.
    pub fn injected(&self) -> u64 {
        self.faults.lock().injected
    }

    fn draw(&self, operation: Operation, path: &str) -> Option<FaultKind> {
        self.faults.lock().draw(operation, path)
    }

    /// Fails an operation that has no bytes.
    fn check(&self, operation: Operation, path: &str) -> io::Result<()> {
        self.draw(operation, path).map_or(Ok(()), |kind| Err(kind.error()))
    }
}

impl FaultKind {
    fn error(self) -> io::Error {
        match self {
            Self::NoSpace => io::ErrorKind::StorageFull.into(),
            Self::InputOutput
            | Self::FlipBit { .. }
            | Self::ShortWrite(_)
            | Self::Misdirect(_)
            | Self::MisdirectTo(_)
            | Self::Lose => io::Error::other("injected input/output error"),
        }
    }
}

impl Faults {
    fn draw(&mut self, operation: Operation, path: &str) -> Option<FaultKind> {
        let kind = self.armed_fault(operation, path).or_else(|| self.random_fault(operation));
        self.injected += u64::from(kind.is_some());
        kind
    }

    fn armed_fault(&mut self, operation: Operation, path: &str) -> Option<FaultKind> {
        let matches =
            |fault: &&mut Fault| fault.operation == operation && path.contains(&fault.path_contains);
        for fault in self.armed.iter_mut().filter(|fault| fault.times > 0).filter(matches) {
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times -= 1;
            return Some(fault.kind);
        }
        None
    }

    fn random_fault(&mut self, operation: Operation) -> Option<FaultKind> {
        let rates = self.rates;
        let one_in = match operation {
            Operation::Read if self.random.one_in(rates.read_flip_one_in) => {
                let byte = self.random.next_u64();
                return Some(FaultKind::FlipBit { byte, bit: 1 });
            }
            Operation::Read => rates.read_error_one_in,
            Operation::Write => rates.write_error_one_in,
            Operation::Sync => rates.sync_error_one_in,
            Operation::Create if self.random.one_in(rates.create_no_space_one_in) => {
                return Some(FaultKind::NoSpace);
            }
            Operation::Create | Operation::Rename | Operation::Unlink | Operation::SyncDirectory => 0,
        };
        self.random.one_in(one_in).then_some(FaultKind::InputOutput)
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.check(Operation::Create, path)?;
        let inner = self.inner.create(path, length)?;
        Ok(Arc::new(FaultyFile { inner, disk: self.clone(), path: path.to_string() }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path)?;
        Ok(Arc::new(FaultyFile { inner, disk: self.clone(), path: path.to_string() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check(Operation::Rename, from)?;
        self.inner.rename(from, to)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.check(Operation::Unlink, path)?;
        self.inner.unlink(path)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.inner.create_directory(path)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        self.inner.list(directory)
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        self.check(Operation::SyncDirectory, directory)?;
        self.inner.sync_directory(directory)
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn usage(&self) -> io::Result<DiskUsage> {
        self.inner.usage()
    }
}

struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    disk: FaultyDisk,
    path: String,
}

fn flip(bytes: &mut [u8], byte: u64, bit: u8) {
    let at = byte.checked_rem(bytes.len() as u64).unwrap_or(0);
    if let Some(target) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
        *target ^= 1 << (bit % 8);
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.disk.draw(Operation::Read, &self.path) {
            None => self.inner.read_at(offset, buffer),
            Some(FaultKind::FlipBit { byte, bit }) => {
                let length = self.inner.read_at(offset, buffer)?;
                flip(buffer.get_mut(..length).unwrap_or_default(), byte, bit);
                Ok(length)
            }
            Some(kind) => Err(kind.error()),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.disk.draw(Operation::Write, &self.path) {
            None => self.inner.write_at(offset, bytes),
            Some(FaultKind::FlipBit { byte, bit }) => {
                let mut bytes = bytes.to_vec();
                flip(&mut bytes, byte, bit);
                self.inner.write_at(offset, &bytes)
            }
            Some(FaultKind::Misdirect(further)) => self.inner.write_at(offset + further, bytes),
            Some(FaultKind::MisdirectTo(place)) => self.inner.write_at(place, bytes),
            Some(FaultKind::Lose) => Ok(()),
            Some(FaultKind::ShortWrite(length)) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
                self.inner.write_at(offset, bytes.get(..length).unwrap_or_default())?;
                Err(FaultKind::ShortWrite(0).error())
            }
            Some(kind @ (FaultKind::InputOutput | FaultKind::NoSpace)) => Err(kind.error()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let Some(kind) = self.disk.draw(Operation::Sync, &self.path) else {
            return self.inner.sync_data();
        };
        self.inner.forget_unsynced();
        Err(kind.error())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.inner.truncate(length)
    }

    fn forget_unsynced(&self) {
        self.inner.forget_unsynced();
    }
}
