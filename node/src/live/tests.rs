//! Sessions over real connections within one program, whose other end is the test.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidelock::{
    Environ, Environment, EnvironmentConfig, ExitReason, Filter, LinkSignal, Module, NodeId, Pid,
    Prepare, Received, SpawnOptions,
};
use tidelock_certs::{Shown, UnixTime, testing};
use tidelock_proto::session::{CONGESTED_BYTES, Limits, Session, SessionError};
use tidelock_proto::wire::{self, BulkHead, Frame, LANE_PAYLOAD_BYTES_MAX, Route};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::bulk::{BULK_READERS, BulkOut, HELD_BYTES_MAX, read_bulk};
use super::driver::{Driver, READ_BYTES};
use super::{Live, write_lane};
use crate::renewal::Certificates;
use crate::transport::{Connection, MTU_MAX, Opened, Socket, Transport};

/// Longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const US: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
/// A small bulk message.
const BULK_BYTES: usize = LANE_PAYLOAD_BYTES_MAX + 1;

/// A session with a peer, which is this test.
struct Met {
    live: Arc<Live>,
    _bulk: BulkOut,
    /// The peer's end of the connection.
    peer: Connection,
    _transports: [Transport; 2],
}

impl Met {
    async fn new() -> Self {
        let now = UnixTime::now();
        let authority = testing::authority("test", now);
        let right = testing::Odd::Nothing;
        let identity = |node, name| testing::node(&authority, node, name, right, now);
        let (ours, theirs) = (identity(US, "us"), identity(PEER, "peer"));
        let socket = || Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let here = socket();
        let addr = here.local_addr();
        let here = Transport::new(here, &ours, PATIENCE).unwrap();
        let there = Transport::new(socket(), &theirs, PATIENCE).unwrap();
        let accepted = async { here.accept().await.unwrap().complete().await };
        let (connection, peer) = tokio::join!(accepted, there.dial(addr));
        let connection = connection.unwrap();
        let certificates = Certificates::new(US, Shown::of(&theirs).unwrap(), &connection);
        let session = Session::new(US, PEER, 1, Limits::default());
        let (live, bulk) = Live::new(session, certificates, connection);
        Met {
            live,
            _bulk: bulk,
            peer: peer.unwrap(),
            _transports: [here, there],
        }
    }
}

fn pid(node: NodeId, local: u64) -> Pid {
    Pid::new(node, local).unwrap()
}

#[tokio::test]
async fn what_waits_behind_bulk_holds_up_its_own_pair_first() {
    let met = Met::new().await;
    let live = &met.live;
    let pair = |from| (pid(US, from), pid(PEER, 1));
    let route = |from| Route {
        environ: Environ::default(),
        from: pid(US, from),
        to: pid(PEER, 1),
    };
    // As much as there may be of it. It is not written here.
    live.send_bulk(&route(1), 1, Bytes::from(vec![0; HELD_BYTES_MAX + 1]));
    assert!(!live.takes(pair(1), BULK_BYTES) && !live.takes(pair(99), BULK_BYTES));
    // Nothing else waits for it.
    assert!(live.takes(pair(1), 1) && live.is_open());
    let fill = |from| {
        while live.takes(pair(from), LANE_PAYLOAD_BYTES_MAX) {
            live.with(|session| {
                let sent = live.message(session, &route(from), None, &[0; LANE_PAYLOAD_BYTES_MAX]);
                sent.unwrap();
                let written = session.poll_transmit().unwrap();
                session.transmitted(written.len());
            });
        }
    };
    fill(1);
    // It waits alone.
    assert!(live.takes(pair(99), 1) && live.is_open());
    let mut pairs = 1;
    while live.is_open() {
        pairs += 1;
        live.send_bulk(&route(pairs), pairs, Bytes::from(vec![0; BULK_BYTES]));
        fill(pairs);
    }
    // What is behind all of them has an end.
    assert_eq!(pairs, 8);
    assert!(!live.takes(pair(99), 1));
}

#[tokio::test]
async fn what_is_taken_in_at_once_is_carried_out_in_its_order() {
    let met = Met::new().await;
    let env = Environment::new(EnvironmentConfig {
        node: US,
        ..EnvironmentConfig::default()
    });
    let env = env.unwrap();
    let (ready, is_ready) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    let receiver = env.spawn_native("receiver", SpawnOptions::default(), |mut me| async move {
        me.set_die_when_link_dies(false);
        ready.send(()).unwrap();
        let mut all = Vec::new();
        while all.len() < 6 {
            all.push(match me.receive(Filter::Any, None).await {
                Some(Received::Message(message)) => message.tag.unwrap(),
                Some(Received::LinkDied { tag, .. }) => tag.unwrap(),
                other => panic!("{other:?}"),
            });
        }
        tell.send(all).unwrap();
        ExitReason::Normal
    });
    let to = receiver.unwrap();
    is_ready.await.unwrap();

    // Each peer links itself and ends between two messages.
    let mut said = Vec::new();
    for number in [1_u64, 3, 5] {
        let route = Route {
            environ: Environ::default(),
            from: pid(PEER, number),
            to,
        };
        let (id, tag) = (number, Some(number.cast_signed() + 1));
        let reason = ExitReason::Exit(1);
        wire::encode_message(&mut said, &route, Some(number.cast_signed()), b"");
        wire::encode_signal(&mut said, &route, &LinkSignal::Link { id, tag });
        wire::encode_signal(&mut said, &route, &LinkSignal::Exit { reason });
    }
    let draining = watch::Sender::new(false).subscribe();
    let mut driver = Driver::new(met.live.clone(), env, Arc::default(), draining);
    driver.take_in(&[Bytes::from(said)]).await.unwrap();
    assert_eq!(told.await.unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_bulk_message_that_was_given_up_is_not_taken_for_a_short_one() {
    let met = Met::new().await;
    let mut out = met.peer.open_bulk(1).await.unwrap();
    out.write(Bytes::from(vec![0; 100])).await.unwrap();
    drop(out);
    let stream = met.live.connection.accept_stream().await.unwrap();
    let (done, mut outcome) = mpsc::channel(1);
    let turns = Arc::new(Semaphore::new(1));
    read_bulk(stream, turns, Arc::default(), BULK_BYTES, done).await;
    let outcome = outcome.recv().await.unwrap();
    assert!(matches!(outcome, Err(SessionError::Lost(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_bulk_message_that_is_lost_after_a_goodbye_takes_no_other_with_it() {
    let why = one_bulk_message_of_several_is_whole(true).await;
    assert_eq!(why, SessionError::LeftUndelivered);
}

#[tokio::test]
async fn what_had_arrived_whole_when_the_peer_is_lost_is_delivered() {
    let why = one_bulk_message_of_several_is_whole(false).await;
    assert!(matches!(why, SessionError::Lost(_)), "{why:?}");
}

/// The peer is gone when the last of its bulk messages has arrived, behind which there is one more, and the others are on
/// their way. Both are delivered, and nothing that was behind the others. Why the session has ended.
async fn one_bulk_message_of_several_is_whole(says_goodbye: bool) -> SessionError {
    let met = Met::new().await;
    let env = Environment::new(EnvironmentConfig {
        node: US,
        ..EnvironmentConfig::default()
    });
    let env = env.unwrap();
    let (over, is_over) = oneshot::channel::<()>();
    let (tell, told) = oneshot::channel();
    let receiver = env.spawn_native("receiver", SpawnOptions::default(), |mut me| async move {
        is_over.await.unwrap();
        let mut all = Vec::new();
        while let Some(Received::Message(message)) = me.try_receive(&Filter::Any) {
            all.push((message.tag.unwrap(), message.data.len()));
        }
        tell.send(all).unwrap();
        ExitReason::Normal
    });
    let receiver = receiver.unwrap();

    let lost = BULK_READERS as u64;
    let whole = lost + 1;
    let mut said = Vec::new();
    for stream in 1..=whole {
        let route = Route {
            environ: Environ::default(),
            from: pid(PEER, stream),
            to: receiver,
        };
        let head = BulkHead {
            stream,
            bytes: match stream == whole {
                true => BULK_BYTES as u64,
                false => 4 << 20,
            },
        };
        let tag = stream.cast_signed();
        Frame::Bulk(route, Some(tag), head).encode(&mut said);
        wire::encode_message(&mut said, &route, Some(10 + tag), b"behind");
    }
    if says_goodbye {
        Frame::Goodbye.encode(&mut said);
    }

    let mut lane_out = met.peer.open_lane().await.unwrap();
    let lane_in = async { met.live.connection.accept_stream().await?.identify().await };
    let Ok(Opened::Lane(mut lane_in)) = lane_in.await else {
        panic!("the first stream is the lane");
    };
    let (live, draining) = (met.live.clone(), watch::Sender::new(false).subscribe());
    let mut driver = Driver::new(live, env, Arc::default(), draining);
    let peer = &met.peer;
    let leaves = async {
        lane_out.write(said.into()).await.unwrap();
        let mut streams = Vec::new();
        for stream in 1..=lost {
            let mut out = peer.open_bulk(stream).await.unwrap();
            // More than the window of a stream: it is being read when all of it has left.
            out.write(Bytes::from(vec![0; 2 << 20])).await.unwrap();
            streams.push(out);
        }
        // It waits for its turn, which the others have.
        let mut out = peer.open_bulk(whole).await.unwrap();
        out.write(Bytes::from(vec![0; BULK_BYTES])).await.unwrap();
        out.finish().await.unwrap();
        peer.close("it is gone");
    };
    let run = driver.run(&mut lane_in, BytesMut::new(), PATIENCE);
    let both = timeout(PATIENCE, async { tokio::join!(run, leaves).0 });
    let why = both.await.expect("in time");
    over.send(()).unwrap();
    let whole = whole.cast_signed();
    let all = [(whole, BULK_BYTES), (10 + whole, b"behind".len())];
    assert_eq!(told.await.unwrap(), all);
    why
}

#[tokio::test]
async fn a_session_is_shut_while_it_is_congested_and_once_it_is_over() {
    let met = Met::new().await;
    let live = &met.live;
    let route = Route {
        environ: Environ::default(),
        from: pid(US, 1),
        to: pid(PEER, 1),
    };
    for _ in 0..=CONGESTED_BYTES / LANE_PAYLOAD_BYTES_MAX {
        let sent =
            live.with(|session| live.message(session, &route, None, &[0; LANE_PAYLOAD_BYTES_MAX]));
        sent.unwrap();
    }
    assert!(!live.is_open());
    assert!(!live.takes((route.from, route.to), 1));

    let lane = live.connection.open_lane().await.unwrap();
    let writer = tokio::spawn(write_lane(live.clone(), lane, PATIENCE));
    let lane_in = async { met.peer.accept_stream().await?.identify().await };
    let Ok(Opened::Lane(mut lane_in)) = lane_in.await else {
        panic!("the first stream is the lane");
    };
    let reads = async { while let Ok(Some(_)) = lane_in.read(READ_BYTES).await {} };
    // As whoever has something to say.
    let opens = async {
        loop {
            let mut drained = std::pin::pin!(live.drained.notified());
            drained.as_mut().enable();
            if live.is_open() {
                return;
            }
            drained.await;
        }
    };
    let either = async {
        tokio::select! {
            () = reads => panic!("the lane has ended"),
            () = opens => {}
        }
    };
    timeout(PATIENCE, either).await.expect("in time");
    writer.abort();
    let env = Environment::new(EnvironmentConfig::default()).unwrap();
    live.tell(&env, &SessionError::Lost("here".into())).await;
    assert!(!live.is_open());
}

#[tokio::test]
async fn what_is_given_up_in_the_same_breath_is_not_made() {
    let met = Met::new().await;
    let env = Environment::new(EnvironmentConfig {
        node: US,
        ..EnvironmentConfig::default()
    });
    let env = env.unwrap();
    let bytes = wat::parse_str(r#"(module (func (export "run")))"#).unwrap();
    let module = Module::compile_blocking(env.engine(), bytes).unwrap();
    env.modules().keep(&module);
    let mut said = Vec::new();
    for reference in 1..=2 {
        let prepare = Prepare {
            environ: Environ::default(),
            parent: pid(PEER, 1),
            module: module.hash(),
            entry: "run".into(),
            params: Vec::new(),
            config: Arc::default(),
            link: None,
            monitor: None,
        };
        Frame::Prepare(reference, Box::new(prepare)).encode(&mut said);
    }
    Frame::Cancel(1).encode(&mut said);
    let draining = watch::Sender::new(false).subscribe();
    let mut driver = Driver::new(met.live.clone(), env.clone(), Arc::default(), draining);
    driver.take_in(&[Bytes::from(said)]).await.unwrap();
    assert_eq!(env.counters().spawned, 1);
    assert_eq!(met.live.locals(), 1, "the other one is parked");
}

/// An acknowledgement waits for a second packet, for 25 ms at the most. A window of two of the largest let one out, since a Ping
/// was under way, too.
#[tokio::test]
async fn a_first_burst_is_more_packets_than_an_acknowledgement_waits_for() {
    let met = Met::new().await;
    let connection = &met.live.connection;
    let says_little = async |enough: &dyn Fn(u64, u64) -> bool| {
        for _ in 0..20_000 {
            let (window, packet) = connection.room();
            if enough(window, packet) {
                return;
            }
            connection.send_datagram(b"there are larger packets");
            tokio::time::sleep(Duration::from_millis(1)).await; // a look at what nobody tells
        }
        panic!("{:?}", connection.room());
    };
    says_little(&|_, packet| packet == u64::from(MTU_MAX)).await;
    // At the latest with the first round trip that is short, whatever else the machine does.
    says_little(&|window, packet| window > 3 * packet).await;
}
