//! What the first nodes of a cluster agree on at its first start, kept on each of their disks.
//!
//! Owns: [`Founding`], its file, and the agreement of the first nodes. Does not: take later nodes in; control does.
//! Invariants: written once, last of all at the first start, and never changed: a node with this file has started.
//! A fresh node starts only when every listed node has shown a fresh disk of the same settings, or one that has
//! started names this very disk as a member. See: docs/operations/bootstrap.md.

use std::time::Duration;

use quorate_codec::Text;
use quorate_state::command::NodeRecord;
use quorate_state::config::{Overflow, PartitionConfig};
use quorate_state::control::ClusterConfig;
use quorate_state::{GroupId, Incarnation, NodeId};
use quorate_storage::Disk;
use quorate_storage::small_file::{self, copy_name};
use serde::{Deserialize, Serialize};

use crate::config::{self, Config};
use crate::net::hello::{self, Fingerprint, Hello, Member};
use crate::net::peer::{LinkReceiver, Links, PeerError};

/// File name in the data folder.
const FILE: &str = "founding.json";

/// Version of the file.
const FILE_VERSION: u32 = 1;

/// Largest file.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Voters per partition.
const REPLICATION: u32 = 3;

/// Sessions per partition.
const SESSIONS_MAX: u64 = 1_000_000;

/// Topics with a retained message per partition.
const RETAINED_MAX: u64 = 1_000_000;

/// Settings of the whole cluster, equal on all its nodes for good: the replicated state depends on them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    cluster: String,
    partitions: u32,
    replication: u32,
    session_expiry_max_s: u32,
    sessions_max: u64,
    queue_messages_max: u64,
    queue_bytes_max: u64,
    inflight_max: u16,
    subscriptions_max: u64,
    retained_max: u64,
    overflow: String,
    bootstrap: Vec<(String, String)>,
    /// Backup that the cluster began from; last, and left out when there is none, so that fingerprints of clusters that began
    /// empty are what they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored: Option<String>,
}

/// One of the first nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Founder {
    id: u64,
    name: String,
    peer: String,
    disk: String,
}

/// What the first nodes agreed on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    version: u32,
    settings: Settings,
    founders: Vec<Founder>,
    check: String,
}

/// A cluster could not be founded, or what was founded cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The disk failed.
    #[error("{operation} {FILE}: {source}")]
    Disk {
        /// What was attempted.
        operation: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is not what was written.
    #[error("{FILE} is corrupt: {0}")]
    Corrupt(String),
    /// A node in the list has other settings, or began from something else.
    #[error(
        "node {0} has other [cluster] or [limits] settings than this node, or did not restore the same backup; both must be \
         equal at the first start"
    )]
    Disagree(String),
    /// A node in the list has not restored what this one has.
    #[error(
        "this node was restored from backup {backup}, and node {node} was not: restore the same file on every first node, \
         or on none"
    )]
    NotRestored {
        /// The other node.
        node: String,
        /// What this node was restored from.
        backup: String,
    },
    /// The cluster has started without this node, which was restored.
    #[error(
        "this node was restored from backup {backup}, but the cluster {cluster} runs already and does not know this disk: empty \
         the data folder, and the node will join"
    )]
    Late {
        /// Its name.
        cluster: String,
        /// What this node was restored from.
        backup: String,
    },
    /// The cluster has started without this disk.
    #[error("the cluster {cluster} runs and does not know this disk: a new or wiped node must join")]
    Unknown {
        /// Its name.
        cluster: String,
    },
}

impl Settings {
    /// The cluster settings of a configuration.
    pub fn of(config: &Config) -> Settings {
        let limits = &config.limits;
        let seconds = u32::try_from(limits.session_expiry_max.as_secs()).unwrap_or(u32::MAX);
        let bootstrap = config.cluster.bootstrap.iter().map(|node| (node.name.clone(), node.peer.clone()));
        Settings {
            cluster: config.cluster.name.clone(),
            partitions: config.cluster.partitions,
            replication: REPLICATION,
            session_expiry_max_s: seconds,
            sessions_max: SESSIONS_MAX,
            queue_messages_max: limits.queue_messages_max,
            queue_bytes_max: limits.queue_bytes_max,
            inflight_max: limits.inflight_max,
            subscriptions_max: u64::from(limits.subscriptions_max),
            retained_max: RETAINED_MAX,
            overflow: match limits.overflow {
                config::Overflow::DropOldest => "drop-oldest",
                config::Overflow::DropNewest => "drop-newest",
                config::Overflow::RejectPublisher => "reject-publisher",
            }
            .to_owned(),
            bootstrap: bootstrap.collect(),
            restored: None,
        }
    }

    /// These settings, of a backup, in a new cluster of this configuration: its name and first nodes are the configuration's, and all
    /// that the state depends on stays.
    pub fn restored_as(&self, backup: &str, config: &Config) -> Settings {
        let Settings { cluster, bootstrap, .. } = Settings::of(config);
        Settings { cluster, bootstrap, restored: Some(backup.to_owned()), ..self.clone() }
    }

    /// The backup that the cluster began from.
    pub fn restored(&self) -> Option<&str> {
        self.restored.as_deref()
    }

    /// Whether a node of this configuration would begin a cluster with these settings, from a backup or not.
    pub fn are_of(&self, config: &Config) -> bool {
        *self == Settings { restored: self.restored.clone(), ..Settings::of(config) }
    }

    /// Whether these are the settings behind a fingerprint but for the backup, which they have and the others do not.
    fn differ_by_restore(&self, agreement: &Fingerprint) -> bool {
        self.restored.is_some() && Settings { restored: None, ..self.clone() }.fingerprint() == *agreement
    }

    /// Fingerprint that tells nodes with other settings apart.
    pub fn fingerprint(&self) -> Fingerprint {
        hello::fingerprint(&serde_json::to_string(self).unwrap_or_default())
    }

    /// Names and peer addresses of the first nodes.
    pub fn bootstrap_list(&self) -> &[(String, String)] {
        &self.bootstrap
    }

    /// Cluster name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Number of partitions.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Longest session expiry in seconds.
    pub fn session_expiry_max_s(&self) -> u32 {
        self.session_expiry_max_s
    }

    /// Settings of every partition.
    pub fn partition_config(&self) -> PartitionConfig {
        PartitionConfig {
            session_expiry_max_s: self.session_expiry_max_s,
            sessions_max: self.sessions_max,
            queue_messages_max: self.queue_messages_max,
            queue_bytes_max: self.queue_bytes_max,
            inflight_max: self.inflight_max,
            subscriptions_per_session_max: usize::try_from(self.subscriptions_max).unwrap_or(usize::MAX),
            retained_max: usize::try_from(self.retained_max).unwrap_or(usize::MAX),
            overflow: match self.overflow.as_str() {
                "drop-oldest" => Overflow::DropOldest,
                "drop-newest" => Overflow::DropNewest,
                _ => Overflow::RejectPublisher,
            },
            ..PartitionConfig::new(GroupId(1))
        }
    }
}

impl Founding {
    /// What these members agree on, in the order of the bootstrap list.
    pub fn new(settings: Settings, members: &[Member]) -> Founding {
        let founders = members.iter().map(|member| Founder {
            id: member.id.0,
            name: member.name.clone(),
            peer: settings
                .bootstrap
                .iter()
                .find(|(name, _)| *name == member.name)
                .map(|(_, peer)| peer.clone())
                .unwrap_or_default(),
            disk: hex(&member.disk),
        });
        let founders = founders.collect();
        let mut founding = Founding { version: FILE_VERSION, settings, founders, check: String::new() };
        founding.check = founding.checksum();
        founding
    }

    /// Whether it is as it was written.
    pub fn is_genuine(&self) -> bool {
        self.version == FILE_VERSION && self.check == self.checksum()
    }

    /// Cluster settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The first nodes with their peer addresses.
    pub fn founders(&self) -> impl Iterator<Item = (Member, &str)> {
        self.founders.iter().map(|founder| {
            let disk = unhex(&founder.disk).unwrap_or_default();
            (Member { id: NodeId(founder.id), name: founder.name.clone(), disk }, founder.peer.as_str())
        })
    }

    /// The first nodes.
    pub fn members(&self) -> Vec<Member> {
        self.founders().map(|(member, _)| member).collect()
    }

    /// Identity of the cluster.
    pub fn cluster_id(&self) -> Fingerprint {
        hello::cluster_id(&self.settings.fingerprint(), &self.members())
    }

    /// What the node's state machine of control starts from.
    pub fn cluster_config(&self) -> ClusterConfig {
        ClusterConfig {
            cluster_id: self.cluster_id(),
            name: text(&self.settings.cluster),
            partitions: self.settings.partitions,
            replication: self.settings.replication,
        }
    }

    /// The first nodes as all of them know them alike, before each says more of itself.
    pub fn first_records(&self) -> Vec<NodeRecord> {
        self.founders().map(|(member, peer)| first_record(&member, peer)).collect()
    }

    /// Reads the file; `None` on a disk that has not started in a cluster.
    pub fn read(disk: &dyn Disk) -> Result<Option<Founding>, FoundingError> {
        let failed = |operation| move |source| FoundingError::Disk { operation, source };
        let read = |name: &str| small_file::read(disk, name, FILE_BYTES_MAX + 1).map_err(failed("read"));
        let (file, copy) = (read(FILE)?, read(&copy_name(FILE))?);
        let (Some(bytes), damage) = (match file.as_deref().map(Self::decode) {
            Some(Ok(founding)) => {
                if file != copy {
                    // Of an older program, or damaged.
                    let file = file.as_deref().unwrap_or_default();
                    small_file::write(disk, &copy_name(FILE), file).map_err(failed("copy"))?;
                }
                return Ok(Some(founding));
            }
            Some(Err(FoundingError::Corrupt(why))) if copy.is_some() => (copy, why),
            Some(Err(error)) => return Err(error),
            None => (copy, "it is not there".to_owned()),
        }) else {
            return Ok(None);
        };
        let founding = Self::decode(&bytes)?;
        tracing::warn!(damage, "founding.json is written again from its copy");
        small_file::write(disk, FILE, &bytes).map_err(failed("write"))?;
        Ok(Some(founding))
    }

    fn decode(bytes: &[u8]) -> Result<Founding, FoundingError> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(FoundingError::Corrupt(format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        let founding: Founding =
            serde_json::from_slice(bytes).map_err(|error| FoundingError::Corrupt(error.to_string()))?;
        if founding.version != FILE_VERSION {
            return Err(FoundingError::Corrupt(format!("version {} is not known", founding.version)));
        }
        if !founding.is_genuine() {
            return Err(FoundingError::Corrupt("its check does not match".to_owned()));
        }
        Ok(founding)
    }

    /// Writes the file, durably and at once or not at all. The last step of a first start.
    pub fn write(&self, disk: &dyn Disk) -> Result<(), FoundingError> {
        let failed = |operation| move |source| FoundingError::Disk { operation, source };
        let bytes =
            serde_json::to_vec_pretty(self).map_err(|error| FoundingError::Corrupt(error.to_string()))?;
        small_file::write_twice(disk, FILE, &bytes).map_err(failed("write"))
    }

    fn checksum(&self) -> String {
        let unchecked = Founding { check: String::new(), ..self.clone() };
        hex(&hello::fingerprint(&serde_json::to_string(&unchecked).unwrap_or_default()))
    }
}

fn first_record(member: &Member, peer: &str) -> NodeRecord {
    NodeRecord {
        id: member.id,
        name: text(&member.name),
        disk: member.disk,
        incarnation: Incarnation(0),
        peer: text(peer),
        mqtt: text(""),
        admin: text(""),
        zone: text(""),
        version: text(""),
        level: 0,
    }
}

/// A text from our own names, which never hold what a text must not.
pub fn text(name: &str) -> Text {
    Text::new(name.as_bytes().to_vec().into()).unwrap_or_default()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hex`] made; `None` for anything else.
pub fn unhex(text: &str) -> Option<Fingerprint> {
    u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32).map(u128::to_be_bytes)
}

/// What the answers of the other listed nodes amount to.
#[derive(Debug)]
enum Verdict {
    Wait,
    Start(Vec<Member>),
}

/// Judges the answers: one per other listed node, in any order; `None` for a node that did not answer.
fn judge(
    own: &Hello,
    settings: &Settings,
    answers: &[(String, Option<Hello>)],
) -> Result<Verdict, FoundingError> {
    let list = &settings.bootstrap;
    let heard: Vec<&Hello> = answers.iter().filter_map(|(_, hello)| hello.as_ref()).collect();
    let started: Vec<&&Hello> = heard.iter().filter(|hello| !hello.is_fresh()).collect();
    let knows_me =
        |hello: &Hello| hello.members.iter().any(|member| member.name == own.name && member.disk == own.disk);
    if let Some(stranger) = started.iter().find(|hello| !knows_me(hello)) {
        let cluster = stranger.cluster.clone();
        return Err(match settings.restored.clone() {
            Some(backup) => FoundingError::Late { cluster, backup },
            None => FoundingError::Unknown { cluster },
        });
    }
    if let Some(other) =
        heard.iter().find(|hello| hello.agreement != own.agreement || hello.cluster != own.cluster)
    {
        let node = other.name.clone();
        return Err(match settings.restored.clone() {
            Some(backup) if settings.differ_by_restore(&other.agreement) => {
                FoundingError::NotRestored { node, backup }
            }
            _ => FoundingError::Disagree(node),
        });
    }
    if let Some(first) = started.first() {
        let genuine = hello::cluster_id(&own.agreement, &first.members) == first.cluster_id;
        let alone = started.iter().all(|hello| hello.cluster_id == first.cluster_id);
        return if genuine && alone {
            Ok(Verdict::Start(first.members.clone()))
        } else {
            Err(FoundingError::Disagree(first.name.clone()))
        };
    }
    let mut members = Vec::new();
    for (id, (name, _)) in (1..).zip(list) {
        let disk = if *name == own.name {
            Some(own.disk)
        } else {
            heard.iter().find(|hello| hello.name == *name).map(|hello| hello.disk)
        };
        let Some(disk) = disk else { return Ok(Verdict::Wait) };
        members.push(Member { id: NodeId(id), name: name.clone(), disk });
    }
    Ok(Verdict::Start(members))
}

/// The members of a single node's cluster.
pub fn alone(own: &Hello) -> Vec<Member> {
    vec![Member { id: NodeId(1), name: own.name.clone(), disk: own.disk }]
}

/// Waits until the listed nodes agree; gives the members. `own` is this node's Hello on a fresh disk.
pub async fn agree<R: LinkReceiver>(
    links: &Links<R>,
    own: &Hello,
    settings: &Settings,
) -> Result<Vec<Member>, FoundingError> {
    let list = &settings.bootstrap;
    if list.len() <= 1 {
        return Ok(alone(own));
    }
    let mut pause = Duration::from_millis(50);
    let mut missing_before: Vec<String> = Vec::new();
    loop {
        let mut answers = Vec::new();
        for (name, peer) in list.iter().filter(|(name, _)| *name != own.name) {
            let answer: Result<Hello, PeerError> = links.probe(name, peer).await;
            if let Err(error) = &answer {
                tracing::debug!(peer = %name, address = %peer, %error, "listed node does not answer yet");
            }
            answers.push((name.clone(), answer.ok()));
        }
        if let Verdict::Start(members) = judge(own, settings, &answers)? {
            return Ok(members);
        }
        let missing: Vec<String> =
            answers.iter().filter(|(_, hello)| hello.is_none()).map(|(name, _)| name.clone()).collect();
        if missing != missing_before {
            tracing::info!(waiting_for = %missing.join(", "), "first start waits for the other listed nodes");
            missing_before = missing;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::hello::LinkKind;
    use quorate_storage::disk::memory::MemoryDisk;

    fn settings() -> Settings {
        let mut config = Config::default();
        config.cluster.bootstrap = ["n1", "n2", "n3"]
            .map(|name| config::BootstrapNode { name: name.to_owned(), peer: format!("{name}:1") })
            .into();
        Settings::of(&config)
    }

    fn fresh(name: &str, disk: u8) -> Hello {
        Hello {
            link: LinkKind::Probe,
            cluster: settings().cluster,
            agreement: settings().fingerprint(),
            cluster_id: [0; 16],
            name: name.to_owned(),
            id: NodeId(0),
            disk: [disk; 16],
            incarnation: Incarnation(1),
            members: Vec::new(),
        }
    }

    fn started(name: &str, disks: [u8; 3]) -> Hello {
        let members: Vec<Member> = (1..)
            .zip(["n1", "n2", "n3"])
            .zip(disks)
            .map(|((id, name), disk)| Member { id: NodeId(id), name: name.to_owned(), disk: [disk; 16] })
            .collect();
        let mut hello = fresh(name, 9);
        hello.cluster_id = hello::cluster_id(&hello.agreement, &members);
        hello.members = members;
        hello
    }

    fn judged(answers: Vec<(&str, Option<Hello>)>) -> Result<Verdict, FoundingError> {
        let answers: Vec<_> = answers.into_iter().map(|(name, hello)| (name.to_owned(), hello)).collect();
        judge(&fresh("n1", 1), &settings(), &answers)
    }

    #[test]
    fn fresh_nodes_start_only_when_all_are_heard() {
        assert!(matches!(judged(vec![("n2", Some(fresh("n2", 2))), ("n3", None)]), Ok(Verdict::Wait)));
        let verdict = judged(vec![("n3", Some(fresh("n3", 3))), ("n2", Some(fresh("n2", 2)))]);
        let Ok(Verdict::Start(members)) = verdict else { panic!("{verdict:?}") };
        let seen: Vec<_> = members.iter().map(|member| (member.id.0, member.disk[0])).collect();
        assert_eq!(seen, [(1, 1), (2, 2), (3, 3)]);
    }

    #[test]
    fn started_node_decides_for_those_it_names() {
        let verdict = judged(vec![("n2", Some(started("n2", [1, 2, 3]))), ("n3", None)]);
        assert!(matches!(verdict, Ok(Verdict::Start(members)) if members.len() == 3));
        let verdict = judged(vec![("n2", Some(started("n2", [7, 2, 3]))), ("n3", Some(fresh("n3", 3)))]);
        assert!(matches!(verdict, Err(FoundingError::Unknown { .. })), "a wiped disk must not vote");
        let mut forged = started("n2", [1, 2, 3]);
        forged.cluster_id = [5; 16];
        assert!(matches!(judged(vec![("n2", Some(forged)), ("n3", None)]), Err(FoundingError::Disagree(_))));
    }

    #[test]
    fn other_settings_are_refused() {
        let mut other = fresh("n2", 2);
        other.agreement = [4; 16];
        assert!(
            matches!(judged(vec![("n2", Some(other))]), Err(FoundingError::Disagree(name)) if name == "n2")
        );
    }

    #[test]
    fn nodes_found_a_cluster_together_only_from_the_same_backup() {
        let restored = |backup: &str| Settings { restored: Some(backup.to_owned()), ..settings() };
        let hello = |name: &str, disk: u8, settings: &Settings| Hello {
            agreement: settings.fingerprint(),
            ..fresh(name, disk)
        };
        let judged = |own: &Settings, others: [&Settings; 2]| {
            let answers = [(2, others[0]), (3, others[1])].map(|(disk, settings)| {
                let name = format!("n{disk}");
                (name.clone(), Some(hello(&name, disk, settings)))
            });
            judge(&hello("n1", 1, own), own, &answers)
        };
        let (one, two, none) = (restored("0000000000000001"), restored("0000000000000002"), settings());
        assert!(matches!(judged(&one, [&one, &one]), Ok(Verdict::Start(_))));
        let Err(error) = judged(&one, [&one, &none]) else { panic!("n3 begins empty") };
        assert!(matches!(&error, FoundingError::NotRestored { node, .. } if node == "n3"), "{error}");
        assert!(error.to_string().contains("0000000000000001"), "{error}");
        for (own, other) in [(&one, &two), (&none, &one)] {
            let Err(error) = judged(own, [own, other]) else { panic!("{own:?} and {other:?}") };
            assert!(matches!(&error, FoundingError::Disagree(_)), "{error}");
            assert!(error.to_string().contains("backup"), "{error}");
        }
        let answers = [("n2".to_owned(), Some(started("n2", [7, 2, 3])))];
        let late = judge(&hello("n1", 1, &one), &one, &answers);
        assert!(matches!(late, Err(FoundingError::Late { .. })), "what was restored never joins");
    }

    #[test]
    fn settings_without_a_backup_keep_their_text_and_fingerprint() {
        let settings = Settings::of(&Config::default());
        let text = serde_json::to_string(&settings).unwrap();
        assert!(text.ends_with(r#""bootstrap":[]}"#), "{text}");
        let restored = settings.restored_as("0123456789abcdef", &Config::default());
        let text = serde_json::to_string(&restored).unwrap();
        assert!(text.ends_with(r#""bootstrap":[],"restored":"0123456789abcdef"}"#), "{text}");
        assert_ne!(restored.fingerprint(), settings.fingerprint());
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), restored);
        assert!(restored.are_of(&Config::default()) && settings.are_of(&Config::default()));
    }

    #[test]
    fn file_comes_back_and_damage_is_found() {
        let disk = MemoryDisk::new();
        assert!(Founding::read(&disk).unwrap().is_none());
        let members = started("n1", [1, 2, 3]).members;
        let founding = Founding::new(settings(), &members);
        founding.write(&disk).unwrap();
        founding.write(&disk).unwrap();
        let read = Founding::read(&disk).unwrap().unwrap();
        assert_eq!(read, founding);
        assert_eq!(read.members(), members);
        let content = disk.content(FILE).unwrap();
        let damaged = String::from_utf8(content).unwrap().replace("\"partitions\": 16", "\"partitions\": 17");
        disk.replace(FILE, damaged.clone().into_bytes());
        assert_eq!(Founding::read(&disk).unwrap(), Some(founding.clone()), "from its copy");
        disk.unlink(FILE).unwrap();
        assert_eq!(Founding::read(&disk).unwrap(), Some(founding.clone()), "from its copy");
        let copy = copy_name(FILE);
        disk.replace(&copy, b"{}".to_vec());
        assert_eq!(Founding::read(&disk).unwrap(), Some(founding.clone()));
        assert_eq!(disk.content(&copy).unwrap(), disk.content(FILE).unwrap(), "made again");
        disk.replace(FILE, damaged.into_bytes());
        disk.unlink(&copy).unwrap();
        assert!(matches!(Founding::read(&disk), Err(FoundingError::Corrupt(_))));
    }
}
