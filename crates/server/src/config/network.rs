//! Networks in the notation of addresses: `10.0.0.0/8`, `::1`.
//!
//! Owns: their syntax and whether an address lies in one. Does not: know what they are for.
//! Invariants: an IPv4 address written as IPv6 (`::ffff:10.0.0.1`) is the IPv4 address.

use std::fmt;
use std::net::IpAddr;

/// Addresses with a common beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No address.
    #[error("the part before / is no IP address")]
    Address,
    /// No number, or more than the address has bits.
    #[error("the part after / is no number of bits of that address")]
    Prefix,
    /// `10.0.0.1/8`: perhaps one address was meant, perhaps all of them.
    #[error("the address has bits beyond the prefix")]
    Beyond,
}

impl Network {
    /// Reads `ADDRESS` or `ADDRESS/BITS`.
    pub fn parse(text: &str) -> Result<Network, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(prefix) => {
                prefix.parse().ok().filter(|prefix| *prefix <= bits).ok_or(NetworkError::Prefix)?
            }
            None => bits,
        };
        let network = Network { address, prefix_bits };
        if network.masked(address) != address {
            return Err(NetworkError::Beyond);
        }
        Ok(network)
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == self.address
    }

    fn masked(&self, address: IpAddr) -> IpAddr {
        let shift = |bits: u32| bits.saturating_sub(u32::from(self.prefix_bits));
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(shift(32)).unwrap_or(0);
                IpAddr::V4((u32::from(address) & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(shift(128)).unwrap_or(0);
                IpAddr::V6((u128::from(address) & mask).into())
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_in_networks_by_their_first_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
            ("192.168.4.0/22", "::ffff:192.168.7.255", "::ffff:192.168.8.0"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{inside} in {network}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside} in {network}");
        }
    }

    #[test]
    fn texts_that_are_no_network_are_refused() {
        for (text, error) in [
            ("", NetworkError::Address),
            ("host/8", NetworkError::Address),
            ("10.0.0.0/33", NetworkError::Prefix),
            ("::/129", NetworkError::Prefix),
            ("10.0.0.0/", NetworkError::Prefix),
            ("10.0.0.0/-1", NetworkError::Prefix),
            ("10.0.0.1/8", NetworkError::Beyond),
        ] {
            assert_eq!(Network::parse(text), Err(error), "{text}");
        }
    }
}
