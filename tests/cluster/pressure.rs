//! Peers with nothing wrong but that they send too much, too little, too slowly, or read nothing.
//!
//! Each has a valid certificate and ticket, so that what it meets is the session and its bounds. What it
//! does may cost its own session; the link between the two honest nodes must not notice, and the
//! memory of the node it speaks to stays below what its bounds add up to.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tidelock_certs::{Environments, Identity, Ticket, testing};
use tidelock_node::transport::{Connection, Opened, Socket, Transport};
use tidelock_proto::link::{LinkAnswer, Signal};
use tidelock_proto::spawn::{Prepare, ProcessConfig, Refusal};
use tidelock_proto::wire::{BulkHead, Frame, Hello, Route};
use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, Pid};

use crate::bench::{Guest, NOTICE_MAX};
use crate::faults::{ms, round_trip};
use crate::settings::setting;
use crate::strangers::{Bystanders, pid};

const MIB: u64 = 1 << 20;

/// From a process of a stranger to one of the node.
fn route(from: &str, to: &str) -> Route {
    Route {
        environ: Environ::default(),
        from: pid(from),
        to: pid(to),
    }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// A process of node `a` that reports what it gets.
fn holder(by: &Bystanders) -> Guest {
    let holder = by.cluster.spawn("a", &["hold"]);
    holder.one("holding");
    holder
}

// ---- the first frame ---------------------------------------------------------------------------

/// A connection of a node with nothing wrong, on which nothing was said yet.
async fn knock(by: &Bystanders, identity: &Identity) -> (Connection, Transport) {
    let socket = Socket::bind("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let transport = Transport::new(socket, identity, by.cluster.lease()).expect("a transport");
    let addr = by.cluster.node("a").addr();
    let connection = transport.dial(addr).await.expect("TLS is complete");
    (connection, transport)
}

/// Says this in its lane and returns how the connection ended.
async fn begin_with(connection: &Connection, bytes: Vec<u8>, pause: Duration) -> String {
    let mut lane = connection.open_lane().await.expect("a lane");
    let size = if pause.is_zero() { bytes.len() } else { 1 };
    let spoken = async {
        for piece in bytes.chunks(size.max(1)) {
            if lane.write(Bytes::copy_from_slice(piece)).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await; // how slow it is, is what is shown
        }
    };
    tokio::select! {
        why = connection.closed() => return why,
        () = spoken => {}
    }
    connection.closed().await
}

#[test]
fn a_session_begins_with_hello() {
    let by = Bystanders::new();
    let to = by.cluster.id("a");
    let kill = Frame::Signal(route("n1000.1", &format!("{to}.1")), Signal::Kill);
    let message = Frame::Message(
        route("n1000.1", &format!("{to}.1")),
        None,
        Bytes::from_static(b"hi"),
    );
    let (first, slow) = ("nothing comes before Hello", "no Hello in time");
    let second = Duration::from_secs(1);
    let hello = |id: u64| {
        encoded(&Frame::Hello(
            by.hello(&by.identity(id, testing::Odd::Nothing), id),
        ))
    };
    let mut long = vec![0xff, 0xff, 0xff, 0x7f, 1];
    long.extend([0; 64]);
    let cases = [
        ("a kill", encoded(&kill), Duration::ZERO, first),
        ("a message", encoded(&message), Duration::ZERO, first),
        ("Stale", encoded(&Frame::Stale(1)), Duration::ZERO, first),
        ("Start", encoded(&Frame::Start(1)), Duration::ZERO, first),
        (
            "a question",
            encoded(&Frame::Query(1, pid(&format!("{to}.1")))),
            Duration::ZERO,
            first,
        ),
        ("Goodbye", encoded(&Frame::Goodbye), Duration::ZERO, first),
        (
            "garbage",
            vec![0xee; 64],
            Duration::ZERO,
            "unknown kind of frame",
        ),
        ("an endless Hello", long, Duration::ZERO, "is too long"),
        ("nothing", Vec::new(), Duration::ZERO, slow),
        (
            "half a Hello",
            hello(1009)[..40].to_vec(),
            Duration::ZERO,
            slow,
        ),
        ("a byte a second", hello(1010), second, slow),
    ];
    let began = Instant::now();
    let by_ref = &by;
    let answers = by.cluster.block_on(join_all((1000..).zip(&cases).map(
        |(id, (_, bytes, pause, _))| async move {
            let identity = by_ref.identity(id, testing::Odd::Nothing);
            let (connection, _transport) = knock(by_ref, &identity).await;
            begin_with(&connection, bytes.clone(), *pause).await
        },
    )));
    for ((what, _, _, rule), why) in cases.iter().zip(answers) {
        assert!(why.contains(rule), "{what}: {why}");
        eprintln!("{what}: {why}");
    }
    // Hello has five seconds, however it is sent.
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );

    // A bulk stream is no lane; and whoever is dialled begins with Hello, too.
    let why = by.cluster.block_on(async {
        let identity = by.identity(1020, testing::Odd::Nothing);
        let (connection, _transport) = knock(&by, &identity).await;
        let _bulk = connection.open_bulk(1).await.expect("a stream");
        connection.closed().await
    });
    assert!(why.contains("the lane is the first stream"), "{why}");
    let why = dialled_and_answers(&by, &Frame::Goodbye);
    assert!(why.contains(first), "{why}");
    by.undisturbed();
}

/// Has node `a` dial a node that answers its Hello with something else; how that ended.
fn dialled_and_answers(by: &Bystanders, answer: &Frame) -> String {
    let socket = Socket::bind("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let id = by.cluster.list("rude", socket.local_addr());
    let id = id[1..].parse().expect("a node id");
    let identity = by.identity(id, testing::Odd::Nothing);
    by.cluster.block_on(async {
        let transport = Transport::new(socket, &identity, by.cluster.lease()).expect("a transport");
        let dialled = transport.accept().await.expect("a dials it");
        let connection = dialled.complete().await.expect("TLS is complete");
        let lane = connection.accept_stream().await.expect("a lane");
        assert!(matches!(lane.identify().await, Ok(Opened::Lane(_))));
        let mut lane = connection.open_lane().await.expect("a lane");
        let said = lane.write(encoded(answer).into()).await;
        said.expect("the connection is open");
        connection.closed().await
    })
}

#[test]
fn a_frame_that_comes_byte_by_byte_is_waited_for() {
    let by = Bystanders::new();
    let holder = holder(&by);
    let mut stranger = by.welcome(1030);
    let frame = encoded(&Frame::Message(
        route("n1030.1", &holder.pid),
        Some(77),
        Bytes::from_static(b"late"),
    ));
    let began = Instant::now();
    by.cluster.block_on(async {
        stranger.answer_pings();
        let (slow, rest) = frame.split_at(6);
        for byte in slow {
            stranger.write(vec![*byte]).await;
            tokio::time::sleep(Duration::from_secs(1)).await; // a byte per second is what is shown
        }
        stranger.write(rest.to_vec()).await;
    });
    assert_eq!(holder.one("data").number("tag"), 77);
    let took = began.elapsed();
    assert!(
        took > 2 * by.cluster.lease() - by.cluster.lease() / 2,
        "{took:?}"
    );
    eprintln!(
        "a frame that took {:.0} ms was taken for what it says",
        ms(took)
    );
    by.undisturbed();
}

// ---- bulk --------------------------------------------------------------------------------------

/// Sends a bulk stream of `bytes` bytes; whether it was taken to its end.
async fn bulk(connection: &Connection, stream: u64, bytes: u64) -> bool {
    let sent = async {
        let mut lane = connection.open_bulk(stream).await?;
        let part = Bytes::from(vec![7; 64 << 10]);
        let mut left = bytes;
        while left > 0 {
            let size = left.min(part.len() as u64);
            lane.write(part.slice(..usize::try_from(size).expect("small")))
                .await?;
            left -= size;
        }
        lane.finish().await
    };
    sent.await.is_ok()
}

#[test]
fn bulk_that_is_not_as_announced_ends_the_session() {
    let by = Bystanders::new();
    let holder = holder(&by);
    let announce = |id: u64, process: u64, stream, bytes| {
        let from = format!("n{id}.{process}");
        Frame::Bulk(
            route(&from, &holder.pid),
            Some(1),
            BulkHead { stream, bytes },
        )
    };
    let (claimed, most) = (100_000, 64 * MIB);
    let exact = "as many bytes as were announced";
    let cases = [
        ("fewer", 1040, claimed, Some(claimed - 1), exact),
        ("more", 1041, claimed, Some(claimed + 1), exact),
        ("none", 1042, claimed, Some(0), exact),
        ("some, and none announced", 1043, 0, Some(1), exact),
        (
            "above the bound",
            1044,
            most,
            Some(most + 1),
            "a bulk message is at most",
        ),
        (
            "a claim above it",
            1045,
            most + 1,
            None,
            "message_bytes_max",
        ),
    ];
    for (what, id, claim, sent, rule) in cases {
        let from = by.logged_up_to_now();
        let mut stranger = by.welcome(id);
        let why = by.cluster.block_on(async {
            stranger.answer_pings();
            stranger.say(&announce(id, 1, 1, claim)).await;
            if let Some(bytes) = sent {
                // It may end before all of it was taken.
                bulk(&stranger.connection, 1, bytes).await;
            }
            stranger.frame().await.expect_err("the session ends")
        });
        assert!(why.contains(rule), "{what}: {why}");
        by.logged(from, &["session over", &format!("n{id}"), rule]);
        eprintln!("{what}: {why}");
    }
    // One stream for two messages; a second lane; and none at all that was announced.
    let mut twice = by.welcome(1046);
    let why = by.cluster.block_on(async {
        twice.say(&announce(1046, 1, 5, claimed)).await;
        twice.say(&announce(1046, 2, 5, claimed)).await;
        twice.frame().await.expect_err("the session ends")
    });
    assert!(why.contains("a bulk stream carries one message"), "{why}");
    let mut lanes = by.welcome(1047);
    let why = by.cluster.block_on(async {
        let _second = lanes.connection.open_lane().await.expect("a stream");
        lanes.frame().await.expect_err("the session ends")
    });
    assert!(why.contains("a session has one lane each way"), "{why}");
    assert!(holder.all("data").is_empty(), "something was delivered");
    by.undisturbed();
}

#[test]
fn bulk_that_never_comes_is_bounded() {
    let by = Bystanders::new();
    let (holder, node) = (holder(&by), by.cluster.node("a"));
    let message = |from: &str, tag| {
        Frame::Message(
            route(from, &holder.pid),
            Some(tag),
            Bytes::from_static(b"hi"),
        )
    };
    let announce = |from: &str, stream, bytes| {
        Frame::Bulk(
            route(from, &holder.pid),
            Some(1),
            BulkHead { stream, bytes },
        )
    };

    // Half of one: only its own pair waits for the rest, which comes.
    let mut stranger = by.welcome(1050);
    by.cluster.block_on(async {
        stranger.answer_pings();
        stranger.say(&announce("n1050.1", 1, 100_000)).await;
        let mut lane = stranger.connection.open_bulk(1).await.expect("a stream");
        let half = Bytes::from(vec![0; 50_000]);
        lane.write(half.clone()).await.expect("it is taken");
        stranger.say(&message("n1050.1", 2)).await;
        stranger.say(&message("n1050.2", 3)).await;
        holder.one("data");
        assert_eq!(tags(&holder), [3]);
        lane.write(half).await.expect("it is taken");
        lane.finish().await.expect("it is taken");
        holder.many("data", 3);
        assert_eq!(tags(&holder), [3, 1, 2]);
    });

    // As many of them as it likes, each for a pair of its own: nothing comes, and its session ends.
    let before = node.memory_bytes();
    let why = by.cluster.block_on(async {
        let mut bytes = Vec::new();
        for at in 0..200_000 {
            announce(&format!("n1050.{}", 10 + at), 10 + at, MIB).encode(&mut bytes);
        }
        // It may end before all of it was taken.
        let _ = stranger.out.write(bytes.into()).await;
        stranger.frame().await.expect_err("the session ends")
    });
    assert!(why.contains("backlog above"), "{why}");
    let cost = node.memory_bytes().saturating_sub(before);
    assert!(cost < 128 * MIB, "{} MiB", cost / MIB);
    eprintln!("announced and never sent: {why}; {} MiB", cost / MIB);

    // Empty ones that it does not announce.
    let mut stranger = by.welcome(1051);
    let before = node.memory_bytes();
    let began = Instant::now();
    let (why, sent) = by.cluster.block_on(async {
        stranger.answer_pings();
        let connection = stranger.connection.clone();
        let sending = tokio::spawn(async move {
            let mut ended = Vec::new();
            while let Ok(mut stream) = connection.open_bulk(ended.len() as u64).await {
                // Whether it was read is not waited for.
                let _ = stream.finish().now_or_never();
                ended.push(stream);
            }
            ended.len()
        });
        let why = stranger.frame().await.expect_err("the session ends");
        (why, sending.await.expect("it does not panic"))
    });
    assert!(why.contains("a bulk stream is named in the lane"), "{why}");
    let cost = node.memory_bytes().saturating_sub(before);
    assert!(cost < 128 * MIB, "{} MiB", cost / MIB);
    eprintln!(
        "{sent} empty streams in {:.0} ms: {why}; {} MiB",
        ms(began.elapsed()),
        cost / MIB
    );
    by.undisturbed();
}

fn tags(guest: &Guest) -> Vec<i64> {
    let all = guest.all("data");
    all.iter().map(|seen| seen.number("tag")).collect()
}

#[test]
fn open_bulk_streams_are_bounded() {
    let by = Bystanders::new();
    let holder = holder(&by);
    let mut stranger = by.welcome(1060);
    let opened = by.cluster.block_on(async {
        stranger.answer_pings();
        let mut open = Vec::new();
        // Until the node gives no room for another.
        let limit = Duration::from_secs(1);
        while let Ok(stream) =
            tokio::time::timeout(limit, stranger.connection.open_bulk(open.len() as u64)).await
        {
            let mut stream = stream.expect("the session is open");
            let part = Bytes::from(vec![0; 16 << 10]);
            // The first ones are read, for the others there is a window.
            let _ = tokio::time::timeout(limit / 100, stream.write(part)).await;
            open.push(stream);
            assert!(open.len() < 1000, "there is no bound");
        }
        // They hold up nothing but other bulk of the same session.
        let message = Frame::Message(
            route("n1060.1", &holder.pid),
            Some(9),
            Bytes::from_static(b"hi"),
        );
        stranger.say(&message).await;
        open.len()
    });
    assert_eq!(holder.one("data").number("tag"), 9);
    eprintln!("{opened} bulk streams could be opened and left open");
    // 256 of a connection, of which the lane is one.
    assert_eq!(opened, 255);
    by.undisturbed();
}

// ---- reading nothing ---------------------------------------------------------------------------

#[test]
fn a_peer_that_reads_nothing_is_given_up() {
    let by = Bystanders::new();
    let node = by.cluster.node("a");
    for (id, bytes) in [(1070_u64, "1000"), (1071, "300000")] {
        let mut stranger = by.welcome(id);
        let theirs = format!("n{id}.1");
        let pour = by.cluster.spawn("a", &["pour", &theirs, bytes]);
        by.cluster.block_on(async {
            stranger.answer_pings();
            // The link is the last thing it reads.
            stranger.let_bind(1).await;
        });
        let began = pour.one("pouring").at;
        let (before, mut most, mut rounds) = (node.memory_bytes(), 0, 0);
        // The others go on in the meantime.
        while pour.all("poured").is_empty() {
            round_trip(&by.cluster, "a", "b");
            round_trip(&by.cluster, "b", "a");
            most = most.max(node.memory_bytes());
            rounds += 1;
            assert!(began.elapsed() < Duration::from_secs(30), "never given up");
        }
        let link = pour.one("link");
        assert_eq!((link.text("about"), link.number("code")), (theirs, 255));
        let why = link.text("why");
        assert!(why.contains("the peer took nothing for the lease"), "{why}");
        let took = link.at - began;
        // A lease in which nothing leaves, which is noticed at the end of the one after it.
        assert!(took > by.cluster.lease(), "{took:?}");
        assert!(took < 2 * by.cluster.lease() + 3 * NOTICE_MAX, "{took:?}");
        let cost = most.saturating_sub(before);
        // 64 MiB may wait for a peer, each message once more while it is written.
        assert!(cost < 192 * MIB, "{} MiB", cost / MIB);
        assert!(rounds > 2, "only {rounds} round trips");
        eprintln!(
            "messages of {bytes} bytes to a peer that reads nothing: told after {:.0} ms, \
             {} MiB, {rounds} round trips of the others",
            ms(took),
            cost / MIB
        );
        stranger.connection.close("enough");
    }
    by.undisturbed();
}

// ---- links -------------------------------------------------------------------------------------

/// `TIDELOCK_LINKS=1000000` makes as many links; the usual number is for whoever waits.
#[test]
fn very_many_links_of_one_process_are_all_told() {
    let count: u64 = setting("TIDELOCK_LINKS", 50_000);
    let by = Bystanders::new();
    let (hub, node) = (holder(&by), by.cluster.node("a"));
    let mut stranger = by.welcome(1080);
    let before = node.memory_bytes();
    let began = Instant::now();
    let linked = by.cluster.block_on(async {
        stranger.answer_pings();
        let mut frames = Vec::new();
        for at in 1..=count {
            let signal = Signal::Link { id: 1, tag: None };
            let route = Route {
                environ: Environ::default(),
                from: Pid::new(NodeId(1080), at).expect("a pid"),
                to: pid(&hub.pid),
            };
            Frame::Signal(route, signal).encode(&mut frames);
        }
        // It reads while it writes, or it would be one that reads nothing.
        let writing = async {
            let written = stranger.out.write(frames.into()).await;
            written.expect("the session is open");
        };
        let reading = async {
            let mut linked = 0;
            while linked < count {
                let frame = next(&mut stranger.lane, &mut stranger.bytes).await;
                let Frame::Signal(_, Signal::LinkAck { id: 1, answer }) = frame else {
                    panic!("{frame:?}");
                };
                assert_eq!(answer, LinkAnswer::Linked);
                linked += 1;
            }
            linked
        };
        let ((), linked) = tokio::join!(writing, reading);
        linked
    });
    let made = began.elapsed();
    let cost = node.memory_bytes().saturating_sub(before);

    let killed = Instant::now();
    let told = by.cluster.block_on(async {
        let kill = Frame::Signal(route("n1080.1", &hub.pid), Signal::Kill);
        stranger.say(&kill).await;
        let mut told = std::collections::BTreeSet::new();
        while told.len() < usize::try_from(count).expect("it fits") {
            let frame = stranger.frame().await.expect("the session is open");
            let Frame::Signal(route, Signal::Exit { reason }) = frame else {
                panic!("{frame:?}");
            };
            assert_eq!(route.from.to_string(), hub.pid);
            assert!(matches!(reason, ExitReason::Killed(_)), "{reason}");
            assert!(told.insert(route.to), "{} was told twice", route.to);
        }
        told.len()
    });
    eprintln!(
        "{linked} links of one process made in {:.0} ms, {} bytes each; {told} told {:.0} ms after the kill",
        ms(made),
        cost / count,
        ms(killed.elapsed())
    );
    by.undisturbed();
}

async fn next(
    lane: &mut tidelock_node::transport::LaneReader,
    bytes: &mut bytes::BytesMut,
) -> Frame {
    loop {
        if let Some(frame) = tidelock_proto::wire::decode(bytes).expect("the node sends frames") {
            return frame;
        }
        let part = lane.read(64 << 10).await.expect("the session is open");
        bytes.extend_from_slice(&part.expect("the session is open"));
    }
}

// ---- tenants -----------------------------------------------------------------------------------

#[test]
fn a_ticket_for_one_tenant_reaches_no_other() {
    let by = Bystanders::new();
    let holder = holder(&by);
    let ours = by.identity(1090, testing::Odd::Nothing);
    let body = Ticket::read_unverified(ours.ticket().expect("a ticket")).expect("a ticket");
    let narrow = Ticket {
        environments: Environments::Only(vec![Environ(7)]),
        ..body
    };
    let ticket = testing::sign_ticket(&by.authority, &narrow);
    let identity = testing::with_ticket(&ours, Some(ticket));
    let hello = |epoch| Hello {
        epoch,
        ..by.hello(&identity, 1090)
    };
    let seventh = |to: &str| Route {
        environ: Environ(7),
        ..route("n1090.1", to)
    };
    let mut stranger = by
        .meet(&identity, hello(1))
        .expect("nothing is wrong with it");

    // In its own tenant, at a process of another: there is nobody.
    let mut said = Vec::new();
    Frame::Signal(seventh(&holder.pid), Signal::Kill).encode(&mut said);
    Frame::Message(seventh(&holder.pid), Some(1), Bytes::from_static(b"hi")).encode(&mut said);
    Frame::Signal(seventh(&holder.pid), Signal::Monitor { reference: 4 }).encode(&mut said);
    Frame::Signal(seventh(&holder.pid), Signal::Link { id: 1, tag: None }).encode(&mut said);
    Frame::Query(9, pid(&holder.pid)).encode(&mut said);
    let prepare = Prepare {
        environ: Environ(7),
        parent: pid("n1090.1"),
        module: by.cluster.module().parse().expect("a hash"),
        entry: "_start".to_owned(),
        params: Vec::new(),
        config: ProcessConfig {
            args: ["scenarios", "stale", &holder.pid]
                .map(str::to_owned)
                .to_vec(),
            ..ProcessConfig::default()
        }
        .into(),
        link: None,
        monitor: None,
    };
    Frame::Prepare(10, Box::new(prepare)).encode(&mut said);
    let answers = by.cluster.block_on(async {
        stranger.answer_pings();
        stranger.write(said).await;
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(stranger.frame().await.expect("an answer"));
        }
        answers
    });
    let answer = |wanted: &str| {
        let found = answers
            .iter()
            .find(|frame| format!("{frame:?}").contains(wanted));
        found.unwrap_or_else(|| panic!("no {wanted} among {answers:?}"))
    };
    answer("LinkAck { id: 1, answer: NoProcess }");
    answer("MonitorAck { reference: 4, exists: false }");
    assert_eq!(answer("Answer("), &Frame::Answer(9, false));
    let Frame::Prepared(10, child) = answer("Prepared") else {
        panic!("{answers:?}");
    };
    let child = child.to_string();

    // A guest of that tenant on the same node can do no more: kill, link, monitor, send.
    by.cluster.block_on(stranger.say(&Frame::Start(10)));
    let child = by.cluster.listen("a", &child);
    assert_eq!(child.one("exists").number("yes"), 0);
    child.one("not linked");
    assert_eq!(child.one("down").number("code"), 254);
    // And the other way round.
    let other = by.cluster.spawn("a", &["stale", &child.pid]);
    assert_eq!(other.one("exists").number("yes"), 0);
    other.one("not linked");
    other.one("down");
    assert!(
        by.cluster.runs("a", &child.pid),
        "it was killed from another tenant"
    );

    // In a tenant that the ticket does not name: the session ends.
    let rule = "a sender's environment is one its ticket names";
    let foreign = [
        Frame::Signal(route("n1090.1", &holder.pid), Signal::Kill),
        Frame::Signal(
            route("n1090.1", &holder.pid),
            Signal::Link { id: 1, tag: None },
        ),
        Frame::Message(route("n1090.1", &holder.pid), None, Bytes::new()),
    ];
    for (epoch, frame) in (2..).zip(foreign) {
        let why = by.cluster.block_on(async {
            stranger.say(&frame).await;
            loop {
                if let Err(why) = stranger.frame().await {
                    return why;
                }
            }
        });
        assert!(why.contains(rule), "{why}");
        stranger = by.meet(&identity, hello(epoch)).expect("a new session");
    }
    assert!(by.cluster.runs("a", &holder.pid), "it was killed");
    assert!(holder.all("data").is_empty(), "it was sent something");
    by.undisturbed();
}

// ---- modules -----------------------------------------------------------------------------------

/// The smallest module that can be run: `(module (func (export "_start")))`.
const MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\
    \x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

/// Asks for a process of [`MODULE`].
fn wanted(parent: &str) -> Frame {
    let prepare = Prepare {
        environ: Environ::default(),
        parent: pid(parent),
        module: ModuleHash(*blake3::hash(MODULE).as_bytes()),
        entry: "_start".to_owned(),
        params: Vec::new(),
        config: ProcessConfig::default().into(),
        link: None,
        monitor: None,
    };
    Frame::Prepare(1, Box::new(prepare))
}

#[test]
fn a_peer_that_never_sends_its_module_holds_up_nobody_else() {
    let by = Bystanders::new();
    let (mut silent, mut honest) = (by.welcome(1200), by.welcome(1201));
    by.cluster.block_on(async {
        silent.answer_pings();
        honest.answer_pings();
        // The node asks it for the module, and is never answered.
        silent.say(&wanted("n1200.1")).await;
        let asked = silent.connection.accept_question().await;
        let mut never_answered = asked.expect("it does not have the module");
        never_answered.read(32).await.expect("a hash");

        honest.say(&wanted("n1201.1")).await;
        let asked = honest.connection.accept_question().await;
        let question = asked.expect("it does not have the module");
        let answering = tokio::spawn(question.answer(Bytes::from_static(MODULE)));
        let made = honest.frame().await.expect("an answer");
        assert!(matches!(made, Frame::Prepared(1, _)), "{made:?}");
        answering.await.expect("no panic").expect("it was taken");
    });
    by.undisturbed();
}

/// One request of a megabyte for a process of [`MODULE`].
fn wanted_with_much(number: u64, parent: &str) -> Frame {
    let Frame::Prepare(_, mut prepare) = wanted(parent) else {
        unreachable!("it is one");
    };
    prepare.entry = "x".repeat((1 << 20) - 4096);
    Frame::Prepare(number, prepare)
}

#[test]
fn spawns_that_wait_for_a_module_are_bounded_and_given_up_with_a_cancel() {
    let by = Bystanders::new();
    let mut silent = by.welcome(1202);
    by.cluster.block_on(async {
        silent.answer_pings();
        // As many as have room, of which none is answered, since the module does not come.
        for round in 0..3 {
            let first = 1 + 100 * round;
            for number in first..first + 65 {
                silent.say(&wanted_with_much(number, "n1202.1")).await;
            }
            let full = silent.frame().await.expect("an answer");
            let Frame::Refused(number, Refusal::Full(why)) = full else {
                panic!("{full:?}");
            };
            assert!(
                number >= first + 60,
                "the bound is 64 MiB, and {number} is below it"
            );
            assert!(why.contains("wait for their modules"), "{why}");
            // All of them are given up, and nothing is left of them: as many have room again.
            for number in first..number {
                silent.say(&Frame::Cancel(number)).await;
            }
            let mut cancelled = 0;
            while cancelled < number - first {
                match silent.frame().await.expect("an answer") {
                    Frame::Cancelled(_) => cancelled += 1,
                    Frame::Refused(late, Refusal::Full(_)) => assert!(late > number),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    by.undisturbed();
}

#[test]
fn a_question_from_another_tenant_takes_nothing_from_a_link() {
    let by = Bystanders::new();
    let mut stranger = by.welcome(1203);
    let bound = by.cluster.spawn("a", &["bind", "n1203.1"]);
    let other = Route {
        environ: Environ(7),
        ..route("n1203.2", &bound.pid)
    };
    by.cluster.block_on(async {
        stranger.answer_pings();
        stranger.let_bind(2).await;
        // There is no such process in tenant 7.
        for signal in [
            Signal::Monitor { reference: 4 },
            Signal::Link { id: 1, tag: None },
        ] {
            stranger.say(&Frame::Signal(other, signal)).await;
            let answer = stranger.frame().await.expect("an answer");
            let said = format!("{answer:?}");
            assert!(
                said.contains("NoProcess") || said.contains("exists: false"),
                "{said}"
            );
        }
    });
    bound.one("bound");
    stranger.connection.close("the end");
    bound.one("link");
    by.undisturbed();
}

#[test]
fn questions_without_end_hold_up_nobody() {
    let by = Bystanders::new();
    let node = by.cluster.node("a");
    let module: ModuleHash = by.cluster.module().parse().expect("a hash");
    let stranger = by.welcome(1210);
    let before = node.memory_bytes();
    let began = Instant::now();
    let time = Duration::from_secs(3);
    // A question each: for a module that is there, for one that is not, and none at all; the answers
    // are read by some and not by others.
    let asking = by.cluster.block_on(async {
        stranger.answer_pings();
        let mut asking = Vec::new();
        for worker in 0..64 {
            let connection = stranger.connection.clone();
            asking.push(tokio::spawn(async move {
                let mut asked = 0_u64;
                while began.elapsed() < time {
                    let question = match worker % 3 {
                        0 => module.0.to_vec(),
                        1 => vec![1; 32],
                        _ => vec![2; 1000],
                    };
                    let max = if worker % 2 == 0 { 64 << 20 } else { 1 };
                    // What it is answered does not matter to it.
                    let ask = connection.ask(&question, max);
                    let _ = tokio::time::timeout(time / 10, ask).await;
                    asked += 1;
                }
                asked
            }));
        }
        asking
    });
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    while began.elapsed() < time {
        let at = Instant::now();
        round_trip(&by.cluster, "a", "b");
        longest = longest.max(at.elapsed());
        rounds += 1;
    }
    let asked = by.cluster.block_on(async {
        let all = join_all(asking).await;
        all.into_iter()
            .map(|one| one.expect("no panic"))
            .sum::<u64>()
    });
    let cost = node.memory_bytes().saturating_sub(before);
    eprintln!(
        "{asked} questions in {} s: {rounds} round trips of the others, the longest {:.0} ms, {} MiB",
        time.as_secs(),
        ms(longest),
        cost / MIB
    );
    assert!(asked > 500, "only {asked} questions");
    assert!(longest < by.cluster.lease(), "{longest:?}");
    assert!(cost < 128 * MIB, "{} MiB", cost / MIB);
    by.undisturbed();
}
