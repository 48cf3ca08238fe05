//! Sessions outlive the certificates they began with, and no longer than the later ones.
//!
//! Goal: a node that renews its certificate keeps its sessions, one that cannot loses them when it runs out,
//! and nobody moves that end who may not. Method: nodes in this process with certificates of six seconds,
//! linked over real QUIC; and strangers, which are this test with the cluster's own authority, each wrong in
//! one thing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use tidelock::{Context, Environ, ExitReason, Filter, LinkForm, Message, NodeId, Pid, Received};
use tidelock::{LinkSignal, SpawnOptions};
use tidelock_certs::{
    Authority, Binding, Environments, Identity, Key, Renewal, Shown, Ticket, UnixTime, renewal,
    testing,
};
use tidelock_control::client::Client;
use tidelock_control::{ControlConfig, ControlHandle};
use tidelock_node::dist::PeerEvent;
use tidelock_node::transport::{Connection, LaneReader, LaneWriter, Opened, Socket, Transport};
use tidelock_node::{Node, NodeConfig};
use tidelock_proto::PROTOCOL;
use tidelock_proto::link::LinkAnswer;
use tidelock_proto::wire::{self, Frame, HEADER_BYTES, Hello, Renew, Route};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout};

/// Longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long certificates live where they are to run out.
const SHORT: Duration = Duration::from_secs(6);
const ENOUGH: Duration = Duration::from_secs(3600);

/// A control plane and nodes, all of them in this process.
struct Bench {
    control: ControlHandle,
    operator: Client,
    nodes: Vec<Node>,
    state: tempfile::TempDir,
}

impl Bench {
    async fn new(certificate_lifetime: Duration, count: usize) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = ControlConfig::new("test", state.path().join("control"));
        config.listen.set_port(0);
        config.certificate_lifetime = certificate_lifetime;
        let control = tidelock_control::serve(config).await.unwrap();
        let operator = Identity::load(control.operator_dir()).unwrap();
        let operator = Client::with_identity(control.control(), &operator).unwrap();
        let mut bench = Bench {
            control,
            operator,
            nodes: Vec::new(),
            state,
        };
        for _ in 0..count {
            bench.add().await;
        }
        bench
    }

    /// Starts one more node, and waits until each has a session with each other one.
    async fn add(&mut self) {
        let name = format!("node-{}", self.nodes.len() + 1);
        let token = self.operator.create_token(PATIENCE, 1).await.unwrap();
        let mut config = NodeConfig::new(name, self.control.control());
        config.token = Some(token.token.parse().unwrap());
        config.state_dir = Some(self.node_dir(self.nodes.len()));
        self.nodes.push(Node::start(config).await.unwrap());
        let others = self.nodes.len() - 1;
        let met = async {
            for node in &self.nodes {
                while node.dist().sessions().len() < others {
                    tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
                }
            }
        };
        timeout(PATIENCE, met).await.expect("the nodes meet");
    }

    fn node_dir(&self, at: usize) -> PathBuf {
        self.state.path().join(format!("node-{at}"))
    }

    /// The identity a node keeps.
    fn identity(&self, at: usize) -> Identity {
        Identity::load(&self.node_dir(at).join("identity")).unwrap()
    }

    fn authority(&self) -> Authority {
        let folder = self.state.path().join("control/authority");
        Authority::open(&folder, "test", UnixTime::now()).unwrap()
    }

    async fn stop(self) {
        for node in &self.nodes {
            node.leave().await;
        }
        self.control.shutdown().await;
    }
}

// ---- processes -------------------------------------------------------------------------------

/// Starts a process.
fn run<C>(node: &Node, code: impl FnOnce(Context) -> C + Send + 'static) -> Pid
where
    C: Future<Output = ExitReason> + Send + 'static,
{
    let options = SpawnOptions::default();
    node.environment()
        .spawn_native("test", options, code)
        .unwrap()
}

/// Answers each message with its bytes, to the process that the first eight of them name.
fn echo(node: &Node) -> Pid {
    run(node, async |mut me| {
        me.set_die_when_link_dies(false);
        while let Some(received) = me.receive(Filter::Any, None).await {
            if let Received::Message(message) = received {
                let raw = u64::from_le_bytes(message.data[..8].try_into().unwrap());
                let to = Pid::from_raw(raw).unwrap();
                me.send(to, message).await.expect("it can be reached");
            }
        }
        ExitReason::Normal
    })
}

/// A process that is linked to another one, and hands on all that it receives.
struct Watcher {
    pid: Pid,
    received: mpsc::UnboundedReceiver<Received>,
}

impl Watcher {
    async fn new(node: &Node, target: Pid) -> Self {
        let (told, received) = mpsc::unbounded_channel();
        let (linked, is_linked) = tokio::sync::oneshot::channel();
        let pid = run(node, async move |mut me| {
            me.set_die_when_link_dies(false);
            let soon = Some(Instant::now() + PATIENCE);
            let link = me.link(target, Some(1), LinkForm::Value, soon).await;
            linked.send(link).expect("the test listens");
            while let Some(received) = me.receive(Filter::Any, None).await {
                if told.send(received).is_err() {
                    break;
                }
            }
            ExitReason::Normal
        });
        is_linked.await.unwrap().expect("linked");
        Watcher { pid, received }
    }

    async fn next(&mut self) -> Received {
        let received = timeout(PATIENCE, self.received.recv()).await;
        received.expect("in time").expect("the process lives")
    }

    /// Fails unless the next thing received is the answer of [`echo`] to a message sent now, over whichever
    /// way leads there.
    async fn is_answered(&mut self, node: &Node, by: Pid) {
        let data = self.pid.raw().to_le_bytes().to_vec();
        let message = Message {
            data: data.into(),
            ..Message::default()
        };
        node.environment().send(by, message.clone()).await.unwrap();
        match self.next().await {
            Received::Message(answer) => assert_eq!(answer.data, message.data),
            other => panic!("{other:?}"),
        }
    }

    /// Fails unless it was told of the end of `of` once and of nothing else, up to now.
    async fn is_told_once(&mut self, node: &Node, of: Pid) -> ExitReason {
        let reason = match self.next().await {
            Received::LinkDied {
                pid,
                tag: Some(1),
                reason,
            } if pid == of => reason,
            other => panic!("{other:?}"),
        };
        // What is sent now comes behind all that was told.
        let fence = Message {
            tag: Some(99),
            ..Message::default()
        };
        node.environment().send(self.pid, fence).await.unwrap();
        match self.next().await {
            Received::Message(message) if message.tag == Some(99) => reason,
            other => panic!("told twice: {other:?}"),
        }
    }
}

// ---- nodes -----------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_and_its_links_outlive_the_certificates_they_began_with() {
    let mut bench = Bench::new(SHORT, 2).await;
    let target = echo(&bench.nodes[1]);
    let mut watcher = Watcher::new(&bench.nodes[0], target).await;
    let events: Vec<_> = bench
        .nodes
        .iter()
        .map(|node| node.dist().events())
        .collect();
    let epochs = |bench: &Bench| -> Vec<u64> {
        let sessions = bench.nodes[..2].iter().map(|node| node.dist().sessions());
        sessions.map(|open| open[0].epoch).collect()
    };
    let before = epochs(&bench);
    for _ in 0..2 {
        let first: Vec<_> = (0..2).map(|at| bench.identity(at).not_after()).collect();
        let last = first.iter().map(|at| at.as_secs()).max().unwrap();
        while UnixTime::now().as_secs() <= last + 1 {
            tokio::time::sleep(Duration::from_millis(50)).await; // until they are of no use
        }
        watcher.is_answered(&bench.nodes[0], target).await;
    }
    assert_eq!(epochs(&bench), before, "the sessions are the same");
    for mut events in events {
        let none = events.try_recv();
        assert!(none.is_err(), "a session began or ended: {none:?}");
    }
    for node in &bench.nodes {
        let left = node.dist().sessions()[0].expires_at.elapsed();
        assert!(left.is_err(), "it ends later than now");
    }
    // The link is no less than it was.
    bench.nodes[1].environment().kill(target, None);
    let reason = watcher.is_told_once(&bench.nodes[0], target).await;
    assert_eq!(reason, ExitReason::Killed(None));
    // Nodes that have renewed dial a newcomer with what they have now: it has a larger id.
    bench.add().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_renew_loses_its_session_with_its_certificate_and_it_is_told_once() {
    let bench = Bench::new(SHORT, 2).await;
    let targets = [echo(&bench.nodes[1]), echo(&bench.nodes[0])];
    let mut watchers = [
        Watcher::new(&bench.nodes[0], targets[0]).await,
        Watcher::new(&bench.nodes[1], targets[1]).await,
    ];
    let mut events: Vec<_> = bench
        .nodes
        .iter()
        .map(|node| node.dist().events())
        .collect();
    let ends: Vec<u64> = (0..2)
        .map(|at| bench.identity(at).not_after().as_secs())
        .collect();
    bench.control.shutdown().await;
    let mut whys = Vec::new();
    for (node, events) in bench.nodes.iter().zip(&mut events) {
        whys.push(down(events).await);
        assert!(node.dist().sessions().is_empty());
    }
    let now = UnixTime::now().as_secs();
    assert!(now >= *ends.iter().min().unwrap(), "ended too early");
    let said = |why: &String| why.contains("certificate ran out, and it showed no later one");
    assert!(whys.iter().any(said), "{whys:?}");
    for (at, watcher) in watchers.iter_mut().enumerate() {
        let reason = watcher.is_told_once(&bench.nodes[at], targets[at]).await;
        assert!(matches!(reason, ExitReason::NodeDown { .. }), "{reason:?}");
    }
    for node in &bench.nodes {
        node.leave().await;
    }
}

/// Why the session of these events ended.
async fn down(events: &mut broadcast::Receiver<PeerEvent>) -> String {
    loop {
        let event = timeout(PATIENCE, events.recv()).await.expect("in time");
        if let PeerEvent::Down { why, .. } = event.unwrap() {
            return why;
        }
    }
}

// ---- strangers -------------------------------------------------------------------------------

/// What the authority gives to a stranger.
#[derive(Clone)]
struct Wish {
    key: Key,
    name: &'static str,
    id: NodeId,
    environments: Environments,
    life: Duration,
}

impl Wish {
    fn new(id: u64, life: Duration) -> Self {
        Wish {
            key: Key::generate(),
            name: "stranger",
            id: NodeId(id),
            environments: Environments::Only(vec![Environ::default()]),
            life,
        }
    }

    fn identity(&self, authority: &Authority) -> Identity {
        let request = self.key.signing_request();
        let certificate = authority
            .issue_node(&request, self.name, self.life, UnixTime::now())
            .unwrap();
        let ticket = authority
            .issue_ticket(&certificate, self.id, self.environments.clone())
            .unwrap();
        let root = authority.certificate().clone();
        Identity::new(self.key.clone(), vec![certificate], root, Some(ticket)).unwrap()
    }

    /// The same for longer.
    fn later(&self, by_s: u64) -> Self {
        Wish {
            life: self.life + Duration::from_secs(by_s),
            ..self.clone()
        }
    }
}

/// A session with a node, held by this test.
struct Stranger {
    connection: Connection,
    out: LaneWriter,
    lane: LaneReader,
    bytes: BytesMut,
    us: NodeId,
    node: NodeId,
    epoch: u64,
    _transport: Transport,
}

impl Stranger {
    async fn meet(node: &Node, identity: &Identity, versions: (u16, u16), epoch: u64) -> Self {
        Self::dial(node.addr(), node.id(), identity, versions, epoch)
            .await
            .expect("it is let in")
    }

    async fn dial(
        addr: SocketAddr,
        node: NodeId,
        identity: &Identity,
        versions: (u16, u16),
        epoch: u64,
    ) -> Result<Self, String> {
        let socket = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let transport = Transport::new(socket, identity, Duration::from_secs(3)).unwrap();
        let connection = transport.dial(addr).await.map_err(|e| e.to_string())?;
        let us = Shown::of(identity).unwrap().ticket().node;
        let hello = Frame::Hello(Hello {
            versions,
            from: us,
            to: node,
            epoch,
            ticket: identity.ticket().unwrap().to_vec(),
        });
        let mut out = connection.open_lane().await.unwrap();
        out.write(bytes_of(&hello).into()).await.unwrap();
        let lane = async { connection.accept_stream().await?.identify().await };
        let lane = match lane.await {
            Ok(Opened::Lane(lane)) => lane,
            other => return Err(format!("{other:?}: {}", connection.closed().await)),
        };
        let mut stranger = Stranger {
            connection,
            out,
            lane,
            bytes: BytesMut::new(),
            us,
            node,
            epoch,
            _transport: transport,
        };
        stranger.answer_pings();
        match stranger.frame().await? {
            Frame::Hello(hello) => assert_eq!(hello.versions, PROTOCOL),
            other => return Err(format!("{other:?}")),
        }
        Ok(stranger)
    }

    fn answer_pings(&self) {
        use tidelock_proto::wire::Datagram;
        let connection = self.connection.clone();
        tokio::spawn(async move {
            while let Ok(datagram) = connection.read_datagram().await {
                if let Some(Datagram::Ping(number)) = Datagram::decode(&datagram) {
                    connection.send_datagram(&Datagram::Pong(number).encode());
                }
            }
        });
    }

    async fn say(&mut self, frame: &Frame) {
        self.write(bytes_of(frame)).await;
    }

    async fn write(&mut self, bytes: Vec<u8>) {
        // The session may be over by then.
        let _ = self.out.write(bytes.into()).await;
    }

    /// The next frame, or how the session ended.
    async fn frame(&mut self) -> Result<Frame, String> {
        let next = async {
            loop {
                if let Some(frame) = wire::decode(&mut self.bytes).expect("the node sends frames") {
                    return Ok(frame);
                }
                match self.lane.read(4096).await {
                    Ok(Some(bytes)) => self.bytes.extend_from_slice(&bytes),
                    Ok(None) | Err(_) => return Err(self.connection.closed().await),
                }
            }
        };
        timeout(PATIENCE, next).await.expect("in time")
    }

    /// What the node has said up to now: a question is answered behind it.
    async fn said(&mut self, question: u64) -> Result<Vec<Frame>, String> {
        let nobody = Pid::new(self.node, Pid::LOCAL_MAX).unwrap();
        self.say(&Frame::Query(question, nobody)).await;
        let mut said = Vec::new();
        loop {
            match self.frame().await? {
                Frame::Answer(number, false) if number == question => return Ok(said),
                frame => said.push(frame),
            }
        }
    }

    fn binding(&self) -> Binding {
        Binding {
            exporter: self.connection.exporter().unwrap(),
            epoch: self.epoch,
            from: self.us,
            to: self.node,
        }
    }

    fn renew(&self, identity: &Identity) -> Renew {
        renew(identity, &self.binding())
    }
}

fn renew(identity: &Identity, binding: &Binding) -> Renew {
    Renew {
        certificate: identity.certificate().to_vec(),
        ticket: identity.ticket().unwrap().to_vec(),
        proof: renewal::prove(identity, binding),
    }
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_is_wrong_ends_that_session_with_its_reason() {
    let bench = Bench::new(ENOUGH, 2).await;
    let (node, authority) = (&bench.nodes[0], bench.authority());
    let bystander = echo(&bench.nodes[1]);
    let mut watcher = Watcher::new(node, bystander).await;
    let pirates = testing::authority("test", UnixTime::now());
    let wish = Wish::new(900, ENOUGH);
    let first = wish.identity(&authority);
    let good = wish.later(60);
    type Change<'a> = &'a dyn Fn(&Stranger) -> Renew;
    let with = |change: &dyn Fn(&mut Wish)| {
        let mut wish = good.clone();
        change(&mut wish);
        wish.identity(&authority)
    };
    let recorded = std::cell::RefCell::new(None);
    let bound = |stranger: &Stranger, change: &dyn Fn(&mut Binding)| {
        let mut binding = stranger.binding();
        change(&mut binding);
        renew(&good.identity(&authority), &binding)
    };
    let signed = "signed by the certificate's key, for this session and this direction";
    let cases: [(&str, &str, Change<'_>); 13] = [
        ("a forged signature", signed, &|stranger| {
            let mut renew = stranger.renew(&good.identity(&authority));
            renew.proof[20] ^= 1;
            recorded.replace(Some(stranger.renew(&good.identity(&authority))));
            renew
        }),
        ("that of the session before", signed, &|_| {
            recorded.take().expect("recorded by the first case")
        }),
        ("another epoch", signed, &|stranger| {
            bound(stranger, &|b| b.epoch += 1)
        }),
        ("the wrong side", signed, &|stranger| {
            bound(stranger, &|b| std::mem::swap(&mut b.from, &mut b.to))
        }),
        (
            "another node's",
            "keeps its holder's node id",
            &|stranger| stranger.renew(&with(&|w| w.id = NodeId(901))),
        ),
        ("another name's", "keeps its holder's name", &|stranger| {
            stranger.renew(&with(&|w| w.name = "somebody"))
        }),
        ("another key's", "keeps its holder's key", &|stranger| {
            stranger.renew(&with(&|w| w.key = Key::generate()))
        }),
        (
            "wider rights",
            "keeps its holder's environments",
            &|stranger| stranger.renew(&with(&|w| w.environments = Environments::Any)),
        ),
        (
            "another authority's",
            "not signed by this cluster's",
            &|stranger| stranger.renew(&good.identity(&pirates)),
        ),
        (
            "an authority's of the same name",
            "the authority's: ",
            &|stranger| {
                let theirs = good.identity(&pirates);
                let ours = good.identity(&authority);
                let ticket = ours.ticket().map(<[u8]>::to_vec);
                stranger.renew(&testing::with_ticket(&theirs, ticket))
            },
        ),
        (
            "the same again",
            "ends later than the one before",
            &|stranger| stranger.renew(&first),
        ),
        (
            "an earlier end",
            "ends later than the one before",
            &|stranger| stranger.renew(&with(&|w| w.life = Duration::from_secs(60))),
        ),
        ("no certificate", "the authority's: ", &|stranger| Renew {
            certificate: vec![0x30; 64],
            ..stranger.renew(&good.identity(&authority))
        }),
    ];
    let mut events = node.dist().events();
    for (epoch, (what, rule, change)) in (1..).zip(cases) {
        let mut stranger = Stranger::meet(node, &first, PROTOCOL, epoch).await;
        let renew = change(&stranger);
        stranger.say(&Frame::Renew(renew)).await;
        let why = stranger.said(1).await.expect_err(what);
        assert!(why.contains("peer broke the protocol: "), "{what}: {why}");
        assert!(why.contains(rule), "{what}: {why}");
        assert!(down(&mut events).await.contains(rule), "{what}");
    }

    // Parts and frames beyond their bounds, which the encoder does not make.
    let oversized = |length: u32, claimed: u64| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.push(15);
        bytes.extend(claimed.to_le_bytes());
        bytes.resize(HEADER_BYTES + length as usize, 0);
        bytes
    };
    for (epoch, (bytes, rule)) in (20..).zip([
        (oversized(4200, 4176), "malformed body of a renew frame"),
        (oversized(9000, 4096), "frame of 9000 bytes is too long"),
    ]) {
        let mut stranger = Stranger::meet(node, &first, PROTOCOL, epoch).await;
        stranger.write(bytes).await;
        let why = stranger.said(1).await.expect_err(rule);
        assert!(why.contains(rule), "{why}");
    }

    // Nobody else has noticed.
    watcher.is_answered(node, bystander).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_are_good_for_as_long_as_they_say_and_only_so_many_are_looked_at() {
    let bench = Bench::new(ENOUGH, 1).await;
    let (node, authority) = (&bench.nodes[0], bench.authority());
    let wish = Wish::new(900, ENOUGH);
    let first = wish.identity(&authority);
    let mut stranger = Stranger::meet(node, &first, PROTOCOL, 1).await;
    let end = || node.dist().sessions()[0].expires_at;
    let mut before = end();
    for by in 1..=4 {
        let renew = stranger.renew(&wish.later(by * 60).identity(&authority));
        stranger.say(&Frame::Renew(renew)).await;
        stranger.said(by).await.expect("the session goes on");
        assert!(end() > before, "its end has moved");
        before = end();
    }
    let mut frames = Vec::new();
    for by in 5..20 {
        let renew = stranger.renew(&wish.later(by * 60).identity(&authority));
        frames.extend(bytes_of(&Frame::Renew(renew)));
    }
    stranger.write(frames).await;
    let why = stranger.said(99).await.expect_err("a flood");
    assert!(
        why.contains("a certificate is renewed 4 times at once"),
        "{why}"
    );

    // A key that is removed is removed, whatever its holder has renewed.
    let mut stranger = Stranger::meet(node, &first, PROTOCOL, 2).await;
    let later = wish.later(7200).identity(&authority);
    let renew = stranger.renew(&later);
    stranger.say(&Frame::Renew(renew)).await;
    stranger.said(1).await.expect("the session goes on");
    node.dist().deny([Shown::of(&later).unwrap().ticket().key]);
    let evenlater = wish.later(9000).identity(&authority);
    let renew = stranger.renew(&evenlater);
    stranger.say(&Frame::Renew(renew)).await;
    let why = stranger.said(2).await.expect_err("it is removed");
    assert!(why.contains("removed from the cluster"), "{why}");
    let again = Stranger::dial(node.addr(), node.id(), &evenlater, PROTOCOL, 3).await;
    let why = again.err().expect("it stays removed");
    assert!(why.contains("removed from the cluster"), "{why}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_protocol_1_works_and_its_session_ends_with_its_certificate() {
    let bench = Bench::new(ENOUGH, 1).await;
    let (node, authority) = (&bench.nodes[0], bench.authority());
    let old = Wish {
        name: "old",
        ..Wish::new(900, Duration::from_secs(3))
    };
    let new = Wish {
        name: "new",
        ..Wish::new(901, ENOUGH)
    };
    let mut new = Stranger::meet(node, &new.identity(&authority), PROTOCOL, 1).await;
    let mut old_one = Stranger::meet(node, &old.identity(&authority), (1, 1), 1).await;
    // One that is linked to a process of the old one.
    let theirs = Pid::new(old_one.us, 1).unwrap();
    let (linked, ()) = tokio::join!(Watcher::new(node, theirs), async {
        let asked = old_one.frame().await.expect("a question");
        let Frame::Signal(route, LinkSignal::Link { id, .. }) = asked else {
            panic!("{asked:?}");
        };
        let answer = LinkSignal::LinkAck {
            id,
            answer: LinkAnswer::Linked,
        };
        let route = Route {
            from: route.to,
            to: route.from,
            ..route
        };
        old_one.say(&Frame::Signal(route, answer)).await;
    });
    let mut watcher = linked;

    // The node renews: who understands that is told, in the lane and with a proof for this session.
    let ours = bench.identity(0);
    let certificate = authority.issue_node(
        &ours.key().signing_request(),
        node.name(),
        ENOUGH + ENOUGH,
        UnixTime::now(),
    );
    let certificate = certificate.unwrap();
    let before = Shown::of(&ours).unwrap();
    let environments = before.ticket().environments.clone();
    let ticket = authority.issue_ticket(&certificate, node.id(), environments);
    let root = authority.certificate().clone();
    let chain = vec![certificate];
    let renewed = Identity::new(ours.key().clone(), chain, root, Some(ticket.unwrap())).unwrap();
    for _ in 0..2 {
        // The second time there is nothing later to show.
        node.dist().set_identity(&renewed).unwrap();
    }
    let said = new.said(1).await.expect("the session goes on");
    let [Frame::Renew(renew)] = said.as_slice() else {
        panic!("{said:?}");
    };
    let shown = Renewal {
        certificate: &renew.certificate,
        ticket: &renew.ticket,
        proof: &renew.proof,
    };
    let binding = Binding {
        from: new.node,
        to: new.us,
        ..new.binding()
    };
    let shown = before.renewed(&shown, &binding, authority.certificate(), UnixTime::now());
    let ticket = Ticket::read_unverified(renewed.ticket().unwrap()).unwrap();
    assert_eq!(shown.unwrap().ticket(), &ticket);
    assert_eq!(old_one.said(1).await.unwrap(), [], "not told");

    let why = old_one.frame().await.expect_err("its time is over");
    assert!(why.contains("certificate ran out"), "{why}");
    let reason = watcher.is_told_once(node, theirs).await;
    let ExitReason::NodeDown { how, .. } = reason else {
        panic!("{reason:?}");
    };
    assert!(how.contains("certificate ran out"), "{how}");

    // If it sends a renewal all the same, that is no frame of its protocol.
    let old = old.later(ENOUGH.as_secs());
    let mut old_one = Stranger::meet(node, &old.identity(&authority), (1, 1), 2).await;
    let renew = old_one.renew(&old.later(60).identity(&authority));
    old_one.say(&Frame::Renew(renew)).await;
    let why = old_one.said(1).await.expect_err("it is none of its frames");
    assert!(why.contains("Renew is spoken since protocol 2"), "{why}");
    assert_eq!(new.said(2).await.unwrap(), [], "the other session goes on");
    bench.stop().await;
}
