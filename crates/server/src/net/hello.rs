//! Hello: the first frame in both directions of every connection between nodes.
//!
//! Owns: what a node says of itself, its encoding, and the fingerprints that keep clusters apart.
//! Does not: decide who may come in. See: docs/formats/peer-frame.md.
//! Limits: `HELLO_BYTES_MAX`; every length is checked before it is used.

use bytes::{Buf, BufMut, BytesMut};
use quorate_state::{Incarnation, NodeId};

use crate::limits::BOOTSTRAP_NODES_MAX;

const MAGIC: &[u8; 8] = b"QUORATE\x01";

/// Version of what is spoken after Hello.
pub const PROTOCOL_VERSION: u16 = 1;

/// Longest name in a Hello.
const NAME_BYTES_MAX: usize = 63;

/// Why a connection between nodes was opened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LinkKind {
    /// Only to exchange Hello: at the first start, and to be dialled at once.
    Probe,
    /// Consensus, streams, control.
    Raft,
    /// Direct messages for transient sessions.
    Routing,
    /// One snapshot.
    Snapshot,
    /// One join request.
    Join,
    /// Parts of a backup.
    Backup,
    /// Questions for records that are damaged at the one who asks, and for what was seen of it.
    Repair,
}

/// 128 bits that tell disks, agreements and clusters apart.
pub type Fingerprint = [u8; 16];

/// A member as agreed at bootstrap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Identity.
    pub id: NodeId,
    /// Name.
    pub name: String,
    /// Identity of its disk.
    pub disk: Fingerprint,
}

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Why the connection was opened; the answer repeats it.
    pub link: LinkKind,
    /// Cluster name.
    pub cluster: String,
    /// Fingerprint of the cluster settings of its configuration.
    pub agreement: Fingerprint,
    /// Fingerprint of the cluster it belongs to: see [`cluster_id`]. All zero on a fresh disk.
    pub cluster_id: Fingerprint,
    /// Node name; the subject name of its certificate.
    pub name: String,
    /// Identity; 0 on a fresh disk.
    pub id: NodeId,
    /// Identity of the disk.
    pub disk: Fingerprint,
    /// Incarnation.
    pub incarnation: Incarnation,
    /// Members agreed at bootstrap; empty on a fresh disk.
    pub members: Vec<Member>,
}

/// Why bytes are no Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not a node of ours.
    #[error("the other side is no node of this program")]
    Magic,
    /// A version that this program does not speak.
    #[error("protocol version {0} is not spoken here")]
    Version(u16),
    /// Cut short, too long, or not text.
    #[error("the hello is malformed")]
    Malformed,
}

impl Hello {
    /// The disk is fresh: the node belongs to no cluster yet.
    pub fn is_fresh(&self) -> bool {
        self.cluster_id == [0; 16]
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(MAGIC);
        out.put_u16_le(PROTOCOL_VERSION);
        out.put_u8(match self.link {
            LinkKind::Probe => 0,
            LinkKind::Raft => 1,
            LinkKind::Routing => 2,
            LinkKind::Snapshot => 3,
            LinkKind::Join => 4,
            LinkKind::Backup => 5,
            LinkKind::Repair => 6,
        });
        put_name(out, &self.cluster);
        out.put_slice(&self.agreement);
        out.put_slice(&self.cluster_id);
        put_name(out, &self.name);
        out.put_u64_le(self.id.0);
        out.put_slice(&self.disk);
        out.put_u64_le(self.incarnation.0);
        let count = self.members.len().min(BOOTSTRAP_NODES_MAX);
        out.put_u8(u8::try_from(count).unwrap_or(0));
        for member in self.members.iter().take(count) {
            out.put_u64_le(member.id.0);
            put_name(out, &member.name);
            out.put_slice(&member.disk);
        }
    }

    /// Reads a whole Hello; bytes after it are an error.
    pub fn decode(mut input: &[u8]) -> Result<Hello, HelloError> {
        if take_array::<8>(&mut input).map_err(|_| HelloError::Magic)? != *MAGIC {
            return Err(HelloError::Magic);
        }
        let version = input.try_get_u16_le().map_err(|_| HelloError::Malformed)?;
        if version != PROTOCOL_VERSION {
            return Err(HelloError::Version(version));
        }
        let link = match input.try_get_u8() {
            Ok(0) => LinkKind::Probe,
            Ok(1) => LinkKind::Raft,
            Ok(2) => LinkKind::Routing,
            Ok(3) => LinkKind::Snapshot,
            Ok(4) => LinkKind::Join,
            Ok(5) => LinkKind::Backup,
            Ok(6) => LinkKind::Repair,
            _ => return Err(HelloError::Malformed),
        };
        let cluster = take_name(&mut input)?;
        let agreement = take_array(&mut input)?;
        let cluster_id = take_array(&mut input)?;
        let name = take_name(&mut input)?;
        let id = NodeId(take_u64(&mut input)?);
        let disk = take_array(&mut input)?;
        let incarnation = Incarnation(take_u64(&mut input)?);
        let count = usize::from(input.try_get_u8().map_err(|_| HelloError::Malformed)?);
        if count > BOOTSTRAP_NODES_MAX {
            return Err(HelloError::Malformed);
        }
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            let id = NodeId(take_u64(&mut input)?);
            let name = take_name(&mut input)?;
            members.push(Member { id, name, disk: take_array(&mut input)? });
        }
        if !input.is_empty() {
            return Err(HelloError::Malformed);
        }
        Ok(Hello { link, cluster, agreement, cluster_id, name, id, disk, incarnation, members })
    }
}

/// Fingerprint of a text: of what all nodes must have alike in their configuration at the first start.
pub fn fingerprint(text: &str) -> Fingerprint {
    let mut hash = Hash::new();
    hash.text(text);
    hash.finish()
}

/// Fingerprint of a cluster: its settings and the disks it began with. Never all zero.
pub fn cluster_id(agreement: &Fingerprint, members: &[Member]) -> Fingerprint {
    let mut hash = Hash::new();
    hash.bytes(agreement);
    for member in members {
        hash.bytes(&member.id.0.to_be_bytes());
        hash.text(&member.name);
        hash.bytes(&member.disk);
    }
    hash.finish()
}

/// FNV-1a with 128 bits: tells honest mistakes apart; keeping strangers out is the work of TLS.
struct Hash(u128);

impl Hash {
    fn new() -> Self {
        Hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
        self.bytes(&[0xff]);
    }

    fn finish(self) -> Fingerprint {
        self.0.max(1).to_be_bytes()
    }
}

fn put_name(out: &mut BytesMut, name: &str) {
    let bytes = name.as_bytes();
    let bytes = bytes.get(..NAME_BYTES_MAX).unwrap_or(bytes);
    out.put_u8(u8::try_from(bytes.len()).unwrap_or(0));
    out.put_slice(bytes);
}

fn take_name(input: &mut &[u8]) -> Result<String, HelloError> {
    let length = usize::from(input.try_get_u8().map_err(|_| HelloError::Malformed)?);
    if length > NAME_BYTES_MAX {
        return Err(HelloError::Malformed);
    }
    let (name, rest) = input.split_at_checked(length).ok_or(HelloError::Malformed)?;
    *input = rest;
    String::from_utf8(name.to_vec()).map_err(|_| HelloError::Malformed)
}

fn take_u64(input: &mut &[u8]) -> Result<u64, HelloError> {
    input.try_get_u64_le().map_err(|_| HelloError::Malformed)
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], HelloError> {
    let (array, rest) = input.split_first_chunk::<N>().ok_or(HelloError::Malformed)?;
    *input = rest;
    Ok(*array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> impl Strategy<Value = Hello> {
        let member = (any::<u64>(), "[a-z0-9-]{0,63}", any::<[u8; 16]>())
            .prop_map(|(id, name, disk)| Member { id: NodeId(id), name, disk });
        let link = prop_oneof![
            Just(LinkKind::Probe),
            Just(LinkKind::Raft),
            Just(LinkKind::Routing),
            Just(LinkKind::Snapshot),
            Just(LinkKind::Join),
            Just(LinkKind::Backup),
            Just(LinkKind::Repair)
        ];
        (
            (link, "[a-z0-9-]{0,63}", any::<[u8; 16]>(), any::<[u8; 16]>()),
            ("[a-z0-9-]{0,63}", any::<u64>(), any::<[u8; 16]>(), any::<u64>()),
            prop::collection::vec(member, 0..=BOOTSTRAP_NODES_MAX),
        )
            .prop_map(
                |((link, cluster, agreement, cluster_id), (name, id, disk, incarnation), members)| Hello {
                    link,
                    cluster,
                    agreement,
                    cluster_id,
                    name,
                    id: NodeId(id),
                    disk,
                    incarnation: Incarnation(incarnation),
                    members,
                },
            )
    }

    /// The golden Hello of protocol version 1: see docs/formats/peer-frame.md.
    #[test]
    fn hello_of_version_1_is_written_and_read_alike() {
        let hello = Hello {
            link: LinkKind::Routing,
            cluster: "dev".to_owned(),
            agreement: [0xa1; 16],
            cluster_id: [0xc1; 16],
            name: "n2".to_owned(),
            id: NodeId(2),
            disk: [0xd2; 16],
            incarnation: Incarnation(5),
            members: vec![Member { id: NodeId(1), name: "n1".to_owned(), disk: [0xd1; 16] }],
        };
        let golden: Vec<u8> = [
            &b"QUORATE\x01\x01\x00\x02\x03dev"[..],
            &[0xa1; 16],
            &[0xc1; 16],
            b"\x02n2\x02\0\0\0\0\0\0\0",
            &[0xd2; 16],
            b"\x05\0\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\0\x02n1",
            &[0xd1; 16],
        ]
        .concat();
        let mut wire = BytesMut::new();
        hello.encode(&mut wire);
        assert_eq!(wire, golden);
        assert_eq!(Hello::decode(&golden), Ok(hello));
    }

    proptest! {
        #[test]
        fn hello_comes_back_as_it_went(hello in hello()) {
            let mut wire = BytesMut::new();
            hello.encode(&mut wire);
            prop_assert!(wire.len() < crate::limits::HELLO_BYTES_MAX);
            prop_assert_eq!(Hello::decode(&wire), Ok(hello));
        }

        #[test]
        fn every_prefix_of_a_hello_is_an_error(hello in hello(), cut in any::<prop::sample::Index>()) {
            let mut wire = BytesMut::new();
            hello.encode(&mut wire);
            let cut = cut.index(wire.len());
            prop_assert!(Hello::decode(&wire[..cut]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::decode(&bytes);
            let mut prefixed = MAGIC.to_vec();
            prefixed.extend([1, 0]);
            prefixed.extend(bytes);
            let _ = Hello::decode(&prefixed);
        }
    }

    #[test]
    fn cluster_id_depends_on_every_disk() {
        let settings = fingerprint("dev 16");
        let member = |disk| Member { id: NodeId(1), name: "n1".to_owned(), disk: [disk; 16] };
        assert_ne!(cluster_id(&settings, &[member(1)]), cluster_id(&settings, &[member(2)]));
        assert_ne!(settings, fingerprint("dev 8"));
    }
}
