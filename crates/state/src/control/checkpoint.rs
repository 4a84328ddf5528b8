//! The state of control as records, whole or what has changed, and back.
//!
//! Owns: which record holds what. Does not: store. Invariants: as for a partition. See: `record`.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::{Text, TopicFilter};

use crate::command::{AdvertisedListener, RouteTarget};
use crate::control::LEVEL;
use crate::control::removal::{Members, Wish};
use crate::control::{ClusterConfig, Control, Node, NodeStatus, own_record};
use crate::encode::{
    duty, listeners, node_record, put_duty, put_listeners, put_node_record, put_route_target, route_target,
};
use crate::group_state::put_meta_head;
use crate::hash::StableHash;
use crate::ids::{CONTROL, GroupId, LogIndex, NodeId, Timestamp};
use crate::record::{Changes, Key, KeyReader, RECORD_VERSION, RestoreError, kind};
use crate::wire::{DecodeError, Reader, own_text, put_count, put_text};

impl Control {
    /// Records that changed since the last call, or since the restore: key, and content or `None` for deletion.
    pub fn changes(&mut self) -> Changes {
        let mut changes = Changes::new();
        if self.state.moved {
            changes.push((meta_key(), Some(self.meta())));
        }
        self.state.changes(&mut changes);
        for id in std::mem::take(&mut self.dirty_nodes) {
            changes.push((node_key(id), self.nodes.get(&id).map(node_content)));
        }
        for group in std::mem::take(&mut self.dirty_placement) {
            changes.push((
                placement_key(group),
                self.placement.get(&group).map(|voters| voters_content(voters)),
            ));
        }
        for filter in std::mem::take(&mut self.dirty_routes) {
            changes.push((routes_key(&filter), self.routes.get(&filter).map(targets_content)));
        }
        for id in std::mem::take(&mut self.dirty_listeners) {
            changes.push((
                listeners_key(id),
                self.listeners.get(&id).map(|listeners| listeners_content(listeners)),
            ));
        }
        for id in std::mem::take(&mut self.dirty_wishes) {
            changes.push((wish_key(id), self.wishes.get(&id).map(Wish::content)));
        }
        for group in std::mem::take(&mut self.dirty_members) {
            changes.push((members_key(group), self.members.get(&group).map(Members::content)));
        }
        changes
    }

    /// All records, in byte order of their keys: a whole snapshot.
    pub fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let meta = std::iter::once((meta_key(), self.meta()));
        let nodes = self.nodes.iter().map(|(id, node)| (node_key(*id), node_content(node)));
        let placement =
            self.placement.iter().map(|(group, voters)| (placement_key(*group), voters_content(voters)));
        let routes =
            self.routes.iter().map(|(filter, targets)| (routes_key(filter), targets_content(targets)));
        let listeners =
            self.listeners.iter().map(|(id, listeners)| (listeners_key(*id), listeners_content(listeners)));
        let wishes = self.wishes.iter().map(|(id, wish)| (wish_key(*id), wish.content()));
        let members = self.members.iter().map(|(group, members)| (members_key(*group), members.content()));
        let known = meta.chain(self.state.records()).chain(nodes).chain(placement).chain(routes);
        known.chain(listeners).chain(wishes).chain(members)
    }

    /// A number that is equal for equal states, whatever checkpoints they went through. Reads the whole state.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = StableHash::new();
        for (key, content) in self.records() {
            hash.write(&key);
            hash.write(&content);
        }
        hash.finish()
    }

    /// The state that was checkpointed after the entry `applied`. The records come in byte order of their keys.
    ///
    /// # Errors
    /// When the records are not those of a control group, or are damaged.
    pub fn restore(
        applied: LogIndex,
        records: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<Self, RestoreError> {
        let mut records = records.into_iter();
        let first = records.next().filter(|(key, _)| **key == *meta_key());
        let (_, meta) = first.ok_or(RestoreError::HeadMissing)?;
        let mut control = Self::from_meta(&meta)?;
        control.state.applied = applied;
        for (key, content) in records {
            control.restore_record(&key, &content)?;
        }
        Ok(control)
    }

    fn meta(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_meta_head(&mut out, self.state.now);
        out.put_u32_le(CONTROL.0);
        out.put_slice(&self.config.cluster_id);
        put_text(&mut out, self.config.name.as_str());
        out.put_u32_le(self.config.partitions);
        out.put_u32_le(self.config.replication);
        out.put_u64_le(self.last_node.0);
        out.put_u32_le(self.level);
        out.into()
    }

    fn from_meta(content: &Bytes) -> Result<Self, RestoreError> {
        let bad = |source| RestoreError::Content { kind: kind::META, source };
        let mut reader = Reader::new(content);
        let version = reader.u8().map_err(bad)?;
        if version != RECORD_VERSION {
            return Err(RestoreError::Version(version));
        }
        let now = Timestamp(reader.u64().map_err(bad)?);
        let found = GroupId(reader.u32().map_err(bad)?);
        if found != CONTROL {
            return Err(RestoreError::OtherGroup { expected: CONTROL, found });
        }
        let (config, last_node, level) = cluster_config(&mut reader).map_err(bad)?;
        if level > LEVEL {
            return Err(RestoreError::Level { found: level, spoken: LEVEL });
        }
        let mut control = Self::empty(config);
        control.state.now = now;
        control.level = level;
        control.last_node = last_node;
        Ok(control)
    }

    fn restore_record(&mut self, key: &Bytes, content: &Bytes) -> Result<(), RestoreError> {
        let mut key = KeyReader::new(key)?;
        let bad = key.content();
        match key.kind() {
            kind::NODE => {
                let node = node_of(content).map_err(bad)?;
                self.nodes.insert(NodeId(key.u64()?), node);
            }
            kind::PLACEMENT => {
                let voters = voters_of(content).map_err(bad)?;
                self.placement.insert(GroupId(key.u32()?), voters);
            }
            kind::ROUTES => {
                let targets = targets_of(content).map_err(bad)?;
                let filter = Text::parse(key.text()?).ok();
                let filter = filter.and_then(|filter| TopicFilter::new(filter).ok());
                let filter = filter.ok_or(RestoreError::Key { kind: key.kind() })?;
                self.routes.insert(filter, targets);
            }
            kind::LISTENERS => {
                let listeners = listeners_of(content).map_err(bad)?;
                self.listeners.insert(NodeId(key.u64()?), listeners);
            }
            kind::REMOVAL => {
                let wish = Wish::of(content).map_err(bad)?;
                self.wishes.insert(NodeId(key.u64()?), wish);
            }
            kind::MEMBERS => {
                let members = Members::of(content).map_err(bad)?;
                self.members.insert(GroupId(key.u32()?), members);
            }
            _ => return self.state.restore_record(&mut key, content),
        }
        key.done()
    }
}

fn cluster_config(reader: &mut Reader<'_>) -> Result<(ClusterConfig, NodeId, u32), DecodeError> {
    let cluster_id = reader.array()?;
    let name = own_text(&reader.text()?);
    let partitions = reader.u32()?;
    let replication = reader.u32()?;
    let last_node = NodeId(reader.u64()?);
    let level = reader.u32()?;
    reader.done()?;
    Ok((ClusterConfig { cluster_id, name, partitions, replication }, last_node, level))
}

fn node_content(node: &Node) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(match node.status {
        NodeStatus::Joining => 0,
        NodeStatus::Live => 1,
        NodeStatus::Down => 2,
        NodeStatus::Removed => 3,
    });
    out.put_u64_le(node.replaces.map_or(0, |replaces| replaces.0));
    put_duty(&mut out, node.duty);
    out.put_u64_le(node.duty_since.0);
    put_node_record(&mut out, &node.record);
    out.into()
}

fn node_of(content: &Bytes) -> Result<Node, DecodeError> {
    let mut reader = Reader::new(content);
    let status = match reader.u8()? {
        0 => NodeStatus::Joining,
        1 => NodeStatus::Live,
        2 => NodeStatus::Down,
        3 => NodeStatus::Removed,
        tag => return Err(DecodeError::Tag { tag, at: 0 }),
    };
    let replaces = Some(NodeId(reader.u64()?)).filter(|replaces| replaces.0 != 0);
    let duty = duty(&mut reader)?;
    let duty_since = Timestamp(reader.u64()?);
    let record = own_record(&node_record(&mut reader)?);
    reader.done()?;
    Ok(Node { record, status, replaces, duty, duty_since })
}

fn voters_content(voters: &[NodeId]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_count(&mut out, voters.len());
    voters.iter().for_each(|voter| out.put_u64_le(voter.0));
    out.into()
}

fn voters_of(content: &Bytes) -> Result<Vec<NodeId>, DecodeError> {
    let mut reader = Reader::new(content);
    let mut voters = Vec::new();
    for _ in 0..reader.length()? {
        voters.push(NodeId(reader.u64()?));
    }
    reader.done()?;
    Ok(voters)
}

fn targets_content(targets: &BTreeSet<RouteTarget>) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_count(&mut out, targets.len());
    targets.iter().for_each(|target| put_route_target(&mut out, *target));
    out.into()
}

fn targets_of(content: &Bytes) -> Result<BTreeSet<RouteTarget>, DecodeError> {
    let mut reader = Reader::new(content);
    let mut targets = BTreeSet::new();
    for _ in 0..reader.length()? {
        targets.insert(route_target(&mut reader)?);
    }
    reader.done()?;
    Ok(targets)
}

fn listeners_content(listeners: &[AdvertisedListener]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_listeners(&mut out, listeners);
    out.into()
}

fn listeners_of(content: &Bytes) -> Result<Vec<AdvertisedListener>, DecodeError> {
    let mut reader = Reader::new(content);
    let listeners = listeners(&mut reader)?;
    reader.done()?;
    let own = |listener: AdvertisedListener| AdvertisedListener {
        name: own_text(&listener.name),
        address: own_text(&listener.address),
    };
    Ok(listeners.into_iter().map(own).collect())
}

fn meta_key() -> Vec<u8> {
    Key::new(kind::META).finish()
}

fn node_key(node: NodeId) -> Vec<u8> {
    Key::new(kind::NODE).u64(node.0).finish()
}

fn placement_key(group: GroupId) -> Vec<u8> {
    Key::new(kind::PLACEMENT).u32(group.0).finish()
}

fn listeners_key(node: NodeId) -> Vec<u8> {
    Key::new(kind::LISTENERS).u64(node.0).finish()
}

fn wish_key(node: NodeId) -> Vec<u8> {
    Key::new(kind::REMOVAL).u64(node.0).finish()
}

fn members_key(group: GroupId) -> Vec<u8> {
    Key::new(kind::MEMBERS).u32(group.0).finish()
}

fn routes_key(filter: &TopicFilter) -> Vec<u8> {
    Key::new(kind::ROUTES).text(filter.as_str()).finish()
}
