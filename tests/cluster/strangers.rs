//! Peers that are not what they say, or do not keep to the protocol.
//!
//! The stranger is this test: the node's own transport with an identity of the test's making, and
//! frames written by hand. It holds the cluster's authority, taken from control's state, so that
//! each stranger is wrong in one thing only.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tidelock_certs::testing::{self, Odd};

use tidelock_certs::{Authority, Environments, Identity, Ticket, UnixTime};
use tidelock_control::client::{Client, NodeDescription};
use tidelock_control::tags::Tags;
use tidelock_node::transport::{Connection, LaneReader, LaneWriter, Opened, Socket, Transport};
use tidelock_proto::link::{LinkAnswer, Signal};
use tidelock_proto::spawn::{Prepare, ProcessConfig, Refusal};
use tidelock_proto::wire::{self, Datagram, Frame, Hello, Route};
use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, PROTOCOL, Pid};

use crate::bench::{Cluster, Guest};
use crate::feed::Seen;

/// A cluster with a link between its nodes, which strangers must not touch.
pub(crate) struct Bystanders {
    pub(crate) cluster: Cluster,
    pub(crate) authority: Authority,
    watcher: Guest,
    children: Vec<String>,
    epoch: u64,
}

impl Bystanders {
    pub(crate) fn new() -> Self {
        let cluster = Cluster::pair();
        let folder = cluster.state("control").join("authority");
        let authority = Authority::open(&folder, "test", UnixTime::now()).expect("the authority");
        let watcher = cluster.spawn("a", &["watch", &cluster.id("b"), "3"]);
        let children = watcher.one("watching").list("children");
        let epoch = cluster.session("a", "b").expect("a session").epoch;
        Bystanders {
            cluster,
            authority,
            watcher,
            children,
            epoch,
        }
    }

    pub(crate) fn node(&self, name: &str) -> NodeId {
        self.cluster.id(name).parse().expect("a node id")
    }

    pub(crate) fn identity(&self, id: u64, odd: Odd) -> Identity {
        let name = format!("stranger-{id}");
        testing::node(&self.authority, NodeId(id), &name, odd, UnixTime::now())
    }

    /// A Hello to node `a` that is as it should be.
    pub(crate) fn hello(&self, identity: &Identity, id: u64) -> Hello {
        Hello {
            versions: PROTOCOL,
            from: NodeId(id),
            to: self.node("a"),
            epoch: 1,
            ticket: identity.ticket().unwrap_or_default().to_vec(),
        }
    }

    /// Dials node `a` and says Hello. `Err`: how it was refused.
    pub(crate) fn meet(&self, identity: &Identity, hello: Hello) -> Result<Stranger, String> {
        self.cluster.block_on(Stranger::meet(
            self.cluster.node("a").addr(),
            identity,
            hello,
        ))
    }

    /// A stranger with nothing wrong, in an open session.
    pub(crate) fn welcome(&self, id: u64) -> Stranger {
        let identity = self.identity(id, Odd::Nothing);
        let hello = self.hello(&identity, id);
        self.meet(&identity, hello)
            .expect("nothing is wrong with it")
    }

    /// What node `a` logs from here on that holds these words.
    pub(crate) fn logged(&self, from: usize, words: &[&str]) -> Seen {
        let fits = |line: &Seen| words.iter().all(|word| line.text.contains(word));
        let seen = self.cluster.node("a").log.wait_from(from, fits);
        seen.unwrap_or_else(|| panic!("a has not logged {words:?}"))
    }

    pub(crate) fn logged_up_to_now(&self) -> usize {
        self.cluster.node("a").log.len()
    }

    /// Fails if a stranger has disturbed anything between `a` and `b`.
    pub(crate) fn undisturbed(&self) {
        let cluster = &self.cluster;
        for (from, to) in [("a", "b"), ("b", "a")] {
            let ran = cluster.spawn(from, &["spawn", &cluster.id(to)]).one("ran");
            assert_eq!(ran.text("child"), ran.text("said"));
        }
        let session = cluster.session("a", "b").expect("a session");
        assert_eq!(session.epoch, self.epoch, "the session of a and b was lost");
        for kind in ["link", "down", "node", "data"] {
            let all = self.watcher.all(kind);
            assert!(all.is_empty(), "the watcher was told: {all:#?}");
        }
        assert!(cluster.runs("a", &self.watcher.pid));
        for child in &self.children {
            assert!(cluster.runs("b", child), "{child} has ended");
        }
    }
}

/// A connection of ours to a node.
pub(crate) struct Stranger {
    pub(crate) connection: Connection,
    pub(crate) out: LaneWriter,
    pub(crate) lane: LaneReader,
    pub(crate) bytes: BytesMut,
    _transport: Transport,
}

impl Stranger {
    pub(crate) async fn meet(
        addr: std::net::SocketAddr,
        identity: &Identity,
        hello: Hello,
    ) -> Result<Self, String> {
        let told = |error: tidelock_node::transport::TransportError| error.to_string();
        let socket = Socket::bind("127.0.0.1:0".parse().expect("an address")).map_err(told)?;
        let lease = std::time::Duration::from_secs(3);
        let transport = Transport::new(socket, identity, lease).map_err(told)?;
        Self::meet_over(transport, addr, hello).await
    }

    /// As [`Stranger::meet`], with a socket of its own.
    pub(crate) async fn meet_over(
        transport: Transport,
        addr: std::net::SocketAddr,
        hello: Hello,
    ) -> Result<Self, String> {
        let told = |error: tidelock_node::transport::TransportError| error.to_string();
        let connection = transport.dial(addr).await.map_err(told)?;
        let mut out = match connection.open_lane().await {
            Ok(out) => out,
            Err(_) => return Err(connection.closed().await),
        };
        let mut frame = Vec::new();
        Frame::Hello(hello).encode(&mut frame);
        let answered = async {
            out.write(frame.into()).await?;
            connection.accept_stream().await?.identify().await
        };
        let lane = match answered.await {
            Ok(Opened::Lane(lane)) => lane,
            Ok(Opened::Bulk(..)) => return Err("a bulk stream before the lane".to_owned()),
            Err(_) => return Err(connection.closed().await),
        };
        let mut stranger = Stranger {
            connection,
            out,
            lane,
            bytes: BytesMut::new(),
            _transport: transport,
        };
        match stranger.frame().await? {
            Frame::Hello(_) => Ok(stranger),
            other => Err(format!("{other:?}")),
        }
    }

    /// The next frame, or how the session ended.
    pub(crate) async fn frame(&mut self) -> Result<Frame, String> {
        loop {
            if let Some(frame) = wire::decode(&mut self.bytes).expect("the node sends frames") {
                return Ok(frame);
            }
            match self.lane.read(4096).await {
                Ok(Some(bytes)) => self.bytes.extend_from_slice(&bytes),
                Ok(None) | Err(_) => return Err(self.connection.closed().await),
            }
        }
    }

    pub(crate) async fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.write(bytes).await;
    }

    pub(crate) async fn write(&mut self, bytes: Vec<u8>) {
        self.out
            .write(bytes.into())
            .await
            .expect("the session is open");
    }

    /// Answers Pings from now on, so that its lease does not end whatever else it does.
    pub(crate) fn answer_pings(&self) {
        let connection = self.connection.clone();
        tokio::spawn(async move {
            while let Ok(datagram) = connection.read_datagram().await {
                if let Some(Datagram::Ping(number)) = Datagram::decode(&datagram) {
                    connection.send_datagram(&Datagram::Pong(number).encode());
                }
            }
        });
    }

    /// Lives up to the next `count` questions for a link or a monitor, as its processes would.
    pub(crate) async fn let_bind(&mut self, count: usize) {
        for _ in 0..count {
            let asked = self.frame().await.expect("a question");
            let Frame::Signal(route, signal) = asked else {
                panic!("{asked:?}");
            };
            let answer = match signal {
                Signal::Link { id, .. } => Signal::LinkAck {
                    id,
                    answer: LinkAnswer::Linked,
                },
                Signal::Monitor { reference } => Signal::MonitorAck {
                    reference,
                    exists: true,
                },
                other => panic!("{other:?}"),
            };
            let route = Route {
                from: route.to,
                to: route.from,
                ..route
            };
            self.say(&Frame::Signal(route, answer)).await;
        }
    }

    /// Has no module for anybody, and says so when asked.
    pub(crate) fn serve_nothing(&self) {
        let connection = self.connection.clone();
        tokio::spawn(async move {
            while let Ok(mut question) = connection.accept_question().await {
                if question.read(32).await.is_ok() {
                    // Whoever asked may be gone.
                    let _ = question.answer(Bytes::new()).await;
                }
            }
        });
    }
}

pub(crate) fn pid(text: &str) -> Pid {
    text.parse().expect("a pid")
}

#[test]
fn a_wrong_certificate_gets_nobody_in() {
    let by = Bystanders::new();
    // First one with nothing wrong: what follows is refused for its oddity, not for the method.
    let welcome = by.welcome(900);
    by.cluster
        .block_on(async { welcome.connection.close("bye") });

    let cases = [
        (Odd::OtherAuthority, "BadSignature"),
        (Odd::SelfSigned, "UnknownIssuer"),
        (Odd::Expired, "certificate expired"),
        (Odd::NotYetValid, "not valid yet"),
        (Odd::WrongRole, "role operator"),
        (Odd::TwoUris, "exactly one tidelock:// URI, it carries 2"),
        (Odd::NoUri, "exactly one tidelock:// URI, it carries 0"),
        (Odd::ForeignUri, "spiffe://"),
        (Odd::OtherCluster, "belongs to cluster"),
        (Odd::NoUsage, "extended key usage"),
    ];
    for (id, (odd, word)) in (901..).zip(cases) {
        let from = by.logged_up_to_now();
        // It takes the node for what it is: the refusal is the node's.
        let identity = testing::trusting(&by.identity(id, odd), by.authority.certificate());
        let refused = by.meet(&identity, by.hello(&identity, id));
        let why = refused
            .err()
            .unwrap_or_else(|| panic!("{odd:?} was let in"));
        let logged = by.logged(from, &["a connection was refused", word]);
        eprintln!("{odd:?}: told {why:?}; logged: {}", logged.text);
    }
    by.undisturbed();
}

#[test]
fn a_ticket_is_good_for_its_own_node_only() {
    let by = Bystanders::new();
    let others = Identity::load(&by.cluster.state("b").join("identity")).expect("b's identity");
    let others = others.ticket().expect("b has a ticket").to_vec();
    let ours = by.identity(910, Odd::Nothing);
    let body = Ticket::read_unverified(ours.ticket().expect("a ticket")).expect("a ticket");
    let imposter = testing::authority("test", UnixTime::now());
    let old = Ticket {
        not_before_s: 1,
        not_after_s: 2,
        ..body.clone()
    };
    let wide = Ticket {
        environments: Environments::Any,
        node: by.node("b"),
        ..body.clone()
    };
    let (id, b) = (NodeId(910), by.node("b"));
    let cases = [
        ("the ticket of b", b, others, "belongs to another"),
        ("no ticket", id, Vec::new(), "cannot be read"),
        (
            "a ticket that has run out",
            id,
            testing::sign_ticket(&by.authority, &old),
            "expired",
        ),
        (
            "another authority's",
            id,
            testing::sign_ticket(&imposter, &body),
            "not signed by",
        ),
        (
            "our ticket, b's name",
            b,
            ours.ticket().expect("it").to_vec(),
            "a node is who its",
        ),
        (
            "our own id, b's ticket",
            id,
            testing::sign_ticket(&by.authority, &wide),
            "a node is who",
        ),
    ];
    for (what, from, ticket, rule) in cases {
        let start = by.logged_up_to_now();
        let identity = testing::with_ticket(&ours, Some(ticket.clone()));
        let hello = Hello {
            from,
            ticket,
            ..by.hello(&identity, 910)
        };
        let why = by
            .meet(&identity, hello)
            .err()
            .unwrap_or_else(|| panic!("{what}: let in"));
        assert!(why.contains(rule), "{what}: {why}");
        by.logged(start, &["a connection was refused", rule]);
        eprintln!("{what}: {why}");
    }
    by.undisturbed();
}

#[test]
fn a_dial_that_reaches_somebody_else_is_no_session() {
    let by = Bystanders::new();
    // Control lists a node at the address of b: whoever answers there is not the one asked for.
    let ghost = by.cluster.list("ghost", by.cluster.node("b").addr());
    let guest = by.cluster.turn_to("a", &ghost);
    let how = guest.one("spawned").text("how");
    assert!(how.starts_with("Err(Unreachable("), "{how}");
    assert!(
        how.contains("this is another node than the one dialled"),
        "{how}"
    );
    assert_eq!(guest.one("down").number("code"), 255);

    // And one where an impostor answers, of an authority of its own.
    let odd = by.identity(970, Odd::OtherAuthority);
    let identity = testing::trusting(&odd, by.authority.certificate());
    let (_impostor, addr) = by.cluster.block_on(async {
        let socket = Socket::bind("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let addr = socket.local_addr();
        let lease = std::time::Duration::from_secs(3);
        let transport = Transport::new(socket, &identity, lease).expect("a transport");
        let accepting = transport.clone();
        tokio::spawn(async move {
            while let Some(accepting) = accepting.accept().await {
                // The dialler ends it.
                let _ = accepting.complete().await;
            }
        });
        (transport, addr)
    });
    let ghost = by.cluster.list("impostor", addr);
    let guest = by.cluster.turn_to("a", &ghost);
    let why = guest.one("spawned").text("how");
    assert!(why.contains("invalid peer certificate"), "{why}");
    assert_eq!(guest.one("down").number("code"), 255);
    eprintln!("another node: {how}\nan impostor: {why}");
    by.undisturbed();
}

#[test]
fn a_hello_that_does_not_fit_is_refused_with_the_rule() {
    let by = Bystanders::new();
    let identity = by.identity(920, Odd::Nothing);
    let good = by.hello(&identity, 920);
    let cases = [
        (
            Hello {
                versions: (PROTOCOL.1 + 1, PROTOCOL.1 + 8),
                ..good.clone()
            },
            "peer speaks protocol 4–11, this node speaks 1–3",
        ),
        (
            Hello {
                versions: (9, 2),
                ..good.clone()
            },
            "a version range runs upwards",
        ),
        (
            Hello {
                to: by.node("b"),
                ..good.clone()
            },
            "another node than the one dialled",
        ),
        (
            Hello {
                epoch: 0,
                ..good.clone()
            },
            "epochs count from 1",
        ),
    ];
    for (hello, rule) in cases {
        let start = by.logged_up_to_now();
        let why = by
            .meet(&identity, hello)
            .err()
            .unwrap_or_else(|| panic!("{rule}: let in"));
        assert!(why.contains(rule), "{rule}: {why}");
        by.logged(start, &["a connection was refused", rule]);
        eprintln!("refused: {why}");
    }
    // An epoch is opened once: the second Hello is told which one is known.
    drop(
        by.meet(&identity, good.clone())
            .expect("nothing is wrong with it"),
    );
    let again = by
        .meet(&identity, good.clone())
        .err()
        .expect("the epoch is used up");
    assert!(again.starts_with("Stale("), "{again}");

    // A later start of the same name replaces the earlier one, and never the other way round.
    let first = Hello { epoch: 7, ..good };
    let mut session = by.meet(&identity, first.clone()).expect("a higher epoch");
    let later = testing::node(
        &by.authority,
        NodeId(921),
        "stranger-920",
        Odd::Nothing,
        UnixTime::now(),
    );
    let replaced = by
        .meet(&later, by.hello(&later, 921))
        .expect("it is the later start");
    let why = by
        .cluster
        .block_on(session.frame())
        .expect_err("its session is over");
    assert!(why.contains("stranger-920 restarted as n921"), "{why}");
    let why = by
        .meet(&identity, Hello { epoch: 8, ..first })
        .err()
        .expect("it was replaced");
    assert!(why.contains("was replaced by its restart n921"), "{why}");
    drop(replaced);
    by.undisturbed();
}

#[test]
fn a_broken_rule_ends_that_session_and_nothing_else() {
    let by = Bystanders::new();
    let route = |from: &str, to: &str| Route {
        environ: Environ::default(),
        from: pid(from),
        to: pid(to),
    };
    let (child, watcher) = (by.children[0].as_str(), by.watcher.pid.as_str());
    let exit = Signal::Exit {
        reason: ExitReason::Exit(1),
    };
    let prepare = Prepare {
        environ: Environ::default(),
        parent: pid(child),
        module: ModuleHash([7; 32]),
        entry: "_start".to_owned(),
        params: Vec::new(),
        config: ProcessConfig::default().into(),
        link: None,
        monitor: None,
    };
    let encoded = |frame: Frame| {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    };
    let identity = by.identity(930, Odd::Nothing);
    let hello = encoded(Frame::Hello(by.hello(&identity, 930)));
    let sender = "a sender lives on the node that its certificate names";
    let cases = [
        (
            930,
            "a forged end",
            encoded(Frame::Signal(route(child, watcher), exit.clone())),
            sender,
        ),
        (
            931,
            "a forged kill",
            encoded(Frame::Signal(route(child, watcher), Signal::Kill)),
            sender,
        ),
        (
            932,
            "a forged message",
            encoded(Frame::Message(
                route(child, watcher),
                Some(1),
                Bytes::from_static(b"12345678"),
            )),
            sender,
        ),
        (
            933,
            "a forged parent",
            encoded(Frame::Prepare(1, Box::new(prepare))),
            "a parent lives on the node that its certificate names",
        ),
        (
            934,
            "a target elsewhere",
            encoded(Frame::Signal(route("n934.1", child), exit)),
            "a target lives on this node",
        ),
        (935, "Hello twice", hello, "Hello comes once"),
        (
            936,
            "Start of nothing",
            encoded(Frame::Start(3)),
            "Start follows Prepared",
        ),
        (
            937,
            "an answer to nothing",
            encoded(Frame::Prepared(3, pid("n937.1"))),
            "nobody asked for",
        ),
        (938, "garbage", vec![0xff; 64], "unknown kind of frame 255"),
        (
            939,
            "a length beyond all",
            vec![0xff, 0xff, 0xff, 0xff, 3],
            "is too long",
        ),
        (
            940,
            "a body of another frame",
            vec![2, 0, 0, 0, 9, 1, 2],
            "malformed body",
        ),
    ];
    for (id, what, bytes, rule) in cases {
        let start = by.logged_up_to_now();
        let mut stranger = by.welcome(id);
        let why = by.cluster.block_on(async {
            stranger.write(bytes).await;
            stranger.frame().await.expect_err("the session ends")
        });
        assert!(why.contains(rule), "{what}: {why}");
        by.logged(start, &["session over", &format!("n{id}"), rule]);
        eprintln!("{what}: {why}");
    }
    let start = by.logged_up_to_now();
    let stranger = by.welcome(950);
    by.cluster.block_on(async {
        stranger.connection.send_datagram(b"neither Ping nor Pong");
        stranger.connection.closed().await
    });
    by.logged(
        start,
        &["session over", "n950", "a datagram is a Ping or a Pong"],
    );
    by.undisturbed();
}

#[test]
fn a_removed_node_that_goes_on_speaking_is_heard_by_nobody() {
    let mut cluster = Cluster::pair();
    // A node of the cluster in all but that it keeps to nothing: it never asks control, so nobody
    // tells it to stop. It listens where control lists it, and answers no dial.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let addr = silent.local_addr().expect("an address");
    let first = cluster.join("taken-over", addr);
    let second = cluster.block_on(first.client.renew(&first.identity));
    let ghost = NodeDescription {
        name: "taken-over".to_owned(),
        addr,
        admin_addr: addr,
        version: "0.0.0".to_owned(),
        tags: Tags::default(),
    };
    let control = cluster.control.addr().to_string();
    let third = cluster
        .block_on(Client::rejoin(&control, &first.identity, &ghost))
        .expect("it may join again");
    let shown = [
        (first.node, first.identity.clone()),
        (first.node, second.expect("it may renew")),
        (third.node, third.identity.clone()),
    ];
    let hello = |cluster: &Cluster, to: &str, (from, identity): &(NodeId, Identity), epoch| Hello {
        versions: PROTOCOL,
        from: *from,
        to: cluster.id(to).parse().expect("a node id"),
        epoch,
        ticket: identity.ticket().expect("a node's").to_vec(),
    };
    let meet = |cluster: &Cluster, to: &str, who: &(NodeId, Identity), epoch| {
        let hello = hello(cluster, to, who, epoch);
        cluster.block_on(Stranger::meet(cluster.node(to).addr(), &who.1, hello))
    };
    let mut taken_over = meet(&cluster, "a", &shown[2], 1).expect("nothing is wrong with it");

    // A process of a is linked to one of its.
    let theirs = format!("{}.1", third.node);
    let bound = cluster.spawn("a", &["bind", &theirs]);
    cluster.block_on(taken_over.let_bind(2));
    bound.one("bound");

    // Removed by a start that is long over: its key counts.
    let at = Instant::now();
    let why = cluster.block_on(async {
        cluster
            .operator
            .remove(first.node)
            .await
            .expect("control removes it");
        taken_over.frame().await.expect_err("the session is over")
    });
    let (link, down) = (bound.one("link"), bound.one("down"));
    assert!(
        why.contains("removed from the cluster by an operator"),
        "{why}"
    );
    for seen in [&link, &down] {
        assert_eq!(
            (seen.text("about"), seen.number("code")),
            (theirs.clone(), 255)
        );
        assert!(
            seen.text("why").contains("removed from the cluster"),
            "{}",
            seen.text
        );
    }
    let took = link.at.max(down.at) - at;
    assert!(took < cluster.lease() / 2, "{took:?}");
    eprintln!("removed: {why:?}; the link was told after {took:?}");

    // Whatever it shows, and also to a node that started after the removal.
    let b = cluster.id("b");
    cluster.node_mut("b").kill();
    cluster.restart("b");
    assert_ne!(cluster.id("b"), b);
    for to in ["a", "b"] {
        for (epoch, who) in (2..).zip(&shown) {
            let from = cluster.node(to).log.len();
            let refused = meet(&cluster, to, who, epoch).err();
            let why = refused.unwrap_or_else(|| panic!("{} was let in by {to}", who.0));
            assert!(
                why.contains("removed from the cluster by an operator"),
                "{why}"
            );
            let words = ["a connection was refused", &who.0.to_string(), "removed"];
            let logged = cluster.node(to).log.wait_from(from, |line| {
                words.iter().all(|word| line.text.contains(word))
            });
            logged.expect("the refusal is logged");
        }
    }
    assert_eq!((bound.all("link").len(), bound.all("down").len()), (1, 1));
    assert!(cluster.runs("a", &bound.pid));
}

#[test]
fn an_unknown_module_is_refused_and_an_unstarted_child_never_runs() {
    let by = Bystanders::new();
    let mut stranger = by.welcome(960);
    let mut prepare = Prepare {
        environ: Environ::default(),
        parent: pid("n960.1"),
        module: ModuleHash([7; 32]),
        entry: "_start".to_owned(),
        params: Vec::new(),
        config: ProcessConfig {
            args: vec!["scenarios".to_owned(), "hold".to_owned()],
            ..ProcessConfig::default()
        }
        .into(),
        link: None,
        monitor: None,
    };
    let unknown = prepare.clone();
    let answer = by.cluster.block_on(async {
        stranger.serve_nothing();
        stranger.say(&Frame::Prepare(1, Box::new(unknown))).await;
        stranger.frame().await.expect("an answer")
    });
    let Frame::Refused(1, Refusal::NoModule(why)) = answer else {
        panic!("{answer:?}");
    };
    assert!(why.contains(&ModuleHash([7; 32]).to_string()), "{why}");
    eprintln!("unknown module: {why}");

    // Prepared, and never told to start: the session ends, and with it the child, unrun.
    prepare.module = by.cluster.module().parse().expect("a hash");
    let child = by.cluster.block_on(async {
        stranger.say(&Frame::Prepare(2, Box::new(prepare))).await;
        match stranger.frame().await.expect("an answer") {
            Frame::Prepared(2, child) => child.to_string(),
            other => panic!("{other:?}"),
        }
    });
    assert!(by.cluster.runs("a", &child), "{child} is parked");
    by.cluster
        .block_on(async { stranger.connection.close("changed my mind") });
    let end = by.cluster.end_of("a", &child);
    assert!(end.reason.starts_with("never started"), "{}", end.reason);
    assert!(
        by.cluster.listen("a", &child).all("holding").is_empty(),
        "it ran"
    );
    eprintln!("unstarted child: {}", end.reason);
    by.undisturbed();
}
