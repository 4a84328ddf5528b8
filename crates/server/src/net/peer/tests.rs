//! Links between nodes on loopback: order, reconnection, and who is refused.

use std::sync::atomic::AtomicUsize;

use quorate_state::Incarnation;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::sync::mpsc;

use super::*;
use crate::limits::PEER_OUTGOING_BYTES_MAX;
use crate::net::hello::Member;
use crate::testing::Authority;

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Up(NodeId),
    Down(NodeId),
    Gone,
    Message(NodeId, LinkKind, Vec<u8>),
}

struct Recorder(mpsc::Sender<Seen>);

impl LinkReceiver for Recorder {
    async fn up(&self, peer: NodeId) {
        self.0.send(Seen::Up(peer)).await.unwrap();
    }
    async fn down(&self, peer: NodeId) {
        let _gone_at_the_end = self.0.send(Seen::Down(peer)).await;
    }
    async fn frames(&self, peer: NodeId, link: LinkKind, frames: Vec<Frame>) -> bool {
        for frame in frames {
            if &frame.payload[2..] == b"nonsense" {
                return false;
            }
            self.0.send(Seen::Message(peer, link, frame.payload[2..].to_vec())).await.unwrap();
        }
        true
    }
    async fn snapshot(&self, peer: NodeId, mut connection: PeerConnection) {
        let frame = connection.read(1000).await.unwrap();
        self.0.send(Seen::Message(peer, LinkKind::Snapshot, frame.payload.to_vec())).await.unwrap();
        connection.write(FrameKind::SnapshotStaged, b"").await.unwrap();
        connection.close().await;
    }
    async fn backup(&self, _peer: NodeId, connection: PeerConnection) {
        connection.close().await;
    }

    async fn repair(&self, _: NodeId, connection: PeerConnection) {
        connection.close().await;
    }

    async fn join(&self, _: Hello, _: PeerConnection) {}

    fn gone(&self) {
        let _nobody_listens_at_the_end = self.0.try_send(Seen::Gone);
    }
}

impl Authority {
    fn tls(&self, name: &str) -> PeerTls {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        PeerTls::new(vec![self.0.as_ref().der().clone()], vec![certificate.der().clone()], key).unwrap()
    }
}

struct TestNode {
    id: NodeId,
    name: String,
    address: String,
    local: Arc<Local>,
    links: Arc<Links<Recorder>>,
    seen: mpsc::Receiver<Seen>,
}

/// A message as the node encodes it: version and kind first.
fn message(text: &[u8]) -> impl FnOnce(&mut BytesMut) {
    move |out| {
        out.extend_from_slice(&[1, 5]);
        out.extend_from_slice(text);
    }
}

fn members() -> Vec<Member> {
    [1, 2, 3].map(|id| Member { id: NodeId(id), name: format!("n{id}"), disk: [id as u8; 16] }).into()
}

impl TestNode {
    async fn new(tls: PeerTls, id: u64, incarnation: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, tls, id, incarnation).await
    }

    async fn on(listener: TcpListener, tls: PeerTls, id: u64, incarnation: u64) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let name = format!("n{id}");
        let local = Arc::new(Local::new(Hello {
            link: LinkKind::Probe,
            cluster: "test".to_owned(),
            agreement: [7; 16],
            cluster_id: [8; 16],
            name: name.clone(),
            id: NodeId(id),
            disk: [id as u8; 16],
            incarnation: Incarnation(incarnation),
            members: members(),
        }));
        let (sender, seen) = mpsc::channel(10_000);
        let runtime = tokio::runtime::Handle::current();
        let links =
            Links::new(local.clone(), tls, Arc::new(Recorder(sender)), runtime, PEER_OUTGOING_BYTES_MAX);
        links.listen(listener);
        TestNode { id: NodeId(id), name, address, local, links, seen }
    }

    fn place(&self) -> PeerPlace {
        PeerPlace { id: self.id, name: self.name.clone(), address: self.address.clone() }
    }

    async fn next(&mut self) -> Seen {
        timeout(Duration::from_secs(20), self.seen.recv()).await.expect("something within 20 s").unwrap()
    }

    fn send(&self, to: NodeId, text: &[u8]) -> bool {
        let queued = self.links.send(to, message(text));
        self.links.flush();
        queued
    }
}

async fn pair() -> (TestNode, TestNode) {
    let authority = Authority::new();
    let mut a = TestNode::new(authority.tls("n1"), 1, 1).await;
    let mut b = TestNode::new(authority.tls("n2"), 2, 1).await;
    a.links.set_peers(vec![b.place(), a.place()]);
    b.links.set_peers(vec![a.place(), b.place()]);
    assert_eq!(a.next().await, Seen::Up(b.id));
    assert_eq!(b.next().await, Seen::Up(a.id));
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_both_ways_on_both_links() {
    let (mut a, mut b) = pair().await;
    for number in 0..2000u32 {
        let bytes = number.to_be_bytes();
        assert!(a.links.send(b.id, message(&bytes)));
        if number % 7 == 0 {
            a.links.flush();
        }
        assert!(b.send(a.id, &bytes));
    }
    a.links.flush();
    for number in 0..2000u32 {
        let bytes = number.to_be_bytes().to_vec();
        assert_eq!(b.next().await, Seen::Message(a.id, LinkKind::Raft, bytes.clone()));
        assert_eq!(a.next().await, Seen::Message(b.id, LinkKind::Raft, bytes));
    }
    assert!(a.links.forward(b.id, message(b"direct")));
    assert_eq!(b.next().await, Seen::Message(a.id, LinkKind::Routing, b"direct".to_vec()));
    assert!(b.links.forward(a.id, message(b"direct")));
    assert_eq!(a.next().await, Seen::Message(b.id, LinkKind::Routing, b"direct".to_vec()));
    assert_eq!(a.links.connected(), [b.id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_peer_is_reported_down_then_up_and_old_incarnation_is_refused() {
    let authority = Authority::new();
    let mut a = TestNode::new(authority.tls("n1"), 1, 1).await;
    let mut b = TestNode::new(authority.tls("n2"), 2, 5).await;
    a.links.set_peers(vec![b.place()]);
    b.links.set_peers(vec![a.place()]);
    assert_eq!(a.next().await, Seen::Up(b.id));
    assert_eq!(b.next().await, Seen::Up(a.id));
    assert!(b.send(a.id, b"last"));
    assert_eq!(a.next().await, Seen::Message(b.id, LinkKind::Raft, b"last".to_vec()));
    let address = b.address.clone();
    b.links.stop().await;
    assert_eq!(a.next().await, Seen::Down(b.id));
    assert!(!a.send(b.id, b"lost"), "the link is down");
    let listener = TcpListener::bind(&address).await.unwrap();
    let mut b = TestNode::on(listener, authority.tls("n2"), 2, 6).await;
    b.links.set_peers(vec![a.place()]);
    assert_eq!(a.next().await, Seen::Up(b.id));
    assert_eq!(b.next().await, Seen::Up(a.id));
    assert!(a.send(b.id, b"found"));
    assert_eq!(b.next().await, Seen::Message(a.id, LinkKind::Raft, b"found".to_vec()));
    let mut stale = b.local.hello(LinkKind::Raft);
    stale.incarnation = Incarnation(5);
    assert!(matches!(a.links.check_member(&stale), Err(PeerError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_joined_anew_is_linked_although_only_it_knows() {
    let authority = Authority::new();
    for (anew, knows) in [("n1", "n2"), ("n2", "n1")] {
        let node = |name: &str| (authority.tls(name), if name == "n1" { 1 } else { 2 });
        let (tls, id) = node(anew);
        let mut anew = TestNode::new(tls, id, 1).await;
        let (tls, id) = node(knows);
        let mut knows = TestNode::new(tls, id, 1).await;
        let before = anew.place();
        let stale = anew.local.hello(LinkKind::Raft);
        anew.local.update(|hello| {
            hello.id = NodeId(7);
            hello.disk = [7; 16];
        });
        knows.links.set_peers(vec![before]);
        anew.links.set_peers(vec![knows.place()]);
        assert_eq!(knows.next().await, Seen::Up(NodeId(7)));
        // A link that was dialled to who it was may be replaced by the one to who it is.
        let wanted = Seen::Message(knows.id, LinkKind::Raft, b"to who it is".to_vec());
        for tries in 0.. {
            assert!(tries < 60, "the node gets messages as who it is");
            knows.send(NodeId(7), b"to who it is");
            if let Ok(Some(seen)) = timeout(Duration::from_millis(300), anew.seen.recv()).await
                && seen == wanted
            {
                break;
            }
        }
        let refused = knows.links.check_member(&stale);
        assert!(matches!(refused, Err(PeerError::Refused(_))), "who it was gets no link any more");
        let stranger = Hello { name: "n9".to_owned(), id: NodeId(9), ..stale };
        assert!(matches!(knows.links.check_member(&stranger), Err(PeerError::Refused(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_incarnation_has_to_hand_over_is_given_up() {
    let (a, mut b) = pair().await;
    assert!(a.links.forward(b.id, message(b"in time")));
    assert_eq!(b.next().await, Seen::Message(a.id, LinkKind::Routing, b"in time".to_vec()));
    b.links.declare_dead(a.id, Incarnation(1));
    // It waits at the one that does not know yet, which may try to connect as often as it likes.
    assert!(a.links.forward(b.id, message(b"too late")));
    assert!(a.send(b.id, b"raft goes on"));
    assert_eq!(b.next().await, Seen::Message(a.id, LinkKind::Raft, b"raft goes on".to_vec()));
    let stale = a.local.hello(LinkKind::Routing);
    assert!(matches!(b.links.link_partner(&stale), Err(PeerError::Refused(_))));
    a.links.begin_anew(|| a.local.update(|hello| hello.incarnation = Incarnation(2)));
    // What was about to be written on the connection that ends is lost with it.
    let anew = Seen::Message(a.id, LinkKind::Routing, b"anew".to_vec());
    for tries in 0.. {
        assert!(tries < 60, "the new incarnation gets its routing link");
        assert!(a.links.forward(b.id, message(b"anew")));
        if let Ok(seen) = timeout(Duration::from_millis(300), b.seen.recv()).await {
            assert_eq!(seen, Some(anew), "and nothing else comes");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_that_makes_no_sense_resets_the_link() {
    let (mut a, mut b) = pair().await;
    assert!(a.send(b.id, b"nonsense"));
    assert_eq!(b.next().await, Seen::Down(a.id));
    assert_eq!(b.next().await, Seen::Up(a.id));
    assert_eq!(a.next().await, Seen::Down(b.id));
    assert_eq!(a.next().await, Seen::Up(b.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_peer_loses_its_link() {
    let (mut a, mut b) = pair().await;
    b.links.set_peers(vec![]);
    assert_eq!(b.next().await, Seen::Down(a.id));
    assert_eq!(a.next().await, Seen::Down(b.id));
    assert!(!b.send(a.id, b"x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_has_a_connection_of_its_own() {
    let (a, mut b) = pair().await;
    let mut connection = a.links.open(b.id, LinkKind::Snapshot).await.unwrap();
    connection.write(FrameKind::SnapshotBegin, b"begin").await.unwrap();
    assert_eq!(b.next().await, Seen::Message(a.id, LinkKind::Snapshot, b"begin".to_vec()));
    assert_eq!(connection.read(1000).await.unwrap().kind, FrameKind::SnapshotStaged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused() {
    let authority = Authority::new();
    let a = TestNode::new(authority.tls("n1"), 1, 1).await;
    let other_authority = TestNode::new(Authority::new().tls("n2"), 2, 1).await;
    assert!(other_authority.links.probe("n1", &a.address).await.is_err(), "another authority");
    let impostor = TestNode::new(authority.tls("n9"), 2, 1).await;
    assert!(impostor.links.probe("n1", &a.address).await.is_err(), "certificate for n9 says it is n2");
    assert!(a.links.probe("n2", &impostor.address).await.is_err(), "n2 is expected, n9 answers");
    let friend = TestNode::new(authority.tls("n2"), 2, 1).await;
    assert_eq!(friend.links.probe("n1", &a.address).await.unwrap().id, a.id);
    friend.links.set_peers(vec![a.place()]);
    assert!(friend.links.open(a.id, LinkKind::Snapshot).await.is_err(), "no member yet");
    a.links.set_peers(vec![friend.place()]);
    for change in [
        (|hello: &mut Hello| hello.cluster_id = [9; 16]) as fn(&mut Hello),
        |hello| hello.disk = [9; 16],
        |hello| hello.name = "n3".to_owned(),
        |hello| hello.id = NodeId(9),
    ] {
        let mut hello = friend.local.hello(LinkKind::Raft);
        change(&mut hello);
        assert!(matches!(a.links.check_member(&hello), Err(PeerError::Refused(_))), "{hello:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_without_tls_gets_nothing() {
    let authority = Authority::new();
    let a = TestNode::new(authority.tls("n1"), 1, 1).await;
    let mut stream = TcpStream::connect(&a.address).await.unwrap();
    stream.write_all(b"\x00\x00\x00\x02\x01\x01 this is no TLS handshake at all").await.unwrap();
    let mut answer = Vec::new();
    let _alert_or_reset = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < 32, "at most an alert: {answer:?}");
}

#[test]
fn full_raft_queue_asks_for_a_reset_and_full_routing_queue_drops() {
    let counted = AtomicUsize::new(0);
    for kind in [LinkKind::Raft, LinkKind::Routing] {
        let lane = Lane::new(kind, PEER_OUTGOING_BYTES_MAX);
        lane.outgoing.lock().up = true;
        let message = vec![0u8; 8 * 1024 * 1024];
        while lane.push(|out| out.extend_from_slice(&message)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        assert!(lane.outgoing.lock().full);
    }
    assert_eq!(counted.load(Ordering::Relaxed), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_node_is_told_whether_it_dials_or_is_dialled() {
    for dialler_goes in [false, true] {
        let (a, b) = pair().await;
        let (mut gone, stays) = if dialler_goes { (a, b) } else { (b, a) };
        stays.links.set_gone(vec![gone.id]);
        stays.links.set_peers(vec![stays.place()]);
        // The routing link may be dialled again, and refused, before the end of the raft link is told.
        let seen = [gone.next().await, gone.next().await];
        let both = seen.contains(&Seen::Down(stays.id)) && seen.contains(&Seen::Gone);
        assert!(both, "the dialler goes: {dialler_goes}, seen: {seen:?}");
        // With another disk and no identity it is somebody new.
        let fresh = Hello { cluster_id: [0; 16], ..gone.local.hello(LinkKind::Probe) };
        assert!(!stays.links.is_gone(&fresh));
    }
}
