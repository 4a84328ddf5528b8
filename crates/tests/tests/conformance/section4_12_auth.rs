//! Chapters 3.15 and 4.12: enhanced authentication, which this broker does not offer.
//!
//! Spec: MQTT 5, 3.15, 4.12.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, only5};
use crate::packet::{AUTH, packet};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    only5(
        "unsupported_authentication_method_closes",
        &["4.12.0-1", "4.12.0-4", "3.1.4-2"],
        unsupported_method,
    ),
    only5("connack_has_no_method_unless_asked", &["4.12.0-6"], no_method),
    only5("auth_without_a_method_closes", &["4.12.0-7"], auth_without_a_method),
    only5("reauthentication_without_a_method_closes", &["4.12.1-2"], reauthentication),
    only5("auth_with_other_reserved_bits_is_malformed", &["3.15.1-1"], reserved_bits),
    only5("authentication_data_without_a_method", &[], data_without_a_method),
    only5("auth_behind_a_refused_connect_is_not_processed", &["3.1.4-6"], auth_behind_a_refused_connect),
];

fn unsupported_method(cx: &Cx) -> Result<()> {
    for method in ["SCRAM-SHA-256", "GS2-KRB5", ""] {
        let connect = cx.hello("client").property(p::string(p::AUTH_METHOD, method));
        cx.refused(&connect, None, &[0x8c, 0x87])?;
        cx.refused(&connect.property(p::bytes(p::AUTH_DATA, &[1, 2])), None, &[0x8c, 0x87])?;
    }
    Ok(())
}

fn no_method(cx: &Cx) -> Result<()> {
    let (mut client, connack) = cx.connect_with(&cx.hello("client"))?;
    ensure!(!connack.properties.has(p::AUTH_METHOD) && !connack.properties.has(p::AUTH_DATA), "{connack:?}");
    client.ping()
}

fn auth_without_a_method(cx: &Cx) -> Result<()> {
    cx.fails(&[AUTH, 0], &[0x82, 0x81])?;
    let method = p::string(p::AUTH_METHOD, "m");
    let body = [&[0x18, method.len() as u8][..], &method].concat();
    cx.fails(&packet(AUTH, &body), &[0x82, 0x8c])
}

fn reauthentication(cx: &Cx) -> Result<()> {
    let method = p::string(p::AUTH_METHOD, "m");
    let body = [&[0x19, method.len() as u8][..], &method].concat();
    cx.fails(&packet(AUTH, &body), &[0x82, 0x8c, 0x87])
}

fn reserved_bits(cx: &Cx) -> Result<()> {
    (1..16).try_for_each(|bits| cx.fails(&packet(AUTH | bits, &[0x18, 0]), &[0x81]))
}

fn data_without_a_method(cx: &Cx) -> Result<()> {
    cx.refused(&cx.hello("client").property(p::bytes(p::AUTH_DATA, b"x")), None, &[0x82])
}

fn auth_behind_a_refused_connect(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").property(p::string(p::AUTH_METHOD, "m")).encode();
    let mut client = cx.open("client")?;
    client.send(&[connect, packet(AUTH, &[0x18, 0])].concat())?;
    client.refused(None, &[0x8c, 0x87])
}
