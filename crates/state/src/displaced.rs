//! Connections that lost their session and may still be open.
//!
//! Owns: who must be known to be closed before a client's next connection may be answered, and the will that is published
//! if such a connection turns out to have ended without a word.
//! Does not: close them; the nodes do.
//! Invariants: a connection is here from the command that took its session away until its node says that it is closed,
//! or is declared dead; every entry is indexed by its client.
//! Limits: [`DISPLACED_MAX`] per client identifier. Spec: contract D11.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::Text;

use crate::ids::{Epoch, Incarnation, MessageRef, NodeId, Owner};
use crate::limits::DISPLACED_MAX;
use crate::reply::{owner, put_owner};
use crate::will::{message_ref, put_message_ref};
use crate::wire::{DecodeError, Reader, own_text, put_text};

/// All such connections of a partition, by the epoch they had.
#[derive(Clone, Default, Debug)]
pub(crate) struct Displaced {
    connections: BTreeMap<Epoch, Lost>,
    by_client: BTreeMap<Text, BTreeSet<Epoch>>,
    /// Epochs that differ from the checkpoint.
    dirty: BTreeSet<Epoch>,
}

/// A connection that lost its session.
#[derive(Clone, PartialEq, Debug)]
struct Lost {
    client_id: Text,
    owner: Owner,
    /// Its will, unless that was cancelled with the session's move.
    will: Option<MessageRef>,
}

impl Displaced {
    /// Whether one more of this client would be too many.
    pub(crate) fn is_full(&self, client_id: &str) -> bool {
        self.of(client_id).count() >= DISPLACED_MAX
    }

    /// The connections of a client, oldest first.
    pub(crate) fn of(&self, client_id: &str) -> impl Iterator<Item = Owner> {
        let epochs = self.by_client.get(client_id).into_iter().flatten();
        epochs.filter_map(|epoch| self.connections.get(epoch)).map(|lost| lost.owner)
    }

    /// A connection has lost its session.
    pub(crate) fn insert(&mut self, epoch: Epoch, client_id: Text, owner: Owner, will: Option<MessageRef>) {
        self.by_client.entry(client_id.clone()).or_default().insert(epoch);
        self.connections.insert(epoch, Lost { client_id, owner, will });
        self.dirty.insert(epoch);
    }

    /// The connection that had this epoch is closed; gives back its will.
    pub(crate) fn closed(&mut self, epoch: Epoch) -> Option<MessageRef> {
        let Lost { client_id, will, .. } = self.connections.remove(&epoch)?;
        self.dirty.insert(epoch);
        if let Some(epochs) = self.by_client.get_mut(&client_id) {
            epochs.remove(&epoch);
            if epochs.is_empty() {
                self.by_client.remove(&client_id);
            }
        }
        will
    }

    /// Wills of such connections.
    pub(crate) fn wills(&self) -> impl Iterator<Item = MessageRef> {
        self.connections.values().filter_map(|lost| lost.will)
    }

    /// The highest incarnation of any node that had such a connection.
    pub(crate) fn incarnation_max(&self) -> Option<Incarnation> {
        self.connections.values().map(|lost| lost.owner.incarnation).max()
    }

    /// A node's incarnation, and those before it, are dead: so are their connections. Gives back their wills.
    pub(crate) fn node_down(&mut self, node: NodeId, incarnation: Incarnation) -> Vec<MessageRef> {
        let dead = |owner: &Owner| owner.node == node && owner.incarnation <= incarnation;
        let epochs = self.connections.iter().filter(|(_, lost)| dead(&lost.owner)).map(|(epoch, _)| *epoch);
        let epochs: Vec<Epoch> = epochs.collect();
        epochs.into_iter().filter_map(|epoch| self.closed(epoch)).collect()
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (Epoch, Vec<u8>)> {
        self.connections.iter().map(|(epoch, connection)| (*epoch, encode(connection)))
    }

    /// Epochs that differ from the checkpoint, with their content or `None`; from now on the checkpoint has them.
    pub(crate) fn changes(&mut self) -> impl Iterator<Item = (Epoch, Option<Vec<u8>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|epoch| (epoch, self.connections.get(&epoch).map(encode)))
    }

    pub(crate) fn restore(&mut self, epoch: Epoch, content: &Bytes) -> Result<(), DecodeError> {
        let mut reader = Reader::new(content);
        let owner = owner(&mut reader)?;
        let client_id = own_text(&reader.text()?);
        let will = if reader.flag()? { Some(message_ref(&mut reader)?) } else { None };
        reader.done()?;
        self.insert(epoch, client_id, owner, will);
        self.dirty.clear();
        Ok(())
    }

    /// Panics when an invariant does not hold.
    pub(crate) fn check(&self, last: Epoch) {
        let indexed: usize = self.by_client.values().map(BTreeSet::len).sum();
        assert_eq!(indexed, self.connections.len(), "every displaced connection is indexed once");
        for (epoch, Lost { client_id, .. }) in &self.connections {
            assert!(*epoch <= last, "a displaced connection had an epoch that was given");
            let indexed = self.by_client.get(client_id).is_some_and(|epochs| epochs.contains(epoch));
            assert!(indexed, "displaced connection of {client_id} is indexed");
        }
    }
}

fn encode(lost: &Lost) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_owner(&mut out, lost.owner);
    put_text(&mut out, lost.client_id.as_str());
    out.put_u8(u8::from(lost.will.is_some()));
    if let Some(will) = lost.will {
        put_message_ref(&mut out, will);
    }
    out.into()
}
