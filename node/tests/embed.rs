//! Nodes inside another program: native processes, linked over real QUIC with real certificates.
//!
//! Goal: what `tidelock_node::Node` offers to a program that embeds it, and a first look at every
//! promise in one process, where a debugger reaches all of it. Method: one control plane and a few
//! nodes on loopback; native processes report what they saw to the test. What is promised to
//! *separate* daemons is shown in `tests/cluster.rs`.

use std::sync::Arc;
use std::time::Duration;

use tidelock::{
    Context, ExitReason, Filter, LinkError, LinkForm, Message, Module, Pid, ProcessConfig,
    Received, Remote, SpawnError, SpawnOptions, SpawnRequest,
};
use tidelock_certs::JoinToken;
use tidelock_control::client::Client;
use tidelock_control::tags::Tags;
use tidelock_control::{ControlConfig, ControlHandle};
use tidelock_node::dist::{Member, PeerEvent};
use tidelock_node::{Node, NodeConfig};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    nodes: Vec<Node>,
    control: Option<ControlHandle>,
    _state: tempfile::TempDir,
}

impl Bench {
    async fn new(count: usize) -> Self {
        Self::with(count, tidelock_node::MESH_MAX).await
    }

    async fn with(count: usize, mesh_max: usize) -> Self {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut control = ControlConfig::new("test", state.path().join("control"));
        control.listen.set_port(0);
        let control = tidelock_control::serve(control)
            .await
            .expect("control starts");
        let client = operator(&control);
        let mut nodes = Vec::new();
        for at in 1..=count {
            let mut config = NodeConfig::new(format!("node-{at}"), control.control());
            config.token = Some(token(&client).await);
            config.mesh_max = mesh_max;
            nodes.push(Node::start(config).await.expect("a node starts"));
        }
        // A node that has just started is not known to the others yet.
        let all_met = async {
            let met = |node: &Node| match count <= mesh_max {
                true => node.dist().sessions().len() + 1 == count,
                false => node.dist().nodes().len() == count,
            };
            for node in &nodes {
                while !met(node) {
                    tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
                }
            }
        };
        timeout(PATIENCE, all_met).await.expect("the nodes meet");
        Bench {
            nodes,
            control: Some(control),
            _state: state,
        }
    }

    async fn stop(mut self) {
        for node in &self.nodes {
            node.leave().await;
        }
        if let Some(control) = self.control.take() {
            control.shutdown().await;
        }
    }
}

/// Spawns a native process that runs `code` and hands what it returns to the test.
fn run<T, F, C>(node: &Node, name: &str, code: F) -> (Pid, mpsc::Receiver<T>)
where
    T: Send + 'static,
    F: FnOnce(Context) -> C + Send + 'static,
    C: Future<Output = T> + Send + 'static,
{
    let (told, said) = mpsc::channel(1);
    let pid = node
        .environment()
        .spawn_native(name, SpawnOptions::default(), |me| {
            let code = code(me);
            async move {
                let value = code.await;
                told.send(value)
                    .await
                    .map_or(ExitReason::Exit(1), |()| ExitReason::Normal)
            }
        })
        .expect("there is room");
    (pid, said)
}

/// A process that waits until it is killed.
fn sleeper(node: &Node) -> Pid {
    node.environment()
        .spawn_native("sleeper", SpawnOptions::default(), |mut me| async move {
            me.set_die_when_link_dies(false);
            while me.receive(Filter::Any, None).await.is_some() {}
            ExitReason::Normal
        })
        .expect("there is room")
}

async fn said<T>(said: &mut mpsc::Receiver<T>) -> T {
    timeout(PATIENCE, said.recv())
        .await
        .expect("in time")
        .expect("the process said something")
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_link_is_told_once_with_its_reason() {
    let bench = Bench::new(2).await;
    let target = sleeper(&bench.nodes[1]);
    let (_, mut heard) = run(&bench.nodes[0], "watcher", move |mut me| async move {
        me.set_die_when_link_dies(false);
        me.link(target, Some(7), LinkForm::Value, soon())
            .await
            .expect("linked");
        me.kill(target).await;
        let first = me.receive(Filter::Any, soon()).await;
        // The second link finds it gone: the answer comes behind everything about the first.
        let again = me.link(target, Some(8), LinkForm::Value, soon()).await;
        (
            first,
            again,
            me.try_receive(&Filter::Any).is_none(),
            me.pid(),
        )
    });
    let (first, again, nothing_more, watcher) = said(&mut heard).await;
    match first {
        Some(Received::LinkDied {
            pid,
            tag: Some(7),
            reason,
        }) => {
            assert_eq!((pid, reason), (target, ExitReason::Killed(Some(watcher))));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(again, Err(LinkError::Ended(ExitReason::NoProcess)));
    assert!(nothing_more, "P1: told twice");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_large_cluster_a_session_opens_when_somebody_speaks() {
    let bench = Bench::with(3, 0).await;
    let sessions = || {
        let of = |node: &Node| node.dist().sessions().len();
        bench.nodes.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(sessions(), [0, 0, 0]);
    let (hearer, mut heard) = run(&bench.nodes[2], "hearer", |mut me| async move {
        me.receive(Filter::Any, soon()).await
    });
    let (_, mut spoken) = run(&bench.nodes[1], "speaker", move |mut me| async move {
        let linked = me.link(hearer, None, LinkForm::Value, soon()).await;
        let message = Message {
            tag: Some(2),
            ..Message::default()
        };
        (linked, me.send(hearer, message).await)
    });
    assert_eq!(said(&mut spoken).await, (Ok(()), Ok(())));
    let heard = said(&mut heard).await;
    assert!(
        matches!(&heard, Some(Received::Message(message)) if message.tag == Some(2)),
        "{heard:?}"
    );
    assert_eq!(sessions(), [0, 1, 1]);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_large_cluster_a_node_that_did_not_answer_is_dialled_until_it_does() {
    let bench = Bench::with(2, 0).await;
    let (here, there) = (&bench.nodes[0], &bench.nodes[1]);
    let members = |addr| {
        let member = Member {
            id: there.id(),
            name: "node-2".into(),
            addr,
            alive: true,
            tags: Tags::default(),
        };
        here.dist().set_members([member]);
    };
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    members(deaf.local_addr().expect("an address"));
    let target = sleeper(there);
    let (_, mut heard) = run(here, "caller", move |mut me| async move {
        me.link(target, None, LinkForm::Value, soon()).await
    });
    let linked = said(&mut heard).await;
    assert!(
        matches!(linked, Err(LinkError::Ended(ExitReason::NodeDown { .. }))),
        "{linked:?}"
    );
    assert_eq!(here.dist().nodes(), [here.id()], "nobody is placed there");
    let mut events = here.dist().events();
    members(there.addr());
    let up = timeout(PATIENCE, events.recv())
        .await
        .expect("it is dialled");
    assert!(matches!(up, Ok(PeerEvent::Up { node, .. }) if node == there.id()));
    assert_eq!(here.dist().nodes(), [here.id(), there.id()]);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_keep_their_order_whatever_their_size() {
    const COUNT: usize = 300;
    let bench = Bench::new(2).await;
    let (to, mut got) = run(&bench.nodes[1], "reader", |mut me| async move {
        let mut order = Vec::new();
        while order.len() < COUNT {
            if let Some(Received::Message(message)) = me.receive(Filter::Any, soon()).await {
                let number = u32::from_le_bytes(message.data[..4].try_into().expect("four bytes"));
                order.push((number, message.data.len()));
            }
        }
        order
    });
    let size = |number: usize| match number % 50 {
        0 => 3 << 20,
        10 => 70_000,
        other => 4 + other,
    };
    let (_, mut sent) = run(&bench.nodes[0], "writer", move |mut me| async move {
        for number in 0..COUNT {
            let mut data = vec![0; size(number)];
            data[..4].copy_from_slice(&u32::try_from(number).expect("small").to_le_bytes());
            let message = Message {
                data: data.into(),
                ..Message::default()
            };
            me.send(to, message).await.expect("sent");
        }
    });
    said(&mut sent).await;
    let order = said(&mut got).await;
    let expected: Vec<_> = (0..COUNT)
        .map(|number| (u32::try_from(number).expect("small"), size(number)))
        .collect();
    assert_eq!(order, expected, "P5: order");
    bench.stop().await;
}

/// A message of so many bytes.
fn bytes(length: usize) -> Message {
    Message {
        data: vec![0; length].into(),
        ..Message::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_messages_behind_a_large_one_wait_for_it_and_end_nothing() {
    const LARGE: usize = 8 << 20;
    const SMALL: usize = 60_000;
    // All of it fits into a mailbox that nobody reads.
    const COUNT: usize = 800;
    let bench = Bench::new(2).await;
    let epoch = |node: &Node| node.dist().sessions()[0].epoch;
    let before = epoch(&bench.nodes[0]);
    let (to, mut got) = run(&bench.nodes[1], "reader", |mut me| async move {
        let mut sizes = Vec::new();
        while sizes.len() <= COUNT
            && let Some(Received::Message(message)) = me.receive(Filter::Any, soon()).await
        {
            sizes.push(message.data.len());
        }
        sizes
    });
    let (_, mut sent) = run(&bench.nodes[0], "writer", move |mut me| async move {
        me.send(to, bytes(LARGE)).await.expect("sent");
        for _ in 0..COUNT {
            me.send(to, bytes(SMALL)).await.expect("sent");
        }
    });
    said(&mut sent).await;
    let sizes = said(&mut got).await;
    assert_eq!((sizes.len(), sizes[0]), (COUNT + 1, LARGE));
    assert!(sizes[1..].iter().all(|size| *size == SMALL));
    assert_eq!(epoch(&bench.nodes[0]), before, "the session lasts");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_a_goodbye_comes_before_it() {
    const LARGE: usize = 8 << 20;
    let bench = Bench::new(2).await;
    let (go, may_go) = tokio::sync::oneshot::channel();
    let (told, tells) = tokio::sync::oneshot::channel();
    let (reader, mut heard) = run(&bench.nodes[0], "reader", |mut me| async move {
        me.set_die_when_link_dies(false);
        let worker = may_go.await.expect("there is a worker");
        me.monitor(worker).await;
        told.send(()).expect("it waits");
        let first = me.receive(Filter::Any, soon()).await;
        (first, me.receive(Filter::Any, soon()).await)
    });
    let (worker, mut sent) = run(&bench.nodes[1], "worker", move |mut me| async move {
        tells.await.expect("it is monitored");
        // The monitor is here before this leaves.
        me.exists(reader).await;
        me.send(reader, bytes(LARGE)).await.expect("sent");
    });
    go.send(worker).expect("the reader waits");
    said(&mut sent).await;
    let ended = bench.nodes[1].environment().wait(worker).await;
    assert_eq!(ended, ExitReason::Normal);
    bench.nodes[1].leave().await;
    let (message, down) = said(&mut heard).await;
    assert!(
        matches!(&message, Some(Received::Message(message)) if message.data.len() == LARGE),
        "a goodbye overtook a message"
    );
    assert!(
        matches!(&down, Some(Received::Down { pid, reason: ExitReason::Normal, .. }) if *pid == worker),
        "{down:?}"
    );
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_is_told_at_once() {
    let bench = Bench::new(3).await;
    let target = sleeper(&bench.nodes[2]);
    let gone = bench.nodes[2].id();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let (_, mut heard) = run(&bench.nodes[0], "watcher", move |mut me| async move {
        me.set_die_when_link_dies(false);
        me.link(target, Some(1), LinkForm::Value, soon())
            .await
            .expect("linked");
        me.monitor(target).await;
        me.monitor_node(gone).await;
        ready.send(()).expect("the test listens");
        let mut all = Vec::new();
        while all.len() < 3 {
            all.push(me.receive(Filter::Any, soon()).await.expect("told in time"));
        }
        all
    });
    is_ready.await.expect("linked");
    let started = Instant::now();
    let mut sessions: Vec<_> = bench.nodes[..2]
        .iter()
        .map(|node| node.dist().events())
        .collect();
    bench.nodes[2].leave().await;
    let all = said(&mut heard).await;
    for events in &mut sessions {
        // It is not dialled once more while it leaves: that session would end like one of a node that crashed.
        let heard: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let [PeerEvent::Down { node, why, .. }] = &heard[..] else {
            panic!("{heard:?}");
        };
        assert_eq!((*node, why.as_str()), (gone, "left"));
    }
    eprintln!(
        "told of all three {:?} after the node began to leave",
        started.elapsed()
    );
    // Its processes are killed before it says goodbye, so their own ends come first.
    let kinds: Vec<_> = all
        .iter()
        .map(|received| match received {
            Received::LinkDied {
                pid, tag: Some(1), ..
            } if *pid == target => "link",
            Received::Down { pid, .. } if *pid == target => "down",
            Received::NodeDown { node, .. } if *node == gone => "node",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["link", "down", "node"]);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_node_is_an_answer_not_a_wait() {
    let bench = Bench::new(1).await;
    let nobody = Pid::new(tidelock::NodeId(77), 1).expect("in range");
    let (_, mut heard) = run(&bench.nodes[0], "asker", move |mut me| async move {
        let link = me.link(nobody, None, LinkForm::Value, soon()).await;
        let reference = me.monitor(nobody).await;
        let down = me.receive(Filter::Any, soon()).await;
        (link, reference, down, me.exists(nobody).await)
    });
    let (link, reference, down, exists) = said(&mut heard).await;
    assert!(
        matches!(link, Err(LinkError::Ended(ExitReason::NodeDown { .. }))),
        "{link:?}"
    );
    match down {
        Some(Received::Down {
            pid,
            reference: used,
            reason: ExitReason::NodeDown { .. },
        }) => {
            assert_eq!((pid, used), (nobody, reference));
        }
        other => panic!("{other:?}"),
    }
    assert!(!exists);
    bench.stop().await;
}

/// A node whose control plane is gone, and the configuration to bring that back with.
async fn orphan(lease: Duration, state: &std::path::Path) -> (Node, ControlConfig) {
    let mut config = ControlConfig::new("test", state);
    config.listen.set_port(0);
    config.lease = lease;
    let control = tidelock_control::serve(config.clone())
        .await
        .expect("control starts");
    config.listen = control.addr();
    let mut node = NodeConfig::new("node-1", control.control());
    node.token = Some(token(&operator(&control)).await);
    let node = Node::start(node).await.expect("a node starts");
    control.shutdown().await;
    (node, config)
}

fn operator(control: &ControlHandle) -> Client {
    let operator = tidelock_certs::Identity::load(control.operator_dir()).expect("operator");
    Client::with_identity(control.control(), &operator).expect("a client")
}

async fn token(client: &Client) -> JoinToken {
    let token = client.create_token(Duration::from_secs(60), 1).await;
    let token = token.expect("a token").token;
    token.parse().expect("a token parses")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_not_trusted_for_a_while_follows_control_again() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let state = tempfile::tempdir().expect("a temporary directory");
    let (node, config) = orphan(Duration::from_secs(10), state.path()).await;
    // Somebody who breaks handshakes off, as a control with a wrong clock does. Of two connections one
    // is the watch's: leases are three seconds apart.
    let refusing = tokio::net::TcpListener::bind(config.listen).await;
    let refusing = refusing.expect("the port is free");
    for _ in 0..2 {
        let (mut stream, _) = timeout(PATIENCE, refusing.accept())
            .await
            .expect("it looks for control")
            .expect("a connection");
        // TLS: alert, fatal, certificate expired.
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 45]).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    drop(refusing);
    let control = tidelock_control::serve(config).await.expect("it is back");

    // Whoever is new gets to hear from everybody who learns of it.
    let newcomer = tokio::net::UdpSocket::bind("127.0.0.1:0").await;
    let newcomer = newcomer.expect("a socket");
    let addr = newcomer.local_addr().expect("an address");
    let description = tidelock_control::client::NodeDescription {
        name: "node-2".to_owned(),
        addr,
        admin_addr: addr,
        version: "1".to_owned(),
        tags: Tags::default(),
    };
    Client::join(
        control.control(),
        &token(&operator(&control)).await,
        &description,
    )
    .await
    .expect("it joins");
    let mut room = [0; 2048];
    let heard = newcomer.recv_from(&mut room);
    let heard = timeout(PATIENCE, heard).await.expect("it is dialled");
    heard.expect("a datagram");
    node.leave().await;
    control.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_the_lease_that_is_stuck_leaves_time_for_others() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let (node, config) = orphan(Duration::from_secs(6), state.path()).await;
    let silent = tokio::net::TcpListener::bind(config.listen).await;
    let silent = silent.expect("the port is free");
    // A connection that nobody answers is given up after five seconds: four of them take twenty.
    let called = async {
        let mut open = Vec::new();
        while open.len() < 4 {
            open.push(silent.accept().await.expect("a connection"));
        }
    };
    let called = timeout(Duration::from_secs(14), called).await;
    assert!(called.is_ok(), "one call took the whole lease");
    node.leave().await;
}

#[tokio::test]
async fn a_spawn_that_no_frame_holds_is_refused_at_once() {
    let bench = Bench::new(2).await;
    let [one, two] = &bench.nodes[..] else {
        unreachable!("two were asked for")
    };
    let to = two.environment().node();
    let engine = one.environment().engine();
    let module = Module::compile(engine, &b"\0asm\x01\0\0\0"[..])
        .await
        .unwrap();
    let (_, mut refused) = run(one, "parent", move |mut me: Context| async move {
        let config = ProcessConfig {
            args: vec!["x".repeat(2 << 20)],
            ..ProcessConfig::default()
        };
        let request = SpawnRequest {
            module,
            entry: "none".into(),
            params: Vec::new(),
            config: Some(Arc::new(config)),
            link: None,
        };
        me.spawn_on(to, request, None).await
    });
    // The peer has nothing to say before its next Ping.
    let refused = said(&mut refused).await;
    let Err(SpawnError::Refused(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.to_string().contains("a spawn of"), "{why}");
    bench.stop().await;
}
