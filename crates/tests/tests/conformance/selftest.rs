//! The table's own checkers, tried on doctored input that they must flag.
//!
//! Owns: the proof that `decode` refuses what a server must not send, and that `report` notices what is missing.
//! Does not: start a node.

use anyhow::{Result, ensure};

use crate::case::{Case, both, only5};
use crate::decode::{decode, packet_length};
use crate::packet::{Publish, Version};
use crate::report::{Failed, Table, check_committed};

/// Packets that no server may send, with what is wrong with them.
const WRONG: [(Version, u8, &[u8], &str); 32] = [
    (Version::V4, 0x20, &[2, 0], "reserved acknowledge flag"),
    (Version::V4, 0x20, &[1, 5], "Session Present with a failure"),
    (Version::V4, 0x20, &[0, 6], "return code 6"),
    (Version::V31, 0x20, &[1, 0], "Session Present in 3.1"),
    (Version::V4, 0x20, &[0], "no return code"),
    (Version::V4, 0x20, &[0, 0, 0], "a byte behind"),
    (Version::V5, 0x20, &[0, 0], "no properties"),
    (Version::V5, 0x20, &[0, 0x8e, 0], "a code of DISCONNECT in CONNACK"),
    (Version::V5, 0x20, &[0, 0, 2, 0x24, 2], "Maximum QoS 2"),
    (Version::V5, 0x20, &[0, 0, 3, 0x21, 0, 0], "Receive Maximum 0"),
    (Version::V5, 0x20, &[0, 0, 4, 0x25, 1, 0x25, 1], "a property twice"),
    (Version::V5, 0x20, &[0, 0, 3, 0x23, 0, 1], "a property of PUBLISH in CONNACK"),
    (Version::V5, 0x20, &[0, 0, 0x80, 0], "length of the properties too long"),
    (Version::V4, 0x38, &[0, 1, b't'], "DUP with QoS 0"),
    (Version::V4, 0x36, &[0, 1, b't', 0, 1], "QoS 3"),
    (Version::V4, 0x32, &[0, 1, b't', 0, 0], "packet identifier 0"),
    (Version::V4, 0x30, &[0, 1, b'#'], "wildcard"),
    (Version::V4, 0x30, &[0, 0], "no topic name"),
    (Version::V4, 0x30, &[0, 1, 0xff], "ill-formed string"),
    (Version::V4, 0x30, &[0, 1, 0], "U+0000"),
    (Version::V5, 0x30, &[0, 0, 0], "neither topic name nor alias"),
    (Version::V5, 0x30, &[0, 1, b't', 3, 0x23, 0, 0], "alias 0"),
    (Version::V4, 0x40, &[0, 1, 0], "code in a PUBACK of 3.1.1"),
    (Version::V5, 0x40, &[0, 1, 0x92], "a code of PUBREL in PUBACK"),
    (Version::V5, 0x60, &[0, 1], "reserved bits of PUBREL"),
    (Version::V4, 0x90, &[0, 1, 3], "code 3 in SUBACK"),
    (Version::V5, 0xb0, &[0, 1, 0, 1], "code 1 in UNSUBACK"),
    (Version::V4, 0xb0, &[0, 1, 0], "code in an UNSUBACK of 3.1.1"),
    (Version::V4, 0xd0, &[0], "PINGRESP with a body"),
    (Version::V4, 0xe0, &[], "DISCONNECT in 3.1.1"),
    (Version::V5, 0xe0, &[4], "a client's code in DISCONNECT"),
    (Version::V5, 0xe0, &[0, 5, 0x11, 0, 0, 0, 1], "Session Expiry Interval in a server's DISCONNECT"),
];

/// Tries the checkers.
///
/// # Errors
/// When one of them does not flag what it must.
pub fn run(all: &[&'static Case]) -> Result<()> {
    for (version, first, body, what) in WRONG {
        ensure!(decode(version, first, body).is_err(), "the decoder takes {what}");
    }
    ensure!(packet_length(&[0x30, 0x80, 0x00]).is_err(), "the decoder takes a length that is too long");
    ensure!(
        packet_length(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err(),
        "the decoder takes a length of five bytes"
    );
    let publish = Publish::new("t", "x").qos(1, 7).dup().encode(Version::V5);
    ensure!(decode(Version::V5, publish[0], &publish[2..]).is_ok(), "the decoder refuses what is right");
    check_table(all)
}

fn check_table(all: &[&'static Case]) -> Result<()> {
    static UNKNOWN: Case = only5("unknown", &["9.9.9-9"], |_| Ok(()));
    static EXEMPT: Case = only5("exempt", &["3.2.2-9"], |_| Ok(()));
    let sound = Table::new(all)?;
    let faults = |cases: &[&'static Case]| -> Result<usize> { Ok(Table::new(cases)?.faults().len()) };
    let few = faults(all)?;
    ensure!(faults(&[all, &[&UNKNOWN]].concat())? == few + 1, "an unknown statement is not noticed");
    ensure!(faults(&[all, &[&EXEMPT]].concat())? == few + 1, "a case for an exempt statement is not noticed");
    ensure!(faults(&[all, &all[..1]].concat())? > few, "a name that is there twice is not noticed");
    ensure!(faults(&[])? > 250, "statements without a case are not noticed");
    let page = sound.document(&Failed::new());
    check_committed(&page, &page)?;
    static ANOTHER: Case = both("another", &["3.1.0-1"], &[], |_| Ok(()));
    let other = Table::new(&[all, &[&ANOTHER]].concat())?.document(&Failed::new());
    ensure!(check_committed(&page, &other).is_err(), "a mapping that has changed is not noticed");
    let failed: Failed = all.iter().map(|case| (Version::V5, case.name)).collect();
    check_committed(&page, &sound.document(&failed))?;
    ensure!(sound.document(&failed).contains("FAILED"), "a failure is not written");
    Ok(())
}
