//! Whom a node dials, over a network that counts what is sent.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use tidelock::EnvironmentConfig;
use tidelock_certs::testing::{self, Odd};
use tidelock_certs::{Authority, UnixTime};
use tokio::sync::mpsc;

use super::*;
use crate::transport::Carrier;

const LEASE: Duration = Duration::from_secs(3);
/// Larger than everybody else, so that it dials nobody unasked.
const US: NodeId = NodeId(100);
/// Somebody who can be there.
const PEER: NodeId = NodeId(2);
/// Datagrams that wait to be read; further ones are lost, as in networks.
const QUEUE_MAX: usize = 1024;

/// What was sent, and from where.
type Datagram = (Vec<u8>, SocketAddr);

/// Brings everything at once to whoever is plugged in. Where nobody is, nobody answers.
type Network = Arc<Mutex<HashMap<SocketAddr, mpsc::Sender<Datagram>>>>;

/// Where one node is plugged in, and how much it sends.
#[derive(Debug)]
struct Port {
    addr: SocketAddr,
    network: Network,
    sent: AtomicUsize,
    arrived: Mutex<mpsc::Receiver<Datagram>>,
}

impl Port {
    fn new(network: &Network, addr: SocketAddr) -> Arc<Self> {
        let (arrives, arrived) = mpsc::channel(QUEUE_MAX);
        lock(network).insert(addr, arrives);
        Arc::new(Port {
            addr,
            network: network.clone(),
            sent: AtomicUsize::new(0),
            arrived: Mutex::new(arrived),
        })
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Carrier for Port {
    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if let Some(port) = lock(&self.network).get(&to) {
            let _: Result<(), _> = port.try_send((datagram.to_vec(), self.addr));
        }
    }

    fn poll_receive(
        &self,
        poller: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<(usize, SocketAddr)> {
        match lock(&self.arrived).poll_recv(poller) {
            Poll::Ready(Some((bytes, from))) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Poll::Ready((bytes.len(), from))
            }
            // It is plugged in for as long as it is there.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

fn addr(node: NodeId) -> SocketAddr {
    let last = u8::try_from(node.0).expect("there are few nodes");
    SocketAddr::from(([10, 0, 0, last], 7_700))
}

fn node(
    network: &Network,
    authority: &Authority,
    id: NodeId,
    name: &str,
) -> (Arc<Port>, Arc<Dist>) {
    let port = Port::new(network, addr(id));
    let identity = testing::node(authority, id, name, Odd::Nothing, UnixTime::now());
    let transport = Transport::over(port.clone(), &identity, LEASE, [7; 32]).unwrap();
    let config = EnvironmentConfig {
        node: id,
        ..EnvironmentConfig::default()
    };
    let dist = Dist::new(DistConfig {
        env: Environment::new(config).unwrap(),
        transport,
        lease: LEASE,
        limits: session::Limits::default(),
        mesh_max: usize::MAX,
        network: Handle::current(),
    });
    (port, dist)
}

/// A node by itself, and what it sends.
fn alone() -> (Arc<Port>, Arc<Dist>) {
    let authority = testing::authority("test", UnixTime::now());
    node(&Network::default(), &authority, US, "us")
}

/// A node and its peer. The peer knows where it is, and it knows a place of the peer where nobody answers. Neither
/// lists the other as alive, so that nobody dials unasked.
fn two() -> (Arc<Dist>, Arc<Dist>) {
    let network = Network::default();
    let authority = testing::authority("test", UnixTime::now());
    let (_, us) = node(&network, &authority, US, "us");
    let (_, peer) = node(&network, &authority, PEER, "peer");
    us.set_members([member(PEER.0, "peer", false)]);
    peer.set_members([Member {
        addr: addr(US),
        ..member(US.0, "us", false)
    }]);
    tokio::spawn(us.clone().accept());
    (us, peer)
}

/// The peer opens a session, and both have it.
async fn meet(us: &Dist, peer: &Dist) {
    let mut events = us.events();
    peer.redial(US).await.unwrap();
    let event = events.recv().await.unwrap();
    assert!(
        matches!(event, PeerEvent::Up { node, .. } if node == PEER),
        "{event:?}"
    );
}

/// Listed where nobody answers.
fn member(id: u64, name: &str, alive: bool) -> Member {
    Member {
        id: NodeId(id),
        name: name.to_owned(),
        addr: SocketAddr::from(([10, 0, 0, 1], 7_700)),
        alive,
        tags: Tags::default(),
    }
}

async fn why(dist: &Dist, node: u64) -> String {
    match dist.ready(NodeId(node)).await {
        Err(ExitReason::NodeDown { how, .. }) => how,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_dials_who_was_replaced() {
    let (network, dist) = alone();
    dist.set_members([member(1, "a", false), member(4, "a", true)]);
    let how = why(&dist, 1).await;
    assert_eq!(how, "n1 (a) was replaced by its restart n4");
    // The same by what its later start showed, whatever control lists.
    dist.set_members([member(2, "b", true)]);
    lock(&dist.newest).insert("b".into(), NodeId(7));
    let how = why(&dist, 2).await;
    assert_eq!(how, "n2 (b) was replaced by its restart n7");
    assert_eq!(network.sent(), 0);

    // Who is only lost is dialled, and so is who has the name now.
    dist.set_members([member(3, "c", false)]);
    for node in [3, 4] {
        let before = network.sent();
        let how = why(&dist, node).await;
        assert!(how.starts_with("no answer"), "{how}");
        assert!(network.sent() > before, "n{node} was not dialled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_failed_is_the_answer_for_a_moment() {
    let (network, dist) = alone();
    dist.set_members([member(1, "a", true)]);
    let first = why(&dist, 1).await;
    let (sent, began) = (network.sent(), Instant::now());
    assert!(sent > 0, "it was dialled");
    for _ in 0..1_000 {
        assert_eq!(why(&dist, 1).await, first);
    }
    // At once, and nothing was sent.
    assert_eq!((network.sent(), began.elapsed()), (sent, Duration::ZERO));

    tokio::time::advance(FAILURE_STANDS).await;
    let before = network.sent();
    why(&dist, 1).await;
    assert!(network.sent() > before, "it was dialled again");
}

#[tokio::test(start_paused = true)]
async fn whoever_redials_does_not_wait_for_that_moment() {
    let (_network, dist) = alone();
    dist.set_members([member(1, "a", true)]);
    why(&dist, 1).await;
    let began = Instant::now();
    assert!(dist.redial(NodeId(1)).await.is_err());
    assert_eq!(began.elapsed(), LEASE, "it dialled");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_opened_meanwhile_counts_for_more_than_a_dial_that_failed() {
    let (us, peer) = two();
    let began = Instant::now();
    let (failed, waited, ()) = tokio::join!(us.redial(PEER), us.redial(PEER), meet(&us, &peer));
    // It was under way before there was a session. Whoever waited for what it comes to has the session.
    assert!(failed.is_err());
    assert!(began.elapsed() >= LEASE);
    waited.unwrap();
    assert!(us.is_ready(PEER));

    // Nor is it the answer once that session is over, though it came to nothing just now.
    let failed_at = Instant::now();
    let live = us.live(PEER).unwrap();
    live.end(SessionError::Lost("cut off".into()));
    live.ended().await;
    assert!(failed_at.elapsed() < FAILURE_STANDS);
    let began = Instant::now();
    let how = why(&us, PEER.0).await;
    assert!(how.starts_with("no answer"), "{how}");
    assert!(began.elapsed() >= LEASE, "it was not dialled");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_opened_meanwhile_counts_for_more_than_a_later_start() {
    let (us, peer) = two();
    meet(&us, &peer).await;
    // Whoever asks here looked for a session just before there was one. Control lists a later start.
    us.set_members([member(4, "peer", true)]);
    us.open(PEER).await.unwrap();
    // It has shown itself, too.
    lock(&us.newest).insert("peer".into(), NodeId(4));
    us.open(PEER).await.unwrap();

    let live = us.live(PEER).unwrap();
    live.end(SessionError::Lost("cut off".into()));
    live.ended().await;
    let how = why(&us, PEER.0).await;
    assert_eq!(how, "n2 (peer) was replaced by its restart n4");
}

#[tokio::test(start_paused = true)]
async fn an_end_is_noted_by_the_sessions_that_do_not_know_of_it() {
    let (us, peer) = two();
    meet(&us, &peer).await;
    let live = us.live(PEER).unwrap();
    let local = Pid::new(US, 1).unwrap();
    us.note(PEER, local).unwrap();
    us.ended(local, Some(PEER));
    assert_eq!(live.locals(), 1, "left to its Exit");
    us.ended(local, None);
    assert_eq!(live.locals(), 0);

    // Its last word is what it is forgotten with.
    let to = Pid::new(PEER, 1).unwrap();
    us.note(PEER, local).unwrap();
    let reason = ExitReason::Exit(1);
    let said = us.signal(Environ::default(), local, to, &LinkSignal::Exit { reason });
    said.unwrap();
    us.ended(local, Some(PEER));
    assert_eq!(live.locals(), 0);
}
