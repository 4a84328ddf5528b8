//! Both ends of a stream against each other, with losses.

use super::*;

const LEADER: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const NOW: Duration = Duration::from_secs(5);

fn stream() -> StreamId {
    StreamId::Node(NodeId(7), quorate_state::Incarnation(1))
}

fn command(n: u64) -> Bytes {
    Bytes::from(n.to_le_bytes().to_vec())
}

fn pushed(count: u64) -> NodeStream<u64> {
    let mut sender = NodeStream::default();
    for n in 1..=count {
        assert_eq!(sender.push(command(n), n), StreamSeq(n));
    }
    sender
}

#[test]
fn piece_sent_once_until_leader_changes() {
    let mut sender = pushed(3);
    let piece = sender.next_piece(LEADER, NOW).unwrap();
    assert_eq!((piece.first, piece.commands.len()), (StreamSeq(1), 3));
    assert_eq!(sender.next_piece(LEADER, NOW), None);
    let again = sender.next_piece(OTHER, NOW).unwrap();
    assert_eq!(again, piece);
}

#[test]
fn piece_without_progress_is_sent_again() {
    let mut sender = pushed(2);
    sender.next_piece(LEADER, NOW).unwrap();
    assert_eq!(sender.next_piece(LEADER, NOW + RESEND_AFTER), None);
    let late = NOW + RESEND_AFTER + Duration::from_millis(1);
    assert_eq!(sender.next_piece(LEADER, late).unwrap().first, StreamSeq(1));
    assert_eq!(sender.next_piece(LEADER, late), None, "sent again once, not for ever");
}

#[test]
fn applied_gives_each_op_its_reply() {
    let mut sender = pushed(3);
    sender.next_piece(LEADER, NOW);
    let done =
        sender.applied_to(report(Some(StreamSeq(0)), StreamSeq(2), vec![(StreamSeq(2), Reply::Fenced)]), NOW);
    let done: Vec<_> = done.into_iter().map(Durable::into_inner).collect();
    assert_eq!(done, [(1, None), (2, Some(Reply::Fenced))]);
    assert_eq!(sender.bytes(), 8);
}

#[test]
fn offer_gap_is_refused_with_the_sequence_expected() {
    let mut intake = Intake::default();
    let piece = Piece { first: StreamSeq(5), confirmed: StreamSeq(0), commands: vec![command(5)] };
    assert_eq!(intake.offer(stream(), piece, StreamSeq(3), LEADER), Offer::Gap(StreamSeq(4)));
    assert!(intake.is_empty());
}

#[test]
fn offer_overlap_takes_only_what_is_new() {
    let mut intake = Intake::default();
    let mut sender = pushed(4);
    let piece = sender.next_piece(LEADER, NOW).unwrap();
    assert_eq!(intake.offer(stream(), piece, StreamSeq(2), LEADER), Offer::Taken);
    let taken = intake.take(1 << 20);
    assert_eq!(taken, [(stream(), StreamSeq(3), StreamSeq(0), vec![command(3), command(4)])]);
    sender.rewind();
    let again = sender.next_piece(LEADER, NOW).unwrap();
    assert_eq!(intake.offer(stream(), again, StreamSeq(2), LEADER), Offer::Known);
}

#[test]
fn news_told_once_and_again_after_link_reset() {
    let mut intake = Intake::default();
    let piece = pushed(4).next_piece(LEADER, NOW).unwrap();
    intake.offer(stream(), piece, StreamSeq(0), OTHER);
    let applied = |_| StreamSeq(4);
    assert_eq!(intake.take_news(applied), [(stream(), OTHER, StreamSeq(0), StreamSeq(4))]);
    assert_eq!(intake.take_news(applied), []);
    intake.forget_told(OTHER);
    assert_eq!(intake.take_news(applied).len(), 1);
}

#[test]
fn take_shares_an_entry_between_streams() {
    let mut intake = Intake::default();
    let group = StreamId::Group(quorate_state::GroupId(3));
    intake.offer(stream(), pushed(100).next_piece(LEADER, NOW).unwrap(), StreamSeq(0), LEADER);
    intake.offer(group, pushed(100).next_piece(LEADER, NOW).unwrap(), StreamSeq(0), LEADER);
    let taken = intake.take(160);
    assert_eq!(taken.iter().map(|segment| segment.3.len()).collect::<Vec<_>>(), [10, 10]);
}

#[test]
fn take_keeps_to_the_size_of_an_entry_and_gives_each_stream_its_turn() {
    let mut intake = Intake::default();
    let large = || {
        let mut sender = NodeStream::default();
        sender.push(Bytes::from(vec![0; 100]), ());
        sender.push(Bytes::from(vec![0; 100]), ());
        sender.next_piece(LEADER, NOW).unwrap()
    };
    let streams: Vec<StreamId> =
        (1..=3).map(|group| StreamId::Group(quorate_state::GroupId(group))).collect();
    for stream in &streams {
        intake.offer(*stream, large(), StreamSeq(0), LEADER);
    }
    let mut served = Vec::new();
    while !intake.is_empty() {
        let taken = intake.take(200);
        assert!(taken.iter().map(|segment| segment.3.len()).sum::<usize>() <= 2);
        served.extend(taken.iter().map(|segment| segment.0));
    }
    assert_eq!(served, [&streams[..], &streams[..]].concat());
    intake.offer(stream(), large(), StreamSeq(0), LEADER);
    assert_eq!(intake.take(10)[0].3.len(), 1, "one that is larger goes alone");
}

#[test]
fn outbox_goes_back_when_refused_and_reports_progress_once() {
    let mut outbox = OutboxStream::default();
    assert_eq!(outbox.read_from(LEADER, NOW), Some(StreamSeq(1)));
    outbox.sent_to(StreamSeq(9));
    assert_eq!(outbox.read_from(LEADER, NOW), Some(StreamSeq(10)));
    outbox.rejected(StreamSeq(4), NOW);
    assert_eq!(outbox.read_from(LEADER, NOW), Some(StreamSeq(4)));
    outbox.applied_to(StreamSeq(6), NOW);
    assert_eq!(outbox.take_news(), Some(StreamSeq(6)));
    assert_eq!(outbox.take_news(), None);
    assert_eq!(outbox.read_from(OTHER, NOW), Some(StreamSeq(7)));
    outbox.rejected(StreamSeq(0), NOW);
    assert_eq!(outbox.read_from(OTHER, NOW), None);
    assert_eq!(outbox.read_from(OTHER, NOW + RETRY_AFTER), Some(StreamSeq(7)));
}

#[test]
fn command_whose_reply_is_lost_or_late_is_not_taken_for_successful() {
    let mut sender = NodeStream::default();
    for number in 1..=3 {
        sender.push(Bytes::from(vec![number]), number);
    }
    let firsts = |sender: &mut NodeStream<u8>| sender.next_piece(NodeId(2), NOW).map(|piece| piece.first);
    assert_eq!(firsts(&mut sender), Some(StreamSeq(1)));
    // The leader has said before that the second was refused; that has not come.
    let third = vec![(StreamSeq(3), Reply::Fenced)];
    assert_eq!(sender.applied_to(report(Some(StreamSeq(2)), StreamSeq(3), third.clone()), NOW).len(), 0);
    assert_eq!(
        firsts(&mut sender),
        Some(StreamSeq(1)),
        "all are sent again, so that the leader says it again"
    );
    let all = [vec![(StreamSeq(2), Reply::Fenced)], third].concat();
    let done = sender.applied_to(report(Some(StreamSeq(0)), StreamSeq(3), all), NOW);
    let done: Vec<_> = done.into_iter().map(Durable::into_inner).collect();
    assert_eq!(done, [(1, None), (2, Some(Reply::Fenced)), (3, Some(Reply::Fenced))]);
    assert_eq!(
        sender.applied_to(report(Some(StreamSeq(1)), StreamSeq(2), Vec::new()), NOW).len(),
        0,
        "late, and known"
    );
}

fn report(after: Option<StreamSeq>, applied: StreamSeq, replies: Vec<(StreamSeq, Reply)>) -> Report {
    Report { after, applied, replies }
}
