//! PROXY headers: what is read from them, what is refused, and that no byte after them is asked for.

use proptest::prelude::*;

use super::*;

/// Reads a header as a socket would be read; gives it with the number of bytes that it took.
fn read(wire: &[u8]) -> Result<(ProxyHeader, usize), ProxyError> {
    let mut taken = 0;
    loop {
        match parse(&wire[..taken])? {
            Parsed::Whole(header) => return Ok((header, taken)),
            Parsed::More(more) => {
                assert!(more > 0);
                assert!(taken + more <= PROXY_HEADER_BYTES_MAX, "asks for more than the limit");
                assert!(taken + more <= wire.len(), "the wire of the test is too short: {taken} and {more}");
                taken += more;
            }
        }
    }
}

fn client(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut wire = V2_START.to_vec();
    wire.extend([command, family]);
    wire.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    wire.extend(block);
    wire
}

fn addition(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend(value);
    bytes
}

const IPV4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0x07, 0x5b];

fn with_certificate(client: u8, verify: u8, name: &[u8]) -> Vec<u8> {
    let mut value = vec![client, 0, 0, 0, verify];
    value.extend(addition(0x21, b"TLSv1.3"));
    value.extend(addition(TLV_SSL_COMMON_NAME, name));
    let mut block = IPV4.to_vec();
    block.extend(addition(0x04, b"padding"));
    block.extend(addition(TLV_SSL, &value));
    v2(0x21, 0x11, &block)
}

#[test]
fn headers_are_read_and_what_follows_them_is_not() {
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 16], &[0, 80, 7, 91]].concat();
    let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 7], &[0; 16], &[0x12, 0x34, 7, 91]].concat();
    let cases: Vec<(Vec<u8>, Option<SocketAddr>)> = vec![
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 1883\r\n".to_vec(), client("192.0.2.7:4660")),
        (b"PROXY TCP6 2001:db8::9 ::1 80 1883\r\n".to_vec(), client("[2001:db8::9]:80")),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 80 1883\r\n".to_vec(), client("192.0.2.7:80")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN whatever 1 2 3\r\n".to_vec(), None),
        (v2(0x21, 0x11, &IPV4), client("192.0.2.7:4660")),
        (v2(0x21, 0x21, &v6), client("[2001:db8::9]:80")),
        (v2(0x21, 0x21, &mapped), client("192.0.2.7:4660")),
        (v2(0x21, 0x31, &[1; 216]), None),
        (v2(0x21, 0x00, b"anything"), None),
        (v2(0x20, 0x00, b""), None),
        (v2(0x20, 0x11, b"LOCAL: skipped"), None),
    ];
    for (header, expected) in cases {
        let mut wire = header.clone();
        wire.extend(b"\x16\x03\x01 what comes next");
        let (read, taken) = read(&wire).unwrap_or_else(|error| panic!("{header:?}: {error}"));
        assert_eq!(read.client, expected, "{header:?}");
        assert_eq!(taken, header.len());
    }
}

#[test]
fn common_name_counts_only_when_the_proxy_has_verified_it() {
    for (wire, expected) in [
        (with_certificate(0x07, 0, b"pump-7"), Some(&b"pump-7"[..])),
        (with_certificate(0x05, 0, b"pump-7"), Some(&b"pump-7"[..])),
        (with_certificate(0x01, 0, b"pump-7"), None),
        (with_certificate(0x07, 1, b"pump-7"), None),
        (with_certificate(0x06, 0, b"pump-7"), None),
    ] {
        assert_eq!(read(&wire).unwrap().0.common_name.as_deref(), expected);
    }
}

#[test]
fn bytes_that_are_no_header_are_refused() {
    let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    let cut = [&IPV4[..], &[TLV_SSL, 0, 9, 1]].concat();
    for (wire, error) in [
        (b"\x10\x0c\0\x04MQTT\x05\0\0\0\0".to_vec(), ProxyError::NoHeader),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03..".to_vec(), ProxyError::NoHeader),
        (b"GET /mqtt HTTP/1.1\r\n".to_vec(), ProxyError::NoHeader),
        (b"PROXY \r\n            ".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660\r\n".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 1883 1\r\n".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 192.0.2.7  10.0.0.1 4660 1883\r\n".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 ::1 ::1 4660 1883\r\n".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 +660 1883\r\n".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 66000 1883\r\n".to_vec(), ProxyError::Line),
        (b"PROXY UNIX 1 2 3 4 5\r\n".to_vec(), ProxyError::Line),
        (b"PROXY UNKNOWN a\nb\r\n".to_vec(), ProxyError::Line),
        (long, ProxyError::Line),
        (v2(0x11, 0x11, &IPV4), ProxyError::Unknown),
        (v2(0x22, 0x11, &IPV4), ProxyError::Unknown),
        (v2(0x21, 0x41, &IPV4), ProxyError::Unknown),
        (v2(0x21, 0x13, &IPV4), ProxyError::Unknown),
        (v2(0x21, 0x11, &IPV4[..11]), ProxyError::CutOff),
        (v2(0x21, 0x21, &[0; 35]), ProxyError::CutOff),
        (v2(0x21, 0x11, &cut), ProxyError::CutOff),
        (v2(0x21, 0x00, &[0; 5000]), ProxyError::TooLong(5016)),
    ] {
        assert_eq!(read(&wire), Err(error), "{}", wire.escape_ascii());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_reading_beyond(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_any(&bytes);
    }

    #[test]
    fn any_bytes_after_a_true_beginning_are_judged(
        second in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        line in "[ -~\r\n]{0,120}",
    ) {
        let mut wire = if second { V2_START.to_vec() } else { V1_START.to_vec() };
        wire.extend(if second { bytes } else { line.into_bytes() });
        check_any(&wire);
    }

    #[test]
    fn any_additions_are_walked_to_their_end(additions in prop::collection::vec(any::<u8>(), 0..200)) {
        let block = [&IPV4[..], &additions].concat();
        let wire = v2(0x21, 0x11, &block);
        if let Ok((header, taken)) = read(&wire) {
            prop_assert_eq!(taken, wire.len());
            prop_assert_eq!(header.client, client("192.0.2.7:4660"));
        }
    }

    #[test]
    fn addresses_of_version_1_survive(address in any::<SocketAddr>(), other in any::<u16>()) {
        let (family, to) = if address.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "::1") };
        let line = format!("PROXY {family} {} {to} {} {other}\r\n", address.ip(), address.port());
        let expected = SocketAddr::new(address.ip().to_canonical(), address.port());
        let (header, taken) = read(line.as_bytes()).unwrap();
        prop_assert_eq!(header.client, Some(expected));
        prop_assert_eq!(taken, line.len());
    }
}

/// Every beginning is judged without a panic, and once judged the judgement stands.
fn check_any(bytes: &[u8]) {
    let mut taken = 0;
    while let Ok(Parsed::More(more)) = parse(&bytes[..taken]) {
        assert!(more > 0 && taken + more <= PROXY_HEADER_BYTES_MAX);
        if taken + more > bytes.len() {
            break;
        }
        // Cut otherwise, the answer on the way is the same: it goes on.
        for cut in taken..taken + more {
            assert!(!matches!(parse(&bytes[..cut]), Ok(Parsed::Whole(_))), "ended early at {cut}");
        }
        taken += more;
    }
}
