//! CONNECT: which session a connection gets, and who loses it.
//!
//! Owns: new session, resumed session, takeover, refusal. Does not: wait for the old connections; the node does,
//! before it sends CONNACK.
//! Invariants: the answer names every connection of the client that may still be open; the epoch of a client identifier only grows, over re-creation of its session too; messages of a resumed
//! session are sent again before any new one. Spec: MQTT 5, 3.1.2.4, 3.1.4 and 4.4.

use quorate_codec::ReasonCode;

use crate::command::SessionExpiry;
use crate::effect::{DropReason, Effect, Reply};
use crate::encode::{Connect, MessageView};
use crate::expiry::capped;
use crate::group_state::Place;
use crate::ids::{Epoch, Owner, SessionId, ShareVersion};
use crate::partition::Partition;
use crate::session::{Presence, Session, dirty};
use crate::wire::own_text;

/// What a CONNECT finds.
enum Found {
    /// No session.
    Nothing,
    /// A session that goes on [MQTT-3.1.2-5].
    Resumed(SessionId),
    /// A session that ends now: by Clean Start [MQTT-3.1.2-4], or with the connection that is taken over.
    Replaced(SessionId),
}

impl Partition {
    pub(super) fn connect(
        &mut self,
        place: Place,
        connect: Connect,
        will: Option<(u32, MessageView<'_>)>,
        effects: &mut Vec<Effect>,
    ) {
        let known = self.sessions.by_client(connect.client_id.as_str());
        if known.is_some_and(|session| session.principal != connect.principal) {
            // Only its principal may take a session over; the present connection is not touched.
            let reply = Reply::ConnectRefused(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
            self.state.reply(place, reply, effects);
            return;
        }
        if known.is_none() && self.sessions.len() as u64 >= self.config.sessions_max {
            self.state.reply(place, Reply::ConnectRefused(ReasonCode::QUOTA_EXCEEDED), effects);
            return;
        }
        if self.displaced.is_full(connect.client_id.as_str()) {
            self.state.reply(place, Reply::ConnectRefused(ReasonCode::SERVER_BUSY), effects);
            return;
        }
        if will.is_some() && self.due_wills.len() as u64 >= self.config.sessions_max {
            // Clients come and die faster than their wills can leave.
            self.state.reply(place, Reply::ConnectRefused(ReasonCode::SERVER_BUSY), effects);
            return;
        }
        let found = match known {
            None => Found::Nothing,
            Some(session) if connect.clean_start || !session.durable => Found::Replaced(session.id),
            Some(session) => Found::Resumed(session.id),
        };
        if let Some(session) = known
            && let Some(owner) = session.owner()
        {
            // [MQTT-3.1.4-3]
            let reason = ReasonCode::SESSION_TAKEN_OVER;
            effects.push(Effect::Close { owner, session: session.id, reason });
            // Perhaps it has said DISCONNECT already: its will waits for the news of its end. A resumption cancels a delay.
            let fires = match found {
                Found::Resumed(_) => session.will.is_some_and(|will| will.delay_s == 0),
                Found::Nothing | Found::Replaced(_) => true,
            };
            let (id, epoch, client_id) = (session.id, session.epoch, session.client_id.clone());
            let will = if fires { self.sessions.take_will(id) } else { None };
            self.displaced.insert(epoch, client_id, owner, will.map(|will| will.message));
        }
        let previous: Vec<Owner> = self.displaced.of(connect.client_id.as_str()).collect();
        self.last_epoch = Epoch(self.last_epoch.0 + 1);
        let expiry = capped(connect.expiry, self.config.session_expiry_max_s);
        let session = match found {
            Found::Resumed(session) => session,
            Found::Replaced(session) => {
                let by_client = connect.clean_start;
                let reason = if by_client { DropReason::CleanStart } else { DropReason::SessionEnded };
                self.end_session(session, reason, effects);
                self.create_session(&connect, expiry)
            }
            Found::Nothing => self.create_session(&connect, expiry),
        };
        let session_present = matches!(found, Found::Resumed(_));
        self.hold_will(place, session, will);
        self.occupy(session, &connect, expiry);
        let version = self.share_connected(session);
        self.answer(place, (session, version), session_present, previous, effects);
        self.with_session(session, effects, |delivery, session, marks| delivery.fill_window(session, marks));
    }

    fn create_session(&mut self, connect: &Connect, expiry: SessionExpiry) -> SessionId {
        self.last_session = SessionId(self.last_session.0 + 1);
        let id = self.last_session;
        let mut session = Session::new(id, own_text(&connect.client_id), own_text(&connect.principal));
        session.durable = expiry != SessionExpiry::AtClose;
        session.expiry = expiry;
        session.presence = Presence::Offline { since: self.state.now };
        self.sessions.insert(session);
        id
    }

    /// Gives the session to the connection.
    fn occupy(&mut self, id: SessionId, connect: &Connect, expiry: SessionExpiry) {
        let was_online = self.sessions.get(id).is_some_and(|session| session.owner().is_some());
        self.totals.online += u64::from(!was_online);
        self.sessions.set_presence(id, Presence::Online(connect.owner), expiry);
        let epoch = self.last_epoch;
        if let Some((session, marks)) = self.sessions.get_mut(id) {
            session.epoch = epoch;
            session.receive_max = connect.receive_max.max(1);
            session.inflight.resume();
            marks.mark(session, dirty::SESSION | dirty::DELIVERY);
        }
    }

    fn answer(
        &mut self,
        place: Place,
        (id, version): (SessionId, ShareVersion),
        session_present: bool,
        previous: Vec<Owner>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get(id) else { return };
        let reply = Reply::Connected {
            session: id,
            epoch: session.epoch,
            session_present,
            previous,
            subscriptions: session.subscribe_filters(),
            next_delivery: session.inflight.next_seq(),
            expiry: session.expiry,
            version,
        };
        self.state.reply(place, reply, effects);
    }
}
