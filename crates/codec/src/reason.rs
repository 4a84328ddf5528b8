//! MQTT 5 reason codes.

/// A reason code on the wire (MQTT 5, 2.4). Codes from 0x80 on are failures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct ReasonCode(u8);
