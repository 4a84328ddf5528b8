//! Who may come in: how many connections a listener has, how many are not through their handshake, and how fast they come.
//!
//! Owns: the counts of one listener, apart for each address. Does not: close sockets, read bytes.
//! Invariants: what a pass has taken is given back when it is dropped; an address is forgotten only when it holds nothing
//! and its rate is rested.
//! Limits: `ListenerLimits`; `HANDSHAKES_MAX` over all listeners; `ADDRESSES_MAX` addresses apart, all others as one.

use std::collections::HashMap; // lookup only
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::ListenerLimits;
use crate::limits::{ADDRESS_CONNECT_RATE, ADDRESS_HANDSHAKES_MAX, ADDRESSES_MAX, ADDRESSES_SWEEP_EVERY};
use crate::metrics::Refusal;

/// The gate of one listener.
pub struct Gate {
    limits: RwLock<ListenerLimits>,
    connections: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    /// Of the whole node.
    node_handshakes: Arc<Semaphore>,
    counts: Mutex<Counts>,
}

/// A place among the connections of a listener; kept until the connection ends.
pub struct Place(#[expect(dead_code, reason = "it is kept to be dropped")] Taken);

/// One of a number of places; given back when it is dropped. The number may be lowered below what is taken: then none
/// are given until enough have come back.
struct Taken(Arc<AtomicUsize>);

impl Taken {
    /// Takes a place, if fewer than `max` are taken.
    fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Taken> {
        let more = |count: usize| (count < max).then_some(count + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Taken(taken.clone()))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among those that have not sent their whole CONNECT.
pub struct Pass {
    gate: Arc<Gate>,
    address: Option<Key>,
    _places: (Taken, OwnedSemaphorePermit),
}

/// Addresses that count as one: the network of a customer for IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    Address(IpAddr),
    /// All for which there is no room.
    Others,
}

#[derive(Default)]
struct Counts {
    total: Bucket,
    addresses: HashMap<Key, Address>,
    swept_at: Duration,
}

#[derive(Default)]
struct Address {
    bucket: Bucket,
    handshakes: usize,
}

/// A token bucket that holds one second's worth; counted in tokens taken, so that a new one is full.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// Tokens taken and not yet refilled, times a thousand million.
    taken: u64,
    at: Duration,
}

const TOKEN: u64 = 1_000_000_000;

impl Bucket {
    /// Takes a token; false when there is none. A rate of 0 has always one.
    fn take(&mut self, rate: u32, now: Duration) -> bool {
        if rate == 0 {
            return true;
        }
        self.rest(rate, now);
        let full = self.taken.saturating_add(TOKEN) > u64::from(rate).saturating_mul(TOKEN);
        if !full {
            self.taken += TOKEN;
        }
        !full
    }

    /// Refills for the time that went by.
    fn rest(&mut self, rate: u32, now: Duration) {
        let passed = u64::try_from(now.saturating_sub(self.at).as_nanos()).unwrap_or(u64::MAX);
        self.taken = self.taken.saturating_sub(passed.saturating_mul(u64::from(rate)));
        self.at = self.at.max(now);
    }
}

impl Gate {
    /// The gate of a listener on a node with so many places for handshakes.
    pub fn new(limits: ListenerLimits, node_handshakes: Arc<Semaphore>) -> Gate {
        Gate {
            connections: Arc::default(),
            handshakes: Arc::default(),
            node_handshakes,
            counts: Mutex::default(),
            limits: RwLock::new(limits),
        }
    }

    /// Other limits, from the next connection on. Those that are in stay in.
    pub fn set_limits(&self, limits: ListenerLimits) {
        *self.limits.write() = limits;
    }

    /// Connections that are in.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Lets a connection in whose client is not known yet, or says why not.
    pub fn enter(self: &Arc<Self>, now: Duration) -> Result<(Place, Pass), Refusal> {
        let (rate, connections_max, handshakes_max) = {
            let limits = self.limits.read();
            (limits.connect_rate, limits.connections_max, limits.handshakes_max)
        };
        if !self.counts.lock().total.take(rate, now) {
            return Err(Refusal::ConnectRate);
        }
        let place = Taken::take(&self.connections, connections_max).ok_or(Refusal::ConnectionsMax)?;
        let own = Taken::take(&self.handshakes, handshakes_max).ok_or(Refusal::HandshakesMax)?;
        let node = self.node_handshakes.clone().try_acquire_owned().map_err(|_| Refusal::HandshakesMax)?;
        Ok((Place(place), Pass { gate: self.clone(), address: None, _places: (own, node) }))
    }

    /// Limits for this address: handshakes at once and connections in a second. None: without limit.
    fn limits_of(&self, address: IpAddr) -> (Option<usize>, u32) {
        let known = !address.is_loopback();
        let (handshakes, rate) = {
            let limits = self.limits.read();
            (limits.handshakes_per_address_max, limits.connect_rate_per_address)
        };
        (
            handshakes.or(known.then_some(ADDRESS_HANDSHAKES_MAX)),
            rate.unwrap_or(if known { ADDRESS_CONNECT_RATE } else { 0 }),
        )
    }
}

impl Pass {
    /// The client's address is known now: counts it, or says why it may not come in.
    pub fn identify(&mut self, address: IpAddr, now: Duration) -> Result<(), Refusal> {
        let address = address.to_canonical();
        let (handshakes_max, rate) = self.gate.limits_of(address);
        if handshakes_max.is_none() && rate == 0 {
            return Ok(());
        }
        let mut counts = self.gate.counts.lock();
        let key = counts.place_for(Key::of(address), rate, now);
        let entry = counts.addresses.entry(key).or_default();
        if !entry.bucket.take(rate, now) {
            return Err(Refusal::AddressConnectRate);
        }
        if handshakes_max.is_some_and(|max| entry.handshakes >= max) {
            return Err(Refusal::AddressHandshakesMax);
        }
        entry.handshakes += 1;
        self.address = Some(key);
        Ok(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some(key) = self.address else { return };
        if let Some(entry) = self.gate.counts.lock().addresses.get_mut(&key) {
            entry.handshakes = entry.handshakes.saturating_sub(1);
        }
    }
}

impl Counts {
    /// Under which key an address is counted. Makes room when there is none.
    fn place_for(&mut self, key: Key, rate: u32, now: Duration) -> Key {
        if self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&key) {
            return key;
        }
        if now.saturating_sub(self.swept_at) >= ADDRESSES_SWEEP_EVERY {
            self.swept_at = now;
            self.addresses.retain(|_, entry| {
                entry.bucket.rest(rate.max(1), now);
                entry.handshakes > 0 || entry.bucket.taken > 0
            });
        }
        if self.addresses.len() < ADDRESSES_MAX { key } else { Key::Others }
    }
}

impl Key {
    fn of(address: IpAddr) -> Key {
        Key::Address(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(limits: ListenerLimits) -> Arc<Gate> {
        Arc::new(Gate::new(limits, Arc::new(Semaphore::new(1000))))
    }

    fn at(ms: u64) -> Duration {
        Duration::from_secs(100) + Duration::from_millis(ms)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn places_are_given_back() {
        let gate =
            gate(ListenerLimits { connections_max: 2, handshakes_max: 1, ..ListenerLimits::default() });
        let (first, pass) = gate.enter(at(0)).ok().unwrap();
        assert_eq!(gate.enter(at(0)).err(), Some(Refusal::HandshakesMax));
        drop(pass);
        let (_second, pass) = gate.enter(at(0)).ok().unwrap();
        drop(pass);
        assert_eq!(gate.enter(at(0)).err(), Some(Refusal::ConnectionsMax));
        drop(first);
        assert!(gate.enter(at(0)).is_ok());
    }

    #[test]
    fn lowered_limit_counts_those_that_are_in_already() {
        let limits = |connections_max: usize| ListenerLimits { connections_max, ..ListenerLimits::default() };
        let gate = gate(limits(3));
        let mut places: Vec<_> = (0..3).map(|_| gate.enter(at(0)).ok().unwrap().0).collect();
        gate.set_limits(limits(2));
        assert_eq!((gate.connections(), gate.enter(at(0)).err()), (3, Some(Refusal::ConnectionsMax)));
        places.pop();
        assert_eq!(gate.enter(at(0)).err(), Some(Refusal::ConnectionsMax));
        places.pop();
        assert!(gate.enter(at(0)).is_ok());
        gate.set_limits(limits(4));
        assert_eq!((0..9).map_while(|_| gate.enter(at(0)).ok()).collect::<Vec<_>>().len(), 3);
    }

    #[test]
    fn handshakes_of_the_node_are_limited_over_its_listeners() {
        let node = Arc::new(Semaphore::new(1));
        let gates = [(); 2].map(|()| Arc::new(Gate::new(ListenerLimits::default(), node.clone())));
        let entered = gates[0].enter(at(0)).ok().unwrap();
        assert_eq!(gates[1].enter(at(0)).err(), Some(Refusal::HandshakesMax));
        drop(entered);
        assert!(gates[1].enter(at(0)).is_ok());
    }

    #[test]
    fn rates_allow_a_second_at_once_and_then_what_they_say() {
        let gate = gate(ListenerLimits { connect_rate: 10, ..ListenerLimits::default() });
        let entered = |ms: u64| (0..100).take_while(|_| gate.enter(at(ms)).is_ok()).count();
        assert_eq!(entered(0), 10);
        assert_eq!(entered(99), 0);
        assert_eq!(entered(100), 1);
        assert_eq!(entered(450), 3);
        assert_eq!(entered(60_000), 10);
        assert_eq!(gate.enter(at(60_000)).err(), Some(Refusal::ConnectRate));
    }

    #[test]
    fn addresses_are_counted_apart_and_networks_of_ipv6_as_one() {
        let gate = gate(ListenerLimits {
            handshakes_per_address_max: Some(1),
            connect_rate_per_address: Some(2),
            ..ListenerLimits::default()
        });
        let enter = |address: &str, ms: u64| {
            let (place, mut pass) = gate.enter(at(ms)).ok().unwrap();
            pass.identify(address.parse().unwrap(), at(ms)).map(|()| (place, pass))
        };
        let held = enter("192.0.2.1", 0).ok().unwrap();
        assert_eq!(enter("::ffff:192.0.2.1", 0).err(), Some(Refusal::AddressHandshakesMax));
        assert_eq!(enter("192.0.2.1", 0).err(), Some(Refusal::AddressConnectRate), "refused ones count too");
        assert!(enter("192.0.2.2", 0).is_ok());
        drop(held);
        assert!(enter("192.0.2.1", 1000).is_ok());
        let _held = enter("2001:db8::1", 0).ok().unwrap();
        assert_eq!(enter("2001:db8::2", 0).err(), Some(Refusal::AddressHandshakesMax));
        assert!(enter("2001:db8:0:1::1", 0).is_ok());
    }

    #[test]
    fn loopback_is_limited_only_when_the_configuration_says_so() {
        let gate = gate(ListenerLimits { connect_rate: 0, ..ListenerLimits::default() });
        let passes = |address: IpAddr, count: usize| -> usize {
            let entered = (0..count).map(|_| gate.enter(at(0)).ok().unwrap());
            let mut passes: Vec<_> = entered.collect();
            passes.iter_mut().filter_map(|(_, pass)| pass.identify(address, at(0)).ok()).count()
        };
        assert_eq!(passes(IpAddr::from([127, 0, 0, 1]), 300), 300);
        assert_eq!(passes(address(1), 300), ADDRESS_HANDSHAKES_MAX);
    }

    #[test]
    fn table_of_addresses_is_bounded_and_forgets_those_at_rest() {
        let gate = gate(ListenerLimits { connect_rate_per_address: Some(1), ..ListenerLimits::default() });
        let mut counts = Counts::default();
        let key = |number: usize| {
            let number = u32::try_from(number).unwrap();
            Key::of(IpAddr::from(number.to_be_bytes()))
        };
        for number in 0..ADDRESSES_MAX {
            let key = counts.place_for(key(number), 1, at(0));
            assert!(counts.addresses.entry(key).or_default().bucket.take(1, at(0)));
        }
        assert_eq!(counts.place_for(key(ADDRESSES_MAX), 1, at(500)), Key::Others);
        assert_eq!(counts.place_for(key(5), 1, at(500)), key(5), "one that is known keeps its place");
        assert_eq!(counts.place_for(key(ADDRESSES_MAX), 1, at(2000)), key(ADDRESSES_MAX));
        assert!(counts.addresses.is_empty());
        drop(gate);
    }
}
