//! Whom a node dials, over a network that carries nothing and counts.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use tidelock::EnvironmentConfig;
use tidelock_certs::UnixTime;
use tidelock_certs::testing::{self, Odd};

use super::*;
use crate::transport::Carrier;

const LEASE: Duration = Duration::from_secs(3);
/// Larger than everybody else, so that it dials nobody unasked.
const US: NodeId = NodeId(100);

/// Where nobody answers.
#[derive(Debug, Default)]
struct Silence {
    sent: AtomicUsize,
}

impl Silence {
    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Carrier for Silence {
    fn addr(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 100], 7_700))
    }

    fn send(&self, _: SocketAddr, _: &[u8]) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn poll_receive(&self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<(usize, SocketAddr)> {
        Poll::Pending
    }
}

/// A node by itself, and what it sends.
fn alone() -> (Arc<Silence>, Arc<Dist>) {
    let network = Arc::new(Silence::default());
    let authority = testing::authority("test", UnixTime::now());
    let us = testing::node(&authority, US, "us", Odd::Nothing, UnixTime::now());
    let transport = Transport::over(network.clone(), &us, LEASE, [7; 32]).unwrap();
    let config = EnvironmentConfig {
        node: US,
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
    (network, dist)
}

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
