//! UTF-8 strings on the wire, shared without copying.

use bytes::Bytes;

/// A UTF-8 string that shares the bytes it was decoded from. Never holds U+0000 [MQTT-1.5.4-2].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text(Bytes);
