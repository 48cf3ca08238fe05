//! The control plane as its clients see it: real HTTPS on the loopback interface, real files.
//!
//! Method: a [`Bench`] holds a control plane in a temporary directory, can restart it, and speaks to
//! it as an operator, as nodes, and as strangers. Nothing sleeps to wait for something: what takes
//! time is awaited on the watch, with a limit that only a failure reaches.

mod hostile;
mod joining;
mod membership;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tidelock_certs::tls::{https_client_config, pinned_client_config};
use tidelock_certs::{
    Authority, Environments, Identity, JoinToken, Key, Role, Ticket, UnixTime, from_hex, peer_name,
    testing,
};
use tidelock_proto::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use crate::api::{NodeState, OperatorContext, WatchEvent, codes};
use crate::client::{Client, ClientError, Joined, NodeDescription};
use crate::limit::JoinLimits;
use crate::tags::Tags;
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

/// An operator's client of a server that answers as a test has it.
fn in_place_of_control(router: axum::Router) -> (Client, JoinHandle<std::io::Result<()>>) {
    let now = UnixTime::now();
    let authority = testing::authority("sea", now);
    let (address, serving) = control_of(&authority, router);
    let ann = authority.issue_identity(Role::Operator, "ann", &[], LIMIT, now);
    let client = Client::with_identity(&address, &ann.unwrap()).unwrap();
    (client, serving)
}

/// A server that answers as a test has it, by a certificate of `authority`, and where it does.
fn control_of(
    authority: &Authority,
    router: axum::Router,
) -> (String, JoinHandle<std::io::Result<()>>) {
    let hosts = ["localhost".to_owned()];
    let control = authority.issue_identity(Role::Control, "", &hosts, LIMIT, UnixTime::now());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = tidelock_certs::tls::https_server_config(&control.unwrap()).unwrap();
    let serving = tokio::spawn(crate::http::Server::new(listener, config).serve(router));
    (address, serving)
}

fn described(name: &str) -> NodeDescription {
    NodeDescription {
        name: name.to_owned(),
        addr: ([127, 0, 0, 1], 7717).into(),
        admin_addr: ([127, 0, 0, 1], 7718).into(),
        version: "0.1.0".to_owned(),
        tags: Tags::default(),
    }
}

fn join_body(secret: &str, name: &str) -> serde_json::Value {
    serde_json::json!({
        "secret": secret, "name": name, "csr_pem": Key::generate().signing_request(),
        "addr": "127.0.0.1:1", "admin_addr": "127.0.0.1:2", "version": "1",
    })
}

/// Waits for the wall clock: what expires does so by that.
async fn until(second: i64) {
    while jiff::Timestamp::now().as_second() < second {
        tokio::time::sleep(Duration::from_millis(50)).await; // between two looks
    }
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

#[test]
fn the_operators_certificate_is_renewed_in_time_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("operator");
    let began = UnixTime::now();
    let authority = Authority::open(&folder.path().join("authority"), "test", began).unwrap();
    let context = OperatorContext {
        cluster: "test".to_owned(),
        control: "127.0.0.1:1".to_owned(),
    };
    let kept_at = |now: UnixTime| {
        let kept = crate::keep_operator(&authority, &dir, &context, now).unwrap();
        let saved = Identity::load(&dir).unwrap().certificate().clone();
        assert_eq!(*kept.certificate(), saved);
        (kept.renew_at(), saved)
    };
    let (due, first) = kept_at(began);
    assert!(due > began);
    let second_before = UnixTime::since_unix_epoch(Duration::from_secs(due.as_secs() - 1));
    assert_eq!(kept_at(second_before), (due, first.clone()));
    let (later, second) = kept_at(due);
    assert!(later > due);
    assert_ne!(first, second);
    // The clock was ahead then: that certificate is good for nobody yet.
    let (right, third) = kept_at(began);
    assert!(right < later);
    assert_ne!(second, third);
}
