//! The identity of a node: who it is, on which disk, and how often it has started.
//!
//! Owns: the identity file and the lock on the data directory. Does not: draw identifiers; the caller brings them.
//! Invariants: an incarnation is durable before it is used, and never used twice; a directory that holds anything
//! but has no identity is refused; a damaged identity is that of its copy, if that is whole.
//! Limits: NAME_BYTES_MAX. See: docs/formats/data-directory.md.

use std::io;

use crate::disk::{Disk, is_no_space};
use crate::field::{array, length_u32, u32_at, u64_at};
use crate::limits::NAME_BYTES_MAX;
use crate::small_file::{self, copy_name};

/// Magic of the identity file.
pub const IDENTITY_MAGIC: [u8; 8] = *b"QNODEID\0";

/// Version of its format.
pub const IDENTITY_VERSION: u8 = 1;

const FILE: &str = "identity";

/// Draft of a first start by a program that wrote the file once only.
const OLD_DRAFT: &str = "identity.draft";

const LOCK: &str = "lock";

/// Added to the incarnation of a copy whose file is damaged: a program that does not write the copy may have counted on since.
const INCARNATIONS_UNSEEN: u64 = 1 << 20;

/// Bytes before the names.
const FIXED_BYTES: usize = 56;

/// Longest file: fixed part, two names with their lengths, checksum.
const FILE_BYTES_MAX: usize = FIXED_BYTES + 2 * (4 + NAME_BYTES_MAX) + 4;

/// Who a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Number of the node in its cluster; never reused.
    pub node_id: u64,
    /// Number of its present start.
    pub incarnation: u64,
    /// Drawn at random for this data directory: a wiped disk is another one.
    pub disk_uuid: [u8; 16],
    /// Cluster it belongs to.
    pub cluster_id: String,
    /// Name, as in its certificate.
    pub node_name: String,
}

/// The identity cannot be established. The node must not start.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed.
    #[error("{operation} the identity file")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Another process has the data directory.
    #[error("the data directory is used by another process")]
    Locked,
    /// The file is not what was written.
    #[error("the identity file is corrupt")]
    Corrupt,
    /// There is data but no identity.
    #[error("the data directory holds {found} but no identity file")]
    Missing {
        /// A name that was found.
        found: String,
    },
    /// An identity is to be made where there is one.
    #[error("the data directory has an identity already")]
    Exists,
    /// A name is too long.
    #[error("a name of {bytes} bytes, more than {bytes_max}")]
    NameTooLong {
        /// Length.
        bytes: usize,
        /// Limit.
        bytes_max: usize,
    },
}

impl IdentityError {
    /// Whether the disk has no room: what was attempted has not happened and may be tried again.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io { operation, source }
}

/// Keeps other processes out of a data directory as long as it lives.
pub struct DirectoryLock {
    _lock: Box<dyn Send + Sync>,
}

/// Takes the lock of the data directory; the first thing a node does.
pub fn lock(disk: &dyn Disk) -> Result<DirectoryLock, IdentityError> {
    match disk.lock(LOCK) {
        Ok(lock) => Ok(DirectoryLock { _lock: lock }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(IdentityError::Locked),
        Err(error) => Err(failed("lock")(error)),
    }
}

impl Identity {
    /// Reads the identity; `None` for an empty data directory.
    pub fn load(disk: &dyn Disk) -> Result<Option<Self>, IdentityError> {
        let read = |name: &str| small_file::read(disk, name, FILE_BYTES_MAX + 1).map_err(failed("read"));
        let (file, copy) = (read(FILE)?, read(&copy_name(FILE))?);
        if let Some(identity) = file.as_deref().and_then(Self::decode) {
            return Ok(Some(identity));
        }
        if let Some(copied) = copy.as_deref().and_then(Self::decode) {
            let incarnation = copied.incarnation.saturating_add(INCARNATIONS_UNSEEN);
            return Ok(Some(Self { incarnation, ..copied }));
        }
        if file.is_some() {
            return Err(IdentityError::Corrupt);
        }
        // Drafts of a first start that was cut short say nothing yet; file systems bring their own directory.
        let drafts = [OLD_DRAFT, "identity.new", "identity.copy.new", LOCK, "lost+found"];
        let names = disk.list("").map_err(failed("list the directory of"))?;
        match names.iter().find(|name| !drafts.contains(&name.as_str())) {
            Some(found) => Err(IdentityError::Missing { found: found.clone() }),
            None => Ok(None),
        }
    }

    /// Gives an empty data directory this identity, durably.
    pub fn create(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        match Self::load(disk)? {
            Some(_) => Err(IdentityError::Exists),
            None => self.store(disk),
        }
    }

    /// Begins the next incarnation; it is durable when this returns.
    pub fn next_incarnation(&mut self, disk: &dyn Disk) -> Result<u64, IdentityError> {
        let next = Self { incarnation: self.incarnation + 1, ..self.clone() };
        next.store(disk)?;
        *self = next;
        Ok(self.incarnation)
    }

    /// Makes the next incarnation come after `last`, which may be anyone's; durable when this returns. One that is higher
    /// stays.
    pub fn raise_incarnation(&mut self, disk: &dyn Disk, last: u64) -> Result<(), IdentityError> {
        if self.incarnation < last {
            let raised = Self { incarnation: last, ..self.clone() };
            raised.store(disk)?;
            *self = raised;
        }
        Ok(())
    }

    /// Encodes the identity file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = IDENTITY_MAGIC.to_vec();
        bytes.extend_from_slice(&[IDENTITY_VERSION, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&self.node_id.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(&self.disk_uuid);
        bytes.extend_from_slice(&[0; 8]);
        for name in [&self.cluster_id, &self.node_name] {
            bytes.extend_from_slice(&length_u32(name.len()).to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes and checks an identity file.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        let intact = array(content, 0) == Some(IDENTITY_MAGIC)
            && content.get(8) == Some(&IDENTITY_VERSION)
            && u32_at(crc, 0) == Some(crc32c::crc32c(content));
        let (cluster_id, at) = name_at(content, FIXED_BYTES)?;
        let (node_name, end) = name_at(content, at)?;
        let identity = Self {
            node_id: u64_at(content, 16)?,
            incarnation: u64_at(content, 24)?,
            disk_uuid: array(content, 32)?,
            cluster_id,
            node_name,
        };
        (intact && end == content.len()).then_some(identity)
    }

    fn store(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        for name in [&self.cluster_id, &self.node_name] {
            if name.len() > NAME_BYTES_MAX {
                return Err(IdentityError::NameTooLong { bytes: name.len(), bytes_max: NAME_BYTES_MAX });
            }
        }
        small_file::write_twice(disk, FILE, &self.encode()).map_err(failed("write"))
    }
}

fn name_at(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let length = usize::try_from(u32_at(bytes, at)?).ok().filter(|length| *length <= NAME_BYTES_MAX)?;
    let start = at + 4;
    let name = bytes.get(start..start + length)?;
    Some((String::from_utf8(name.to_vec()).ok()?, start + length))
}

#[cfg(test)]
mod tests;
