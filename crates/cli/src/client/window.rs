//! Packet identifiers of the messages sent and not yet acknowledged, in the order of sending.
//!
//! Owns: which identifier is free, how far each exchange has come, the order for sending again.
//! Does not: send.
//! Invariants: no identifier is used twice at once; identifiers are given out in ascending order, modulo wrap.
//! Limits: 65,535 identifiers; the window given, which the broker's Receive Maximum may lower.
//! Spec: MQTT 5, 4.4 and 4.9; [MQTT-2.2.1-3], [MQTT-4.4.0-1].

use std::collections::VecDeque;

use quorate_codec::PacketId;

/// How far the exchange of one message has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// PUBLISH was sent; PUBACK or PUBREC is awaited.
    Published,
    /// PUBREL was sent; PUBCOMP is awaited.
    Released,
}

/// Messages in flight from this client, with what the caller keeps of each.
pub struct Window<T> {
    /// Consecutive identifiers from `first`; `None` has been acknowledged before an older one.
    slots: VecDeque<Option<(T, Phase)>>,
    first: u16,
    open: usize,
    open_max: usize,
}

/// Number of packet identifiers.
const IDS: u32 = 65_535;

impl<T> Window<T> {
    /// A window for at most `open_max` messages at once.
    pub fn new(open_max: u16) -> Window<T> {
        Window { slots: VecDeque::new(), first: 1, open: 0, open_max: usize::from(open_max.max(1)) }
    }

    /// Changes how many messages may be in flight. Those that are stay.
    pub fn resize(&mut self, open_max: u16) {
        self.open_max = usize::from(open_max.max(1));
    }

    /// Another message may be sent.
    pub fn has_room(&self) -> bool {
        self.open < self.open_max && self.slots.len() < IDS as usize
    }

    /// Nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Messages in flight.
    pub fn len(&self) -> usize {
        self.open
    }

    /// Takes the next identifier for `item`. Call it only when there is room.
    pub fn push(&mut self, item: T) -> PacketId {
        let id = self.id_at(self.slots.len());
        self.slots.push_back(Some((item, Phase::Published)));
        self.open += 1;
        id
    }

    /// The exchange is over: PUBACK, PUBCOMP, or PUBREC with a failure. `None` for an identifier not in flight.
    pub fn complete(&mut self, id: PacketId) -> Option<T> {
        let at = self.offset(id);
        let (item, _) = self.slots.get_mut(at)?.take()?;
        self.open -= 1;
        while matches!(self.slots.front(), Some(None)) {
            self.slots.pop_front();
            self.first = self.first % 65_535 + 1;
        }
        Some(item)
    }

    /// PUBREC: the broker has the message, PUBREL is due. False for an identifier not in flight.
    pub fn release(&mut self, id: PacketId) -> bool {
        let at = self.offset(id);
        match self.slots.get_mut(at) {
            Some(Some((_, phase))) => {
                *phase = Phase::Released;
                true
            }
            _ => false,
        }
    }

    /// What is in flight, oldest first: the order for sending again [MQTT-4.6.0-1].
    pub fn iter(&self) -> impl Iterator<Item = (PacketId, &T, Phase)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| {
            let (item, phase) = slot.as_ref()?;
            Some((self.id_at(at), item, *phase))
        })
    }

    /// The oldest message in flight.
    pub fn oldest(&self) -> Option<&T> {
        self.iter().next().map(|(_, item, _)| item)
    }

    /// Forgets everything, because the session is gone. Returns what was still [`Phase::Published`], oldest first.
    pub fn abandon(&mut self) -> Vec<T> {
        self.first = self.id_at(self.slots.len()).get();
        self.open = 0;
        let published = |slot: Option<(T, Phase)>| match slot {
            Some((item, Phase::Published)) => Some(item),
            Some((_, Phase::Released)) | None => None,
        };
        self.slots.drain(..).filter_map(published).collect()
    }

    fn id_at(&self, offset: usize) -> PacketId {
        let offset = u32::try_from(offset).unwrap_or(0);
        let id = (u32::from(self.first) - 1 + offset) % IDS + 1;
        u16::try_from(id).ok().and_then(PacketId::new).unwrap_or(PacketId::MIN)
    }

    fn offset(&self, id: PacketId) -> usize {
        let distance = (u32::from(id.get()) + IDS - u32::from(self.first)) % IDS;
        usize::try_from(distance).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<T>(window: &Window<T>) -> Vec<u16> {
        window.iter().map(|(id, _, _)| id.get()).collect()
    }

    #[test]
    fn two_hundred_thousand_messages_wrap_the_identifiers() {
        let mut window = Window::new(3);
        let mut expected = 1_u32;
        for number in 0..200_000_u32 {
            let id = window.push(number);
            assert_eq!(u32::from(id.get()), expected);
            expected = expected % 65_535 + 1;
            if !window.has_room() {
                let id = window.iter().next().unwrap().0;
                assert_eq!(window.complete(id), Some(number - 2));
                assert_eq!(window.complete(id), None, "a second acknowledgement completes nothing");
            }
        }
    }

    #[test]
    fn an_identifier_is_not_reused_while_an_older_one_is_open() {
        let mut window = Window::new(u16::MAX);
        for number in 0..65_535_u32 {
            assert!(window.has_room());
            window.push(number);
        }
        assert!(!window.has_room());
        assert_eq!(window.complete(PacketId::new(7).unwrap()), Some(6));
        assert!(!window.has_room(), "identifier 1 is still in flight");
        assert_eq!(window.complete(PacketId::new(1).unwrap()), Some(0));
        assert!(window.has_room());
        assert_eq!(window.push(0).get(), 1);
    }

    #[test]
    fn acknowledgements_out_of_order_keep_the_order_of_the_rest() {
        let mut window = Window::new(10);
        let sent: Vec<PacketId> = (0..5).map(|number| window.push(number)).collect();
        window.complete(sent[2]);
        assert!(window.release(sent[1]));
        assert_eq!(ids(&window), [1, 2, 4, 5]);
        assert_eq!(window.iter().nth(1).unwrap().2, Phase::Released);
        window.complete(sent[0]);
        assert_eq!((ids(&window), window.len()), (vec![2, 4, 5], 3));
        assert!(!window.release(sent[0]));
        assert_eq!(window.abandon(), [3, 4], "a released message is the broker's already");
        assert!(window.is_empty());
        assert_eq!(window.push(9).get(), 6);
    }
}
