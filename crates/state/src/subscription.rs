//! The durable subscriptions of a partition by filter, and the routes they need.
//!
//! Owns: filter → sessions with options, and where in the outbox to control the filter's route was announced.
//! Does not: hold subscriptions of QoS 0 (they are served by the connection's node) or of transient sessions.
//! Invariants: a filter is here exactly while a session subscribes to it with QoS 1 or higher; then control was told
//! of the route. Limits: SUBSCRIBERS_FEW_MAX as a list. Spec: MQTT 5, 3.8.3.1 and 4.7.

use std::collections::BTreeMap;

use quorate_codec::QoS;

use crate::ids::{SessionId, StreamSeq};
use crate::limits::SUBSCRIBERS_FEW_MAX;
use crate::session::Subscription;

/// What matching needs of a subscription.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Interest {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) identifier: Option<u32>,
}

impl From<Subscription> for Interest {
    fn from(subscription: Subscription) -> Self {
        let options = subscription.options;
        Self {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            identifier: subscription.identifier,
        }
    }
}

/// The subscribers of one filter.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Subscribers {
    /// Position in the outbox to control that announced the route.
    pub(crate) route: StreamSeq,
    sessions: Sessions,
}

#[derive(Clone, PartialEq, Debug)]
enum Sessions {
    Few(Vec<(SessionId, Interest)>),
    Many(BTreeMap<SessionId, Interest>),
}

impl Subscribers {
    pub(crate) fn new(route: StreamSeq) -> Self {
        Self { route, sessions: Sessions::Few(Vec::new()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.sessions {
            Sessions::Few(few) => few.is_empty(),
            Sessions::Many(many) => many.is_empty(),
        }
    }

    /// Adds a session or replaces its options.
    pub(crate) fn insert(&mut self, session: SessionId, interest: Interest) {
        match &mut self.sessions {
            Sessions::Few(few) => match few.binary_search_by_key(&session, |entry| entry.0) {
                Ok(at) => *few.get_mut(at).expect("found at this place") = (session, interest),
                Err(at) if few.len() < SUBSCRIBERS_FEW_MAX => few.insert(at, (session, interest)),
                Err(_) => {
                    let mut many: BTreeMap<_, _> = few.drain(..).collect();
                    many.insert(session, interest);
                    self.sessions = Sessions::Many(many);
                }
            },
            Sessions::Many(many) => {
                many.insert(session, interest);
            }
        }
    }

    pub(crate) fn remove(&mut self, session: SessionId) {
        match &mut self.sessions {
            Sessions::Few(few) => {
                if let Ok(at) = few.binary_search_by_key(&session, |entry| entry.0) {
                    few.remove(at);
                }
            }
            Sessions::Many(many) => {
                many.remove(&session);
            }
        }
    }

    /// Calls `visit` for each session, in order of their numbers.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(SessionId, &Interest)) {
        match &self.sessions {
            Sessions::Few(few) => few.iter().for_each(|(session, interest)| visit(*session, interest)),
            Sessions::Many(many) => many.iter().for_each(|(session, interest)| visit(*session, interest)),
        }
    }
}
