//! Golden files: frames between nodes that earlier versions wrote stay readable, and this version writes the same.
//!
//! A failure here means a format change: it needs a new version byte, a decision record and a new golden file; the
//! old file stays. The file is hexadecimal, one frame per line without its length, `#` begins a comment.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_codec::{PacketId, QoS, ReasonCode, Text, TopicFilter, TopicName};
use quorate_node::action::PeerAddress;
use quorate_node::edge::{DirectMessage, SessionDelivery};
use quorate_node::peer::PeerMessage;
use quorate_node::routing::Draw;
use quorate_state::{
    ConnId, DeliverySeq, GroupId, Incarnation, LogIndex, Message, NodeId, Reply, SessionId, StreamId,
    StreamSeq,
};
use raft::eraftpb::{Entry, EntryType, MessageType};

fn topic() -> TopicName {
    TopicName::new(Text::from_static("plant/7/état")).unwrap()
}

fn message() -> Message {
    Message {
        topic: topic(),
        qos: QoS::AtLeastOnce,
        retain: true,
        expiry_s: Some(90),
        publisher: 0x0102_0304_0506_0708,
        properties: Bytes::from_static(&[1, 1]),
        payload: Bytes::from_static(b"{\"t\":21.5}"),
    }
}

fn share(text: &'static str) -> TopicFilter {
    TopicFilter::new(Text::from_static(text)).unwrap()
}

fn raft_messages() -> Vec<raft::eraftpb::Message> {
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    (entry.term, entry.index) = (3, 9);
    (entry.data, entry.context) = (Bytes::from_static(b"data"), Bytes::from_static(b"context"));
    let mut append = raft::eraftpb::Message::default();
    append.set_msg_type(MessageType::MsgAppend);
    (append.to, append.from, append.term, append.log_term) = (2, 1, 3, 2);
    (append.index, append.commit, append.reject_hint, append.priority) = (8, 7, 5, -4);
    append.reject = true;
    append.set_entries(vec![entry].into());
    let mut snapshot = raft::eraftpb::Message::default();
    snapshot.set_msg_type(MessageType::MsgSnapshot);
    let metadata = snapshot.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (77, 6);
    metadata.mut_conf_state().voters = vec![1, 2, 3];
    metadata.mut_conf_state().learners = vec![4];
    metadata.mut_conf_state().auto_leave = true;
    vec![append, snapshot]
}

fn frames() -> Vec<PeerMessage> {
    let (group, incarnation, conn) = (GroupId(3), Incarnation(5), ConnId(77));
    let stream = StreamId::Node(NodeId(2), incarnation);
    let commands = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
    let delivery = SessionDelivery {
        seq: DeliverySeq(8),
        packet_id: PacketId::new(65_535).unwrap(),
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: true,
        identifiers: vec![1, 268_435_455],
        expiry_s: Some(90),
        message: Some(message()),
    };
    let plain = SessionDelivery {
        seq: DeliverySeq(9),
        packet_id: PacketId::new(1).unwrap(),
        retain: false,
        dup: false,
        identifiers: vec![],
        expiry_s: None,
        ..delivery.clone()
    };
    let replies =
        vec![(StreamSeq(9), Reply::Rejected(ReasonCode::QUOTA_EXCEEDED)), (StreamSeq(10), Reply::Fenced)];
    let filter = TopicFilter::new(Text::from_static("plant/+/état")).unwrap();
    let query = 5 << 40 | 1;
    let mut encoded = BytesMut::new();
    message().encode(&mut encoded);
    let body = encoded.freeze();
    let raft = raft_messages().into_iter().map(|message| PeerMessage::Raft(group, Box::new(message)));
    let (first, confirmed) = (StreamSeq(100), StreamSeq(98));
    let others = vec![
        PeerMessage::StreamAppend { group, stream, first, confirmed, commands },
        PeerMessage::StreamAppend {
            group,
            stream: StreamId::Group(GroupId(0)),
            first,
            confirmed,
            commands: vec![],
        },
        PeerMessage::StreamApplied {
            group,
            stream,
            after: None,
            applied: StreamSeq(12),
            replies: replies.clone(),
        },
        PeerMessage::StreamApplied {
            group,
            stream,
            after: Some(StreamSeq(8)),
            applied: StreamSeq(12),
            replies,
        },
        PeerMessage::StreamReject { group, stream, expected: StreamSeq(7), leader: None },
        PeerMessage::StreamReject { group, stream, expected: StreamSeq(0), leader: Some(NodeId(2)) },
        PeerMessage::Deliver {
            group,
            incarnation,
            items: vec![(conn, SessionId(9), delivery), (conn, SessionId(9), plain)],
        },
        PeerMessage::Resync { group, session: SessionId(9), from: DeliverySeq(8) },
        PeerMessage::CloseConn { incarnation, conn, reason: 0x8e },
        PeerMessage::ConnClosed { incarnation, conn },
        PeerMessage::LeaseRequest { incarnation, sent_ms: 1234, applied: LogIndex(44) },
        PeerMessage::LeaseGrant { incarnation, sent_ms: 1234 },
        PeerMessage::ControlApplied(LogIndex(44)),
        PeerMessage::Barrier(LogIndex(43)),
        PeerMessage::RetainedBoundQuery { group, query },
        PeerMessage::RetainedBound { query, index: LogIndex(44) },
        PeerMessage::RetainedQuery { group, query, filter: filter.clone(), after: None, until: LogIndex(44) },
        PeerMessage::RetainedQuery { group, query, filter, after: Some(topic()), until: LogIndex(u64::MAX) },
        PeerMessage::RetainedPage { query, messages: vec![(body, Some(3))], next: Some(topic()) },
        PeerMessage::RetainedPage { query, messages: vec![], next: None },
        PeerMessage::Forward(Arc::new(DirectMessage { message: message() })),
        PeerMessage::ForwardShared {
            draw: Draw(0x1112_1314_1516_1718),
            shares: vec![share("$share/workers/plant/#"), share("$share/audit/plant/+/état")],
            message: Arc::new(DirectMessage { message: message() }),
        },
        PeerMessage::Counters {
            values: vec![("uptime".to_owned(), 7), ("bytes/received".to_owned(), u64::MAX)],
        },
        PeerMessage::Mark { conn: ConnId(0x3132), number: 0x3334 },
        PeerMessage::MarkAnswer { conn: ConnId(0x3132), number: 0x3334 },
        PeerMessage::Inquiry { number: 0x2122_2324, body: Bytes::from_static(b"{}") },
        PeerMessage::InquiryAnswer { number: 0x2122_2324, body: Bytes::from_static(b"null") },
    ];
    raft.chain(others).collect()
}

/// What nodes say to each other from level 2 on, besides the marks.
fn frames_of_level_2() -> Vec<PeerMessage> {
    let address = |node: u64, name: &str, address: &str| PeerAddress {
        node: NodeId(node),
        name: name.to_owned(),
        address: address.to_owned(),
    };
    let nodes = vec![address(1, "n1", "10.0.0.1:7000"), address(0x0102, "n4", "[::1]:7000")];
    vec![
        PeerMessage::DiskUnfit,
        PeerMessage::Nodes { index: LogIndex(44), nodes },
        PeerMessage::Nodes { index: LogIndex(u64::MAX), nodes: vec![] },
    ]
}

fn encoded(message: &PeerMessage) -> String {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(hex: &str) -> Bytes {
    let digits: Vec<u8> =
        hex.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>().into()
}

#[test]
fn frames_of_version_1_are_written_and_read_alike() {
    check_golden("peer-frames-1.hex", include_str!("golden/peer-frames-1.hex"), &frames());
}

#[test]
fn frames_of_level_2_are_written_and_read_alike() {
    check_golden("peer-frames-2.hex", include_str!("golden/peer-frames-2.hex"), &frames_of_level_2());
}

fn check_golden(name: &str, golden: &str, frames: &[PeerMessage]) {
    let lines: Vec<&str> = golden.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let written: Vec<String> = frames.iter().map(encoded).collect();
    assert_eq!(lines, written, "{name} should be:\n{}\n", written.join("\n"));
    for line in lines {
        assert_eq!(encoded(&PeerMessage::decode(unhex(line)).unwrap()), line);
    }
}

#[test]
fn every_kind_of_frame_is_in_the_golden_file() {
    let all = frames().into_iter().chain(frames_of_level_2());
    let kinds: std::collections::BTreeSet<String> =
        all.map(|frame| encoded(&frame)[2..4].to_owned()).collect();
    let expected: Vec<String> = (1..=24).chain(32..=33).map(|kind| format!("{kind:02x}")).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn frame_cut_short_or_with_more_behind_is_malformed() {
    // The payload of a forwarded message goes to the end of its frame.
    let open_ended =
        |frame: &PeerMessage| matches!(frame, PeerMessage::Forward(_) | PeerMessage::ForwardShared { .. });
    let all = frames().into_iter().chain(frames_of_level_2());
    for frame in all.filter(|frame| !open_ended(frame)) {
        let whole = unhex(&encoded(&frame));
        for length in 0..whole.len() {
            assert!(PeerMessage::decode(whole.slice(..length)).is_err(), "{length} bytes of {frame:?}");
        }
        let longer: Bytes = [&whole[..], &[0]].concat().into();
        assert!(PeerMessage::decode(longer).is_err(), "a byte behind {frame:?}");
    }
}
