//! The control plane as its clients see it: real HTTPS on the loopback interface, real files.
//!
//! Method: a [`Bench`] holds a control plane in a temporary directory, can restart it, and speaks to
//! it as an operator, as nodes, and as strangers. Nothing sleeps to wait for something: what takes
//! time is awaited on the watch, with a limit that only a failure reaches.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tidelock_certs::tls::{https_client_config, pinned_client_config};
use tidelock_certs::{
    Environments, Identity, JoinToken, Key, Role, Ticket, UnixTime, from_hex, peer_name, testing,
};
use tidelock_proto::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::api::{NodeState, WatchEvent, codes};
use crate::client::{Client, ClientError, Joined, NodeDescription};
use crate::limit::JoinLimits;
use crate::{ControlConfig, ControlHandle, ServeError, StoreError, serve};

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// The smallest module: magic number and version.
const WASM: &[u8] = b"\0asm\x01\0\0\0";

struct Bench {
    dir: TempDir,
    config: ControlConfig,
    control: Option<ControlHandle>,
    operator: Client,
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ControlConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ControlConfig::new("sea", dir.path().join("state"));
        config.listen = ([127, 0, 0, 1], 0).into();
        // Nobody is lost unless a test is about that.
        config.lease = Duration::from_secs(600);
        change(&mut config);
        let control = serve(config.clone()).await.unwrap();
        let operator = operator(&control);
        Self {
            dir,
            config,
            control: Some(control),
            operator,
        }
    }

    fn address(&self) -> String {
        self.control.as_ref().unwrap().addr().to_string()
    }

    /// Stops the control plane and starts another on the same port and directory.
    async fn restart(&mut self) {
        let control = self.control.take().unwrap();
        self.config.listen = control.addr();
        control.shutdown().await;
        self.control = Some(serve(self.config.clone()).await.unwrap());
    }

    async fn token(&self, uses: u32) -> JoinToken {
        let made = self
            .operator
            .create_token(Duration::from_secs(60), uses)
            .await
            .unwrap();
        made.token.parse().unwrap()
    }

    async fn join(&self, name: &str) -> Joined {
        let token = self.token(1).await;
        Client::join(&self.address(), &token, &described(name))
            .await
            .unwrap()
    }

    async fn rejoin(&self, joined: &Joined) -> Result<Joined, ClientError> {
        let node = described(&joined.identity.name().name);
        Client::rejoin(&self.address(), &joined.identity, &node).await
    }

    async fn state(&self, node: NodeId) -> NodeState {
        let members = self.operator.nodes().await.unwrap();
        members
            .nodes
            .iter()
            .find(|info| info.id == node.to_string())
            .unwrap()
            .state
    }

    /// An HTTP client that can send anything, as somebody or as nobody.
    fn raw(&self, identity: Option<&Identity>) -> reqwest::Client {
        let config = match identity {
            Some(identity) => https_client_config(identity, Role::Control, None),
            None => {
                let operator = load_operator(self.control.as_ref().unwrap());
                pinned_client_config(&JoinToken::generate(operator.authority()))
            }
        };
        reqwest::Client::builder()
            .tls_backend_preconfigured(config.unwrap())
            .no_proxy()
            .build()
            .unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address())
    }
}

fn load_operator(control: &ControlHandle) -> Identity {
    Identity::load(control.operator_dir()).unwrap()
}

fn operator(control: &ControlHandle) -> Client {
    Client::with_identity(control.control(), &load_operator(control)).unwrap()
}

fn described(name: &str) -> NodeDescription {
    NodeDescription {
        name: name.to_owned(),
        addr: ([127, 0, 0, 1], 7717).into(),
        admin_addr: ([127, 0, 0, 1], 7718).into(),
        version: "0.1.0".to_owned(),
    }
}

fn join_body(secret: &str, name: &str) -> serde_json::Value {
    serde_json::json!({
        "secret": secret, "name": name, "csr_pem": Key::generate().signing_request(),
        "addr": "127.0.0.1:1", "admin_addr": "127.0.0.1:2", "version": "1",
    })
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("it should not take this long")
}

type Watch = futures_util::stream::BoxStream<'static, Result<WatchEvent, ClientError>>;

/// A watch that is open: everything from here on is a change.
async fn watching(client: &Client) -> Watch {
    let mut watch = client.watch();
    let opening = within(watch.next()).await.unwrap().unwrap();
    assert!(matches!(opening, WatchEvent::Snapshot(_)), "{opening:?}");
    watch
}

/// The next changes, as "n1 alive".
async fn changes(watch: &mut Watch, count: usize) -> Vec<String> {
    within(async {
        let mut seen = Vec::new();
        while seen.len() < count {
            match watch.next().await.expect("a watch goes on").unwrap() {
                WatchEvent::Change { node, .. } => {
                    seen.push(format!("{} {:?}", node.id, node.state).to_lowercase());
                }
                WatchEvent::Snapshot(_) | WatchEvent::Heartbeat { .. } => {}
            }
        }
        seen
    })
    .await
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    let error = result.unwrap_err();
    error
        .code()
        .unwrap_or_else(|| panic!("not refused by control: {error}"))
        .to_owned()
}

// ------------------------------------------------------------------------------------- joining

#[tokio::test]
async fn a_node_joins_and_can_prove_who_it_is() {
    let bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    assert_eq!(joined.node, NodeId(1));
    assert_eq!(joined.identity.name().uri(), "tidelock://sea/node/web-0");
    assert_eq!(joined.lease, bench.config.lease);
    assert_eq!(joined.members.nodes.len(), 1);
    assert_eq!(joined.members.nodes[0].state, NodeState::Alive);

    let ticket = Ticket::verify(
        joined.identity.ticket().unwrap(),
        load_operator(bench.control.as_ref().unwrap()).authority(),
        joined.identity.certificate(),
        UnixTime::now(),
    );
    assert_eq!(ticket.unwrap().node, NodeId(1));
    // Its certificate works: it may look, and renew its lease.
    assert_eq!(
        joined.client.nodes().await.unwrap(),
        bench.operator.nodes().await.unwrap()
    );
    joined.client.lease(joined.node, false).await.unwrap();
}

#[tokio::test]
async fn a_token_lets_in_as_many_as_it_says() {
    let bench = Bench::new().await;
    let token = bench.token(3).await;
    // Ten at once, whatever order they come in.
    let address = bench.address();
    let tries = (0..10).map(|number| {
        let (token, address) = (token.clone(), address.clone());
        tokio::spawn(async move {
            let node = described(&format!("node-{number}"));
            Client::join(&address, &token, &node)
                .await
                .map(|joined| joined.node)
        })
    });
    let mut ids = Vec::new();
    for attempt in tries.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(id) => ids.push(id),
            Err(error) => assert_eq!(error.code(), Some(codes::TOKEN_REFUSED)),
        }
    }
    ids.sort();
    assert_eq!(ids, [NodeId(1), NodeId(2), NodeId(3)]);
    assert_eq!(bench.operator.nodes().await.unwrap().nodes.len(), 3);
}

#[tokio::test]
async fn all_tokens_that_do_not_work_get_the_same_answer() {
    let bench = Bench::new().await;
    let good = bench.token(1).await;
    Client::join(&bench.address(), &good, &described("first"))
        .await
        .unwrap();
    let expired = bench
        .operator
        .create_token(Duration::from_secs(1), 1)
        .await
        .unwrap();
    let expired: JoinToken = expired.token.parse().unwrap();
    // The store counts whole seconds: wait for the clock, not for luck.
    let made = jiff::Timestamp::now().as_second();
    while jiff::Timestamp::now().as_second() < made + 2 {
        tokio::task::yield_now().await;
    }

    let http = bench.raw(None);
    let mut answers = Vec::new();
    let secrets = [good.secret(), expired.secret(), "0000", "", &"f".repeat(32)];
    for secret in secrets {
        // A bad name and a bad request must not show that a token was looked at.
        for body in [join_body(secret, "second"), join_body(secret, "../")] {
            let answer = http
                .post(bench.url("/v1/join"))
                .json(&body)
                .send()
                .await
                .unwrap();
            answers.push((answer.status(), answer.text().await.unwrap()));
        }
    }
    assert_eq!(answers[0].0, 403);
    assert!(
        answers[0].1.contains(codes::TOKEN_REFUSED),
        "{}",
        answers[0].1
    );
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:#?}"
    );
}

#[tokio::test]
async fn a_bad_request_does_not_use_up_the_token() {
    let bench = Bench::new().await;
    let token = bench.token(1).await;
    let http = bench.raw(None);
    let send = async |body: &serde_json::Value| {
        let answer = http
            .post(bench.url("/v1/join"))
            .json(body)
            .send()
            .await
            .unwrap();
        let body: crate::api::ErrorBody = answer.json().await.unwrap();
        body.code
    };
    let good = join_body(token.secret(), "web-0");
    let with = |key: &str, value: &str| {
        let mut body = good.clone();
        body[key] = value.into();
        body
    };
    assert_eq!(
        send(&with("csr_pem", "nonsense")).await,
        codes::BAD_SIGNING_REQUEST
    );
    assert_eq!(
        send(&with("csr_pem", &"x".repeat(20_000))).await,
        codes::BAD_SIGNING_REQUEST
    );
    for name in ["", "UPPER", "a/b", "..", "a b", "%2e%2e"] {
        assert_eq!(
            send(&with("name", name)).await,
            codes::BAD_REQUEST,
            "{name}"
        );
    }
    for addr in [
        "0.0.0.0:1",
        "127.0.0.1:0",
        "224.0.0.1:5",
        "example.com:80",
        "file:///x",
    ] {
        assert_eq!(
            send(&with("addr", addr)).await,
            codes::BAD_REQUEST,
            "{addr}"
        );
        assert_eq!(
            send(&with("admin_addr", addr)).await,
            codes::BAD_REQUEST,
            "{addr}"
        );
    }
    assert_eq!(
        send(&with("version", &"9".repeat(65))).await,
        codes::BAD_REQUEST
    );
    assert_eq!(send(&with("version", "a\nb")).await, codes::BAD_REQUEST);
    Client::join(&bench.address(), &token, &described("web-0"))
        .await
        .unwrap();
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let limits = JoinLimits {
        source_attempts_max: 12,
        source_refill: Duration::from_secs(3600),
        ..JoinLimits::default()
    };
    let bench = Bench::with(|config| config.join_limits = limits).await;
    let guess = JoinToken::generate(load_operator(bench.control.as_ref().unwrap()).authority());
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(code(
            Client::join(&bench.address(), &guess, &described("eve")).await,
        ));
    }
    // A failure counts as five attempts: 12 are used up by the third.
    let refused = codes::TOKEN_REFUSED;
    assert_eq!(answers, [refused, refused, refused, codes::TOO_MANY]);
    // Members are not strangers.
    bench.operator.nodes().await.unwrap();
}

#[tokio::test]
async fn a_join_trusts_only_the_tokens_authority() {
    let bench = Bench::new().await;
    let other = testing::authority("sea", UnixTime::now());
    let token = JoinToken::generate(other.certificate());
    let error = Client::join(&bench.address(), &token, &described("web-0"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotTrusted { .. }), "{error}");
    assert!(
        error.to_string().contains("the join token names"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 5);
}

// ------------------------------------------------------------------------- names, ids, restarts

#[tokio::test]
async fn a_token_does_not_let_anybody_be_somebody_else() {
    let bench = Bench::new().await;
    let first = bench.join("web-0").await;
    let token = bench.token(1).await;
    let body = join_body(token.secret(), "web-0");
    let send = async || {
        let sent = bench
            .raw(None)
            .post(bench.url("/v1/join"))
            .json(&body)
            .send();
        sent.await.unwrap()
    };
    let answer = send().await;
    assert_eq!(answer.status(), 409);
    assert!(answer.text().await.unwrap().contains("n1 is called"));
    assert_eq!(bench.state(first.node).await, NodeState::Alive);
    // Once the name is free, the same token works.
    first.client.leave(first.node).await.unwrap();
    assert_eq!(send().await.status(), 200);
}

#[tokio::test]
async fn a_restarted_node_is_a_new_node() {
    let bench = Bench::new().await;
    let first = bench.join("web-0").await;
    let mut watch = watching(&bench.operator).await;

    let second = bench.rejoin(&first).await.unwrap();
    assert_eq!(second.node, NodeId(2));
    assert_eq!(second.identity.tls_key(), first.identity.tls_key());
    assert_eq!(changes(&mut watch, 2).await, ["n1 left", "n2 alive"]);
    // The first start cannot come back.
    let error = first.client.lease(first.node, false).await.unwrap_err();
    assert!(error.is_node_gone(), "{error}");
    assert_eq!(bench.state(NodeId(1)).await, NodeState::Left);
}

#[tokio::test]
async fn ids_are_limited_per_name() {
    let limits = JoinLimits {
        ids_per_name_hour_max: 3,
        ..JoinLimits::default()
    };
    let bench = Bench::with(|config| config.join_limits = limits).await;
    let mut joined = bench.join("crasher").await;
    for _ in 0..2 {
        joined = bench.rejoin(&joined).await.unwrap();
    }
    assert_eq!(code(bench.rejoin(&joined).await), codes::TOO_MANY);
    assert_eq!(bench.join("other").await.node, NodeId(4));
}

#[tokio::test]
async fn a_restarted_control_plane_remembers_everything() {
    let mut bench = Bench::new().await;
    let used = bench.token(1).await;
    Client::join(&bench.address(), &used, &described("one"))
        .await
        .unwrap();
    let two = bench.join("two").await;
    two.client.leave(two.node).await.unwrap();
    let unused = bench.token(1).await;
    let module = bench
        .operator
        .put_module(Some("hello.wasm"), WASM)
        .await
        .unwrap();
    let before = bench.operator.nodes().await.unwrap();

    bench.restart().await;

    assert_eq!(bench.operator.nodes().await.unwrap(), before);
    assert_eq!(bench.operator.modules().await.unwrap(), [module]);
    let again = Client::join(&bench.address(), &used, &described("three")).await;
    assert_eq!(code(again), codes::TOKEN_REFUSED);
    let next = Client::join(&bench.address(), &unused, &described("three"))
        .await
        .unwrap();
    assert_eq!(next.node, NodeId(3));
    assert_eq!(next.members.revision, before.revision + 1);
    // Certificates made before are still good.
    bench.rejoin(&two).await.unwrap();
}

#[tokio::test]
async fn two_control_planes_cannot_share_a_store() {
    let bench = Bench::new().await;
    let config = ControlConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        ..bench.config.clone()
    };
    let error = serve(config.clone()).await.unwrap_err();
    assert!(
        matches!(error, ServeError::Store(StoreError::InUse(_))),
        "{error}"
    );
    assert!(
        error.to_string().contains("another control plane is using"),
        "{error}"
    );

    let mut bench = bench;
    bench.control.take().unwrap().shutdown().await;
    let other = ControlConfig {
        cluster: "lake".to_owned(),
        ..config.clone()
    };
    let error = serve(other).await.unwrap_err().to_string();
    assert!(
        error.contains("belongs to cluster \"sea\", not to \"lake\""),
        "{error}"
    );
    serve(config).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_torn_store_is_refused_and_left_alone() {
    let mut bench = Bench::new().await;
    bench.control.take().unwrap().shutdown().await;
    let path = bench.dir.path().join("state/store.redb");
    std::fs::write(&path, b"torn").unwrap();
    let error = serve(bench.config.clone()).await.unwrap_err();
    assert!(
        matches!(error, ServeError::Store(StoreError::Database(_))),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"torn");
}

// ------------------------------------------------------------------------------ leases and watch

#[tokio::test]
async fn a_silent_node_is_lost_and_stays_lost() {
    let lease = Duration::from_millis(400);
    let bench = Bench::with(|config| config.lease = lease).await;
    let mut watch = watching(&bench.operator).await;
    let silent = bench.join("silent").await;
    let chatty = bench.join("chatty").await;
    let keeping = tokio::spawn({
        let (client, node) = (chatty.client.clone(), chatty.node);
        async move {
            loop {
                client.lease(node, false).await.unwrap();
                tokio::time::sleep(lease / 10).await;
            }
        }
    });
    let seen = changes(&mut watch, 3).await;
    assert_eq!(seen, ["n1 alive", "n2 alive", "n1 lost"]);
    let error = silent.client.lease(silent.node, false).await.unwrap_err();
    assert!(error.is_node_gone() && error.exit_code() == 5, "{error}");
    assert!(
        silent
            .client
            .renew(&silent.identity)
            .await
            .unwrap_err()
            .is_node_gone()
    );
    assert_eq!(bench.rejoin(&silent).await.unwrap().node, NodeId(3));
    keeping.abort();
}

#[tokio::test]
async fn draining_and_leaving_are_seen() {
    let bench = Bench::new().await;
    let mut watch = watching(&bench.operator).await;
    let joined = bench.join("web-0").await;
    joined.client.lease(joined.node, true).await.unwrap();
    // It cannot be taken back.
    joined.client.lease(joined.node, false).await.unwrap();
    joined.client.leave(joined.node).await.unwrap();
    joined.client.leave(joined.node).await.unwrap();
    let seen = changes(&mut watch, 3).await;
    assert_eq!(seen, ["n1 alive", "n1 draining", "n1 left"]);
    assert_eq!(
        bench.operator.nodes().await.unwrap().revision,
        3,
        "the second goodbye counted"
    );
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_control() {
    let mut bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    let mut watch = watching(&bench.operator).await;

    bench.restart().await;
    joined.client.leave(joined.node).await.unwrap();

    let mut interrupted = false;
    let state = within(async {
        loop {
            match watch.next().await.expect("a watch goes on") {
                Ok(WatchEvent::Snapshot(members)) => match members.nodes[0].state {
                    NodeState::Alive => {}
                    state => break state,
                },
                Ok(WatchEvent::Change { node, .. }) => break node.state,
                Ok(WatchEvent::Heartbeat { .. }) => {}
                Err(error) => {
                    assert!(error.is_temporary(), "{error}");
                    interrupted = true;
                }
            }
        }
    });
    assert_eq!(state.await, NodeState::Left);
    assert!(interrupted, "the watch did not notice the restart");
}

#[tokio::test]
async fn a_slow_watcher_gets_a_snapshot_instead_of_a_gap() {
    let limits = JoinLimits {
        ids_per_name_hour_max: 10_000,
        ..JoinLimits::default()
    };
    let bench = Bench::with(|config| config.join_limits = limits).await;
    let mut joined = bench.join("web-0").await;
    let mut watch = watching(&bench.operator).await;
    for _ in 0..200 {
        joined = bench.rejoin(&joined).await.unwrap();
    }
    let last = bench.operator.nodes().await.unwrap().revision;
    let mut at = 1;
    within(async {
        while at < last {
            match watch.next().await.unwrap().unwrap() {
                WatchEvent::Snapshot(members) => at = members.revision,
                WatchEvent::Change { revision, .. } => {
                    assert_eq!(revision, at + 1, "a change was skipped");
                    at = revision;
                }
                WatchEvent::Heartbeat { revision } => assert_eq!(revision, at),
            }
        }
    })
    .await;
}

// ------------------------------------------------------------------------------- who may do what

#[tokio::test]
async fn roles_are_kept_apart() {
    let bench = Bench::new().await;
    let one = bench.join("one").await;
    let two = bench.join("two").await;

    // A node is not an operator, and not another node.
    assert_eq!(
        code(one.client.create_token(LIMIT, 1).await),
        codes::NOT_PERMITTED
    );
    assert_eq!(
        code(one.client.put_module(None, WASM).await),
        codes::NOT_PERMITTED
    );
    assert_eq!(
        code(one.client.remove(two.node).await),
        codes::NOT_PERMITTED
    );
    assert_eq!(code(one.client.leave(two.node).await), codes::NOT_PERMITTED);
    assert_eq!(
        code(one.client.lease(two.node, true).await),
        codes::NOT_PERMITTED
    );
    // An operator is not a node.
    assert_eq!(
        code(bench.operator.lease(one.node, false).await),
        codes::NOT_PERMITTED
    );
    let operator = load_operator(bench.control.as_ref().unwrap());
    assert_eq!(
        code(bench.operator.renew(&operator).await),
        codes::NOT_PERMITTED
    );
    let as_operator = Client::rejoin(&bench.address(), &operator, &described("one")).await;
    assert_eq!(code(as_operator), codes::NOT_PERMITTED);
    assert_eq!(bench.state(two.node).await, NodeState::Alive);

    // A stranger may join and nothing else.
    let http = bench.raw(None);
    for (method, path) in [
        ("GET", "/v1/nodes"),
        ("GET", "/v1/watch"),
        ("GET", "/v1/cluster"),
        ("GET", "/v1/modules"),
        ("GET", "/v1/modules/x"),
        ("PUT", "/v1/modules"),
        ("DELETE", "/v1/nodes/n1"),
        ("DELETE", "/v1/nodes/n1?remove=true"),
    ] {
        let method = method.parse::<reqwest::Method>().unwrap();
        let answer = http
            .request(method.clone(), bench.url(path))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 403, "{method} {path}");
    }
    for path in ["/v1/tokens", "/v1/rejoin", "/v1/renew"] {
        let body = serde_json::json!({
            "ttl_s": 1, "csr_pem": "", "addr": "1.2.3.4:5", "admin_addr": "1.2.3.4:5", "version": "",
        });
        let answer = http.post(bench.url(path)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{path}");
    }

    // Somebody with a certificate of another authority does not even get a connection.
    let other = testing::authority("sea", UnixTime::now());
    let eve = other
        .issue_identity(Role::Operator, "admin", &[], LIMIT, UnixTime::now())
        .map(|eve| testing::trusting(&eve, operator.authority()))
        .unwrap();
    let eve = Client::with_identity(&bench.address(), &eve).unwrap();
    let error = eve.nodes().await.unwrap_err();
    assert!(error.code().is_none(), "it was answered: {error}");
}

#[tokio::test]
async fn a_removed_node_cannot_come_back() {
    let bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    let removed = bench.operator.remove(joined.node).await.unwrap();
    assert_eq!(removed.state, NodeState::Left);
    assert!(
        joined
            .client
            .lease(joined.node, false)
            .await
            .unwrap_err()
            .is_node_gone()
    );
    assert!(
        joined
            .client
            .renew(&joined.identity)
            .await
            .unwrap_err()
            .is_node_gone()
    );
    assert_eq!(code(bench.rejoin(&joined).await), codes::NOT_PERMITTED);
    // Its name is free for whoever holds a token.
    bench.join("web-0").await;
}

#[tokio::test]
async fn a_renewal_keeps_key_and_id() {
    let bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    let renewed = joined.client.renew(&joined.identity).await.unwrap();
    assert_ne!(renewed.certificate(), joined.identity.certificate());
    assert_eq!(renewed.tls_key(), joined.identity.tls_key());
    let authority = joined.identity.authority();
    let verify = |identity: &Identity| {
        let ticket = identity.ticket().unwrap();
        Ticket::verify(ticket, authority, identity.certificate(), UnixTime::now()).unwrap()
    };
    assert_eq!(verify(&renewed).node, joined.node);
    assert_eq!(verify(&renewed).environments, Environments::Any);
    let client = Client::with_identity(&bench.address(), &renewed).unwrap();
    client.lease(joined.node, false).await.unwrap();

    // Not for another key.
    let body = serde_json::json!({ "csr_pem": Key::generate().signing_request() });
    let http = bench.raw(Some(&joined.identity));
    let answer = http
        .post(bench.url("/v1/renew"))
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
    assert!(
        answer
            .text()
            .await
            .unwrap()
            .contains(codes::BAD_SIGNING_REQUEST)
    );
}

// --------------------------------------------------------------------------------------- modules

#[tokio::test]
async fn modules_are_known_by_their_content() {
    let bench = Bench::new().await;
    let node = bench.join("web-0").await;
    let bytes = [WASM, &[0, 2, 1, b'x']].concat();
    let info = bench
        .operator
        .put_module(Some("hello.wasm"), bytes.clone())
        .await
        .unwrap();
    let hash = crate::modules::hash_of(&bytes);
    assert_eq!(
        (info.hash.as_str(), info.size_bytes),
        (hash.to_string().as_str(), 12)
    );

    assert_eq!(node.client.module(hash).await.unwrap(), bytes);
    assert_eq!(
        node.client.module_named("hello.wasm").await.unwrap(),
        (hash, bytes.clone().into())
    );
    // Again, without a name: nothing is lost. Another content: the name moves on.
    assert_eq!(
        bench
            .operator
            .put_module(None, bytes.clone())
            .await
            .unwrap(),
        info
    );
    let other = bench
        .operator
        .put_module(Some("hello.wasm"), WASM)
        .await
        .unwrap();
    assert_eq!(
        node.client.module_named("hello.wasm").await.unwrap().1,
        WASM
    );
    assert_eq!(node.client.module(hash).await.unwrap(), bytes);
    assert_eq!(bench.operator.modules().await.unwrap().len(), 2);
    assert_ne!(other.hash, info.hash);

    let unknown = crate::modules::hash_of(b"?");
    assert_eq!(
        node.client.module(unknown).await.unwrap_err().exit_code(),
        4
    );
    assert_eq!(
        code(node.client.module_named("nobody").await),
        codes::NOT_FOUND
    );
}

#[tokio::test]
async fn bad_modules_are_refused() {
    let bench = Bench::new().await;
    let operator = load_operator(bench.control.as_ref().unwrap());
    let http = bench.raw(Some(&operator));
    let put = async |query: &str, bytes: &[u8]| {
        let url = bench.url(&format!("/v1/modules?{query}"));
        http.put(url)
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(put("", b"").await, 422);
    assert_eq!(put("", b"\0asm\x0d\0\x01\0").await, 422, "a component");
    let lie = crate::modules::hash_of(b"something else");
    assert_eq!(put(&format!("hash={lie}"), WASM).await, 422);
    assert_eq!(put("hash=b3:12", WASM).await, 400);
    for name in [
        "..",
        "%2e%2e%2fx",
        "a%00b",
        "%2Fetc%2Fpasswd",
        "a%5cb",
        ".x",
        "",
        "b3%3Aff",
    ] {
        assert_eq!(put(&format!("name={name}"), WASM).await, 400, "{name}");
    }
    assert_eq!(put(&format!("name={}", "x".repeat(129)), WASM).await, 400);
    assert!(bench.operator.modules().await.unwrap().is_empty());

    let get = async |path: &str| {
        http.get(bench.url(&format!("/v1/modules/{path}")))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    for path in [
        "%2e%2e",
        "%2e%2e%2fstore.redb",
        "..%2f..%2fauthority%2fauthority.pem",
        "%00",
    ] {
        assert!(matches!(get(path).await, 400 | 404), "{path}");
    }
    assert_eq!(put("name=ok", WASM).await, 200);
}

#[tokio::test]
async fn a_damaged_module_is_not_given_out() {
    let bench = Bench::new().await;
    bench.operator.put_module(Some("m"), WASM).await.unwrap();
    let dir = bench.dir.path().join("state/modules");
    let file = std::fs::read_dir(&dir)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&file, b"\0asm\x01\0\0\x01").unwrap();
    let hash = crate::modules::hash_of(WASM);
    let error = bench.operator.module(hash).await.unwrap_err();
    assert_eq!(error.code(), Some(codes::STORE));
    // Deploying it again repairs it.
    bench.operator.put_module(None, WASM).await.unwrap();
    assert_eq!(bench.operator.module(hash).await.unwrap(), WASM);
}

// ------------------------------------------------------------------------------- hostile clients

#[tokio::test]
async fn oversized_and_nested_bodies_are_refused() {
    let bench = Bench::new().await;
    let operator = load_operator(bench.control.as_ref().unwrap());
    let http = bench.raw(Some(&operator));
    let post = async |body: String| {
        let answer = http
            .post(bench.url("/v1/tokens"))
            .body(body)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (
            status,
            answer.json::<crate::api::ErrorBody>().await.unwrap().code,
        )
    };
    let too_large = (413, codes::TOO_LARGE.to_owned());
    let bad = (400, codes::BAD_REQUEST.to_owned());
    assert_eq!(
        post(format!("{{\"ttl_s\": {}1}}", " ".repeat(65_536))).await,
        too_large
    );
    assert_eq!(post("[".repeat(60_000)).await, bad);
    assert_eq!(
        post(format!("{{\"x\": {}", "{\"x\":".repeat(10_000))).await,
        bad
    );
    for body in [
        "",
        "null",
        "{",
        "{\"ttl_s\": -1}",
        "{\"ttl_s\": 1e99}",
        "{\"ttl_s\": 0}",
        "\u{0}",
    ] {
        assert_eq!(post(body.to_owned()).await, bad, "{body:?}");
    }
    let module = vec![0; crate::modules::MODULE_BYTES_MAX + 1];
    let answer = http.put(bench.url("/v1/modules")).body(module).send().await;
    // The server may hang up before all of it is sent.
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 413));
    // Nothing of this has done harm.
    bench.operator.nodes().await.unwrap();
}

#[tokio::test]
async fn unknown_paths_and_methods_are_explained() {
    let bench = Bench::new().await;
    let http = bench.raw(None);
    for (method, path, status, code) in [
        ("GET", "/", 404, codes::NOT_FOUND),
        ("GET", "/v1/../v1/nodez", 404, codes::NOT_FOUND),
        ("DELETE", "/v1/join", 405, codes::BAD_REQUEST),
    ] {
        let method = method.parse().unwrap();
        let answer = http.request(method, bench.url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(
            answer.json::<crate::api::ErrorBody>().await.unwrap().code,
            code
        );
    }
    let operator = load_operator(bench.control.as_ref().unwrap());
    let http = bench.raw(Some(&operator));
    for id in ["n0", "n99", "-1", "n8388608", "x", "%2e%2e"] {
        let answer = http
            .delete(bench.url(&format!("/v1/nodes/{id}")))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 404, "{id}");
    }
}

#[tokio::test]
async fn endless_heads_are_cut_off() {
    let bench = Bench::new().await;
    let address: SocketAddr = bench.control.as_ref().unwrap().addr();
    // Plain bytes instead of TLS, and a great many of them.
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = plain.write_all(&[b'a'; 100_000]).await;
    let mut end = Vec::new();
    let _ = within(plain.read_to_end(&mut end)).await;
    // 10 000 headers.
    let operator = load_operator(bench.control.as_ref().unwrap());
    let mut headers = reqwest::header::HeaderMap::new();
    for number in 0..10_000u32 {
        let name = format!("x-{number}")
            .parse::<reqwest::header::HeaderName>()
            .unwrap();
        headers.insert(name, number.into());
    }
    let http = bench.raw(Some(&operator));
    let answer = http
        .get(bench.url("/v1/nodes"))
        .headers(headers)
        .send()
        .await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    bench.operator.nodes().await.unwrap();
}

// ------------------------------------------------------------------------------------ the client

#[tokio::test]
async fn an_unreachable_control_plane_is_named() {
    // A port that was ours a moment ago: nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let authority = testing::authority("sea", UnixTime::now());
    let identity = authority
        .issue_identity(Role::Operator, "ann", &[], LIMIT, UnixTime::now())
        .unwrap();
    let client = Client::with_identity(&address, &identity).unwrap();
    let error = client.create_token(LIMIT, 1).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("control unreachable at {address}: ")),
        "{text}"
    );
    assert_eq!(error.exit_code(), 3);

    for bad in ["", "a b", "host:99999", "user@host:1", "host:1/path"] {
        let error = Client::with_identity(bad, &identity).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{bad}: {error}");
    }
}

#[tokio::test]
async fn a_call_waits_for_a_control_plane_that_is_restarting() {
    let mut bench = Bench::new().await;
    let control = bench.control.take().unwrap();
    bench.config.listen = control.addr();
    control.shutdown().await;
    let call = tokio::spawn({
        let operator = bench.operator.clone();
        async move { operator.nodes().await }
    });
    let control = serve(bench.config.clone()).await.unwrap();
    within(call).await.unwrap().unwrap();
    control.shutdown().await;
}

#[tokio::test]
async fn shutdown_ends_watches_and_frees_the_directory() {
    let mut bench = Bench::new().await;
    let mut watch = watching(&bench.operator).await;
    within(bench.control.take().unwrap().shutdown()).await;
    assert!(matches!(
        within(watch.next()).await,
        Some(Err(ClientError::Unreachable { .. }))
    ));
    serve(bench.config.clone()).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn secrets_are_not_kept_in_the_clear() {
    let bench = Bench::new().await;
    let token = bench.token(1).await;
    let state = bench.dir.path().join("state");
    let needle = token.secret().as_bytes();
    let hex = from_hex(token.secret()).unwrap();
    visit(&state, &mut |path, bytes| {
        let found = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(
            !found(needle) && !found(&hex),
            "{} holds the secret",
            path.display()
        );
    });
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        for secret in ["authority/authority.pem", "operator/key.pem"] {
            let mode = std::fs::metadata(state.join(secret))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
        assert_eq!(
            std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
    let operator = load_operator(bench.control.as_ref().unwrap());
    assert_eq!(
        peer_name(operator.certificate()).unwrap().role,
        Role::Operator
    );
}

fn visit(dir: &Path, f: &mut impl FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, f);
        } else {
            f(&path, &std::fs::read(&path).unwrap());
        }
    }
}
