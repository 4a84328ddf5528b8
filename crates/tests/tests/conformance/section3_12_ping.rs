//! Chapters 3.12 and 3.13: PINGREQ and PINGRESP.
//!
//! Spec: MQTT 5, 3.12 and 3.13; MQTT 3.1.1, 3.12 and 3.13.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both};

/// The cases.
pub const CASES: &[Case] = &[
    both("pingresp_answers_pingreq", &["3.12.4-1"], &["3.12.4-1"], pingresp_answers),
    both("pingreq_with_a_body_is_malformed", &[], &[], pingreq_with_a_body),
];

fn pingresp_answers(cx: &Cx) -> Result<()> {
    let mut client = cx.open("client")?;
    client.send(&cx.hello("client").encode())?;
    client.connack()?;
    client.send(&[0xc0, 0, 0xc0, 0, 0xc0, 0, 0xe0, 0])?;
    let mut bytes = Vec::new();
    client.raw_until_closed(&mut bytes)?;
    ensure!(bytes == [0xd0, 0, 0xd0, 0, 0xd0, 0], "{bytes:02x?}");
    Ok(())
}

fn pingreq_with_a_body(cx: &Cx) -> Result<()> {
    cx.fails(&[0xc0, 1, 0], &[0x81])
}
