//! What an operator asks of the cluster through this node.
//!
//! Owns: operations from the request to the answer; telling the shell what is wanted of this node, that its program is too
//! old, and where else clients can go; telling control of this node's listeners; closing a connection of this node, and looking up what it holds. Does not: decide; the state of the group does.
//! Invariants: an operation is answered once, after it is durable, or with the reason why nothing was changed.
//! Limits: the shell bounds how many wait.

use bytes::Bytes;
use quorate_codec::{QoS, ReasonCode, Text, TopicName};
use quorate_state::command::{AdvertisedListener, BackupStep, Command, Duty, Removal};
use quorate_state::control::{BACKUP_LEVEL, LISTENERS_LEVEL, MEMBERSHIP_LEVEL, NodeStatus};
use quorate_state::hash::{partition_of_client, partition_of_topic};
use quorate_state::{
    BackupId, CONTROL, ConnId, GroupId, Incarnation, LEVEL, Message, NodeId, Reply, SessionId,
};

use super::Node;
use super::clients::Op;
use super::leadership::preferred_leaders;
use crate::action::Action;

/// Something that an operator asks of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A node is to do this from now on.
    SetDuty {
        /// Node.
        node: NodeId,
        /// Duty.
        duty: Duty,
    },
    /// A member is to go for good, or is not.
    Remove {
        /// Node.
        node: NodeId,
        /// What is wanted of it.
        removal: Removal,
    },
    /// The cluster is to use this level.
    Finalize {
        /// Level.
        level: u32,
    },
    /// A step of a backup in one group.
    Backup {
        /// Group.
        group: GroupId,
        /// The backup.
        backup: BackupId,
        /// Step.
        step: BackupStep,
    },
    /// The session of a client identifier is to end at once, whatever waits for it.
    Purge(Text),
    /// The retained message of a topic is to be deleted. Nobody is sent anything.
    DeleteRetained(TopicName),
}

/// Number of an operation, chosen by the shell.
pub type OperationNumber = u64;

/// What a connection of this node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldConnection {
    /// Home partition of its client.
    pub group: GroupId,
    /// Session.
    pub session: SessionId,
    /// Receive Maximum of its client.
    pub receive_max: u16,
    /// The session outlives it.
    pub durable: bool,
}

impl Node {
    /// Puts an operation to its group. Answered by `Action::Operated`.
    pub(super) fn operate(&mut self, number: OperationNumber, operation: Operation) {
        let partitions = self.config.cluster.partitions;
        let level = self.control().map_or(0, quorate_state::Control::level);
        let needed = match operation {
            Operation::Backup { .. } => Some(("backups need", BACKUP_LEVEL)),
            Operation::Remove { .. } => Some(("removal needs", MEMBERSHIP_LEVEL)),
            _ => None,
        };
        if let Some((what, needed)) = needed.filter(|(_, needed)| level < *needed) {
            let why = format!("the cluster uses level {level}, and {what} level {needed}: finalize it first");
            return self.actions.push_back(Action::Operated { number, outcome: Err(why) });
        }
        let (group, command) = match operation {
            Operation::Backup { group, backup, step } => (group, Command::Backup { backup, step }),
            Operation::SetDuty { node, duty } => (CONTROL, Command::NodeDuty { node, duty }),
            Operation::Remove { node, removal } => (CONTROL, Command::NodeRemove { node, removal }),
            Operation::Finalize { level } => (CONTROL, Command::Finalize { level }),
            Operation::Purge(client_id) => {
                (partition_of_client(client_id.as_str(), partitions), Command::Purge { client_id })
            }
            Operation::DeleteRetained(topic) => {
                (partition_of_topic(topic.as_str(), partitions), delete_retained(topic))
            }
        };
        self.push(group, &command, Op::Operation(number));
    }

    pub(super) fn operated(&mut self, number: OperationNumber, reply: Option<Reply>) {
        let outcome = match reply {
            None => Ok(()),
            Some(Reply::Refused(why)) => Err(why.as_str().to_owned()),
            Some(Reply::Rejected(reason)) => {
                Err(format!("refused with reason code 0x{:02X}", reason.value()))
            }
            Some(_) => Err("the group gave an answer that does not fit".to_owned()),
        };
        self.actions.push_back(Action::Operated { number, outcome });
    }

    /// Tells a connection of this node to close, with DISCONNECT 0x98 (Administrative action) for MQTT 5; its session is
    /// left as if the client had gone without a word. Whether there is such a connection.
    pub fn kick(&mut self, incarnation: Incarnation, conn: ConnId) -> bool {
        let found = incarnation == self.incarnation && self.connections.all.contains_key(&conn);
        if found {
            self.close_here(conn, ReasonCode::ADMINISTRATIVE_ACTION);
        }
        found
    }

    /// What a connection of this node holds; `None` before its session is known, and when it is gone.
    pub fn holder(&self, conn: ConnId) -> Option<HeldConnection> {
        let connection = self.connections.all.get(&conn)?;
        let held = connection.held.as_ref()?;
        let receive_max = connection.receive_max;
        let (group, session, durable) = (connection.group, held.session, held.durable);
        Some(HeldConnection { group, session, receive_max, durable })
    }

    /// Control has changed: what does it mean for this node?
    pub(super) fn heed_control(&mut self) {
        self.preferred = self.control().map(preferred_leaders).unwrap_or_default();
        let level = self.control().map_or(0, quorate_state::Control::level);
        if level > LEVEL {
            return self.stop(&format!(
                "the cluster uses level {level}, and this program speaks levels up to {LEVEL}"
            ));
        }
        let own = self.control().and_then(|control| control.node(self.id));
        if own.is_some_and(|(_, status)| status == NodeStatus::Removed) {
            self.actions.push_back(Action::Removed);
        }
        if self.level_told != level {
            self.level_told = level;
            self.actions.push_back(Action::Level(level));
        }
        let duty = self.own_duty();
        if self.duty_told != duty {
            self.duty_told = duty;
            self.actions.push_back(Action::Duty(duty));
            self.hand_over_all();
        }
        self.tell_listeners();
        let elsewhere = self.elsewhere();
        if self.elsewhere_told != elsewhere {
            self.elsewhere_told.clone_from(&elsewhere);
            self.actions.push_back(Action::Elsewhere(elsewhere));
        }
    }

    /// Tells control where clients reach this node, once its level knows that.
    fn tell_listeners(&mut self) {
        let Some(control) = self.control() else { return };
        let known = control.listeners(self.id) == self.config.listeners;
        let lives = control.node(self.id).is_some_and(|(record, status)| {
            record.incarnation == self.incarnation && status == NodeStatus::Live
        });
        let told = self.listeners_told == Some(self.incarnation);
        if control.level() < LISTENERS_LEVEL || known || told || !lives {
            return;
        }
        self.listeners_told = Some(self.incarnation);
        let listeners = self.config.listeners.clone();
        self.push(CONTROL, &Command::NodeListeners { node: self.id, listeners }, Op::Quiet);
    }

    /// Listeners of the other nodes in service.
    fn elsewhere(&self) -> Vec<AdvertisedListener> {
        let Some(control) = self.control() else { return Vec::new() };
        let serves = |node: NodeId| !matches!(control.duty(node).0, Duty::Drain { .. });
        let others = control.nodes().filter(|(record, status)| {
            *status == NodeStatus::Live && record.id != self.id && serves(record.id)
        });
        others.flat_map(|(record, _)| control.listeners(record.id).iter().cloned()).collect()
    }
}

/// An empty retained message, which deletes the one before [MQTT-3.3.1-6], and which no subscriber gets.
fn delete_retained(topic: TopicName) -> Command {
    let message = Message {
        topic,
        qos: QoS::AtLeastOnce,
        retain: true,
        expiry_s: None,
        publisher: 0,
        properties: Bytes::new(),
        payload: Bytes::new(),
    };
    Command::Publish { message, store_retained: true, fan_out: false }
}
