//! A cluster of real daemons to play with: start, hurt, listen.
//!
//! # Guarantees
//!
//! * One cluster at a time on this machine, whichever runner starts the tests: a locked file.
//! * Nothing outlives a [`Cluster`], also when the test panics or is killed: its drop ends every
//!   daemon, and each daemon ends with the pipe that this process holds open for it.
//! * A fault is only reported as done once the kernel says so (exit status, `/proc`).
//! * Waiting is for lines, events or answers, up to [`PATIENCE`]; nothing sleeps.
//!
//! What guests print and daemons log is kept with its time of arrival, and shown when a test fails.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidelock_certs::tls::https_client_config;
use tidelock_certs::{Identity, Role};
use tidelock_control::api::{Ended, SessionInfo, SpawnProcess, Spawned};
use tidelock_control::client::{Client, Joined, NodeDescription};
use tidelock_control::tags::Tags;
use tokio::runtime::Runtime;

use crate::feed::{Feed, Seen};

/// Longer than anything here takes on a busy machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the daemons allow themselves on top of the lease to notice a dead peer (P6).
pub(crate) const NOTICE_MAX: Duration = Duration::from_millis(300);

/// What a cluster should look like.
pub(crate) struct Shape {
    /// The stable names of its nodes.
    pub(crate) names: &'static [&'static str],
    /// How long a silent peer is believed to be alive.
    pub(crate) lease: Duration,
    /// Settings of the nodes, as environment variables; `{name}` is the name of each.
    pub(crate) settings: &'static [(&'static str, &'static str)],
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            names: &["a", "b"],
            lease: Duration::from_secs(3),
            settings: &[],
        }
    }
}

/// Where a daemon runs and listens, if not simply on the loopback interface.
#[derive(Clone)]
pub(crate) struct Place {
    /// What starts it, with its own command as arguments; nothing, if that is not needed.
    pub(crate) starter: Vec<String>,
    /// For other nodes; of control, for everybody.
    pub(crate) listen: IpAddr,
    /// For operators.
    pub(crate) admin: IpAddr,
    /// What control lists instead of both.
    pub(crate) advertise: Option<IpAddr>,
}

impl Default for Place {
    fn default() -> Self {
        Place {
            starter: Vec::new(),
            listen: Ipv4Addr::LOCALHOST.into(),
            admin: Ipv4Addr::LOCALHOST.into(),
            advertise: None,
        }
    }
}

/// The places of daemons, by name; control's name is `control`.
pub(crate) type Places = BTreeMap<&'static str, Place>;

/// A control plane and nodes, each a process of its own, with the scenarios deployed.
pub(crate) struct Cluster {
    runtime: Runtime,
    http: reqwest::Client,
    /// For what only an operator may ask of control.
    pub(crate) operator: Client,
    /// The control plane.
    pub(crate) control: Daemon,
    nodes: BTreeMap<&'static str, Daemon>,
    module: String,
    shape: Shape,
    places: Places,
    dir: tempfile::TempDir,
    _turn: File,
}

impl Cluster {
    /// Two nodes, `a` and `b`, with a lease of three seconds.
    pub(crate) fn pair() -> Self {
        Self::start(Shape::default())
    }

    /// Starts everything and returns once all nodes know each other.
    pub(crate) fn start(shape: Shape) -> Self {
        Self::start_in(shape, Places::new(), |_, _| {})
    }

    /// As [`Cluster::start`], each daemon in its place. `ready` is called for each node that is ready, with
    /// the address that control lists, before they are expected to know each other.
    pub(crate) fn start_in(
        shape: Shape,
        places: Places,
        mut ready: impl FnMut(&'static str, SocketAddr),
    ) -> Self {
        let turn = turn();
        let guest = guest("scenarios");
        let dir = tempfile::Builder::new()
            .prefix("tidelock-cluster-")
            .tempdir()
            .expect("a folder for the cluster's state");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for talking to the daemons");

        let place = places.get("control").cloned().unwrap_or_default();
        let mut command = daemon("control", &place.starter);
        command
            .args(["--listen", &SocketAddr::new(place.listen, 0).to_string()])
            .args(["--cluster", "test"])
            .arg("--state-dir")
            .arg(dir.path().join("control"));
        let control = Daemon::spawn("control", command).ready();
        let identity = Identity::load(&control.operator()).expect("an operator's identity");
        let tls = https_client_config(&identity, Role::Node, None).expect("TLS for an operator");
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .build()
            .expect("an HTTP client");
        let operator =
            Client::with_identity(&control.addr().to_string(), &identity).expect("a client");
        let bytes = fs::read(&guest).expect("the guest can be read");
        let module = runtime
            .block_on(operator.put_module(Some("scenarios"), bytes))
            .expect("control takes the guest");

        let mut cluster = Cluster {
            runtime,
            http,
            operator,
            control,
            nodes: BTreeMap::new(),
            module: module.hash,
            shape,
            places,
            dir,
            _turn: turn,
        };
        let names = cluster.shape.names;
        let starting: Vec<_> = names
            .iter()
            .map(|name| (*name, Daemon::spawn(name, cluster.node_command(name, true))))
            .collect();
        for (name, daemon) in starting {
            let daemon = daemon.ready();
            ready(name, daemon.addr());
            cluster.add(name, daemon);
        }
        cluster.meet();
        // The module is compiled and kept everywhere before anything is measured or hurt.
        for name in names {
            cluster.spawn(name, &["hold"]).one("holding");
        }
        cluster
    }

    fn node_command(&self, name: &str, joins: bool) -> Command {
        let place = self.places.get(name).cloned().unwrap_or_default();
        let mut command = daemon("node", &place.starter);
        if let Some(address) = place.advertise {
            command.args(["--advertise", &address.to_string()]);
        }
        command
            .args(["--listen", &SocketAddr::new(place.listen, 0).to_string()])
            .args(["--admin", &SocketAddr::new(place.admin, 0).to_string()])
            .arg("--guest-output")
            .args(["--name", name, "--join", &self.control.addr().to_string()])
            .args(["--lease-ms", &self.shape.lease.as_millis().to_string()])
            .arg("--state-dir")
            .arg(self.state(name))
            .envs(
                self.shape
                    .settings
                    .iter()
                    .map(|(key, value)| (key, value.replace("{name}", name))),
            );
        if joins {
            let token = self.block_on(self.operator.create_token(PATIENCE, 1));
            command.env("TIDELOCK_TOKEN", token.expect("a token").token);
        }
        command
    }

    fn add(&mut self, name: &'static str, daemon: Daemon) {
        let request = self
            .http
            .get(format!("https://{}/v1/events?follow=true", daemon.admin()));
        let events = daemon.events.clone();
        self.runtime.spawn(async move {
            if let Ok(response) = request.send().await {
                let mut body = response.bytes_stream();
                let mut rest = Vec::new();
                while let Some(Ok(part)) = body.next().await {
                    rest.extend_from_slice(&part);
                    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        events.push(String::from_utf8_lossy(&rest[..end]).into_owned());
                        rest.drain(..=end);
                    }
                }
            }
            events.close();
        });
        self.nodes.insert(name, daemon);
    }

    /// Waits until each node has a session with each other one.
    pub(crate) fn meet(&self) {
        let others = self.nodes.len() - 1;
        for name in self.nodes.keys() {
            let path = format!("/v1/sessions?at_least={others}");
            let _: Vec<SessionInfo> = self.get(name, &path);
        }
    }

    /// Starts a node again under its old name and with its saved identity; returns when it is ready, with
    /// the address that control lists.
    pub(crate) fn restart(&mut self, name: &'static str) -> SocketAddr {
        let before = self.nodes.remove(name).expect("a node of this cluster");
        assert!(
            !before.is_alive(),
            "{name} runs: it cannot be started again"
        );
        let daemon = Daemon::spawn(name, self.node_command(name, false)).ready();
        let addr = daemon.addr();
        self.add(name, daemon);
        addr
    }

    /// Has control list a node that is not run by anybody here, at an address; returns its id.
    pub(crate) fn list(&self, name: &str, addr: SocketAddr) -> String {
        self.join(name, addr).node.to_string()
    }

    /// As [`Cluster::list`]; returns all that the node would have got.
    pub(crate) fn join(&self, name: &str, addr: SocketAddr) -> Joined {
        let ghost = NodeDescription {
            name: name.to_owned(),
            addr,
            admin_addr: addr,
            version: "0.0.0".to_owned(),
            tags: Tags::default(),
        };
        let control = self.control.addr().to_string();
        let joined = self.block_on(async {
            let token = self
                .operator
                .create_token(PATIENCE, 1)
                .await
                .expect("a token");
            let token = token.token.parse().expect("a token");
            Client::join(&control, &token, &ghost).await
        });
        joined.expect("control lists it")
    }

    /// What a guest on a node meets when it turns to a node that was [listed](Self::list).
    pub(crate) fn turn_to(&self, from: &str, ghost: &str) -> Guest {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let guest = self.spawn(from, &["unreachable", ghost]);
            // The membership reaches the node a moment later than us.
            if !guest.one("spawned").text("how").contains("no such node") {
                return guest;
            }
            assert!(Instant::now() < deadline, "{from} never learnt of {ghost}");
        }
    }

    /// A node's daemon.
    pub(crate) fn node(&self, name: &str) -> &Daemon {
        self.nodes.get(name).expect("a node of this cluster")
    }

    /// A node's daemon, to be hurt.
    pub(crate) fn node_mut(&mut self, name: &str) -> &mut Daemon {
        self.nodes.get_mut(name).expect("a node of this cluster")
    }

    /// The id of a node's present start, such as `n3`.
    pub(crate) fn id(&self, name: &str) -> String {
        self.node(name).id()
    }

    /// How long a silent peer is believed.
    pub(crate) fn lease(&self) -> Duration {
        self.shape.lease
    }

    /// Where a daemon keeps its state.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a future to its end, up to [`PATIENCE`].
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, future).await })
            .expect("an answer in time")
    }

    /// Asks a node as an operator.
    pub(crate) fn get<T: DeserializeOwned>(&self, name: &str, path: &str) -> T {
        let text = self.text(name, path);
        serde_json::from_str(&text).expect("an answer of the right type")
    }

    /// What a node answers to an operator, as text.
    pub(crate) fn text(&self, name: &str, path: &str) -> String {
        let url = format!("https://{}{path}", self.node(name).admin());
        self.block_on(async {
            let response = self.http.get(&url).send().await.expect("the node answers");
            let status = response.status();
            let text = response.text().await.expect("a whole answer");
            assert!(status.is_success(), "{url}: {status}: {text}");
            text
        })
    }

    /// A sum over one of the metrics of a node, whatever its labels.
    pub(crate) fn metric(&self, name: &str, family: &str) -> f64 {
        let text = self.text(name, "/metrics");
        let samples = text.lines().filter(|line| {
            let rest = line.strip_prefix(family);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        let value = |line: &str| {
            line.rsplit(' ')
                .next()
                .and_then(|word| word.parse::<f64>().ok())
        };
        samples
            .map(|line| value(line).unwrap_or_else(|| panic!("no number: {line}")))
            .sum()
    }

    /// Kills a process of a node as an operator; it may have ended.
    pub(crate) fn end(&self, name: &str, pid: &str) {
        let url = format!("https://{}/v1/processes/{pid}", self.node(name).admin());
        let answer = self.block_on(self.http.delete(&url).send());
        let status = answer.expect("the node answers").status();
        assert!(
            status.is_success() || status.as_u16() == 404,
            "{url}: {status}"
        );
    }

    /// Drops all lines seen up to now. Nobody holds a place among them.
    pub(crate) fn forget(&self) {
        for daemon in self.nodes.values().chain([&self.control]) {
            for feed in [&daemon.lines, &daemon.log, &daemon.events] {
                feed.forget();
            }
        }
    }

    /// The content hash of the scenarios' module.
    pub(crate) fn module(&self) -> &str {
        &self.module
    }

    /// The session of one node with another, if there is one.
    pub(crate) fn session(&self, of: &str, with: &str) -> Option<SessionInfo> {
        self.session_with(of, &self.id(with))
    }

    /// The session of a node with whoever has this id.
    pub(crate) fn session_with(&self, of: &str, peer: &str) -> Option<SessionInfo> {
        let all: Vec<SessionInfo> = self.get(of, "/v1/sessions");
        all.into_iter().find(|session| session.peer == peer)
    }

    /// How a process of a node ended; waits for it.
    pub(crate) fn end_of(&self, name: &str, pid: &str) -> Ended {
        self.get(name, &format!("/v1/processes/{pid}/wait"))
    }

    /// Whether a process of a node runs.
    pub(crate) fn runs(&self, name: &str, pid: &str) -> bool {
        let all: Vec<Value> = self.get(name, "/v1/processes");
        all.iter().any(|process| process["pid"] == pid)
    }

    /// How many processes of a node run that were started with this function.
    pub(crate) fn running(&self, name: &str, entry: &str) -> usize {
        let all: Vec<Value> = self.get(name, "/v1/processes");
        let of_entry = all.iter().filter(|process| process["entry"] == entry);
        of_entry.count()
    }

    /// Deploys a module; returns its hash.
    pub(crate) fn deploy(&self, name: &str, module: Vec<u8>) -> String {
        let name = name.replace(' ', "-");
        let deployed = self.block_on(self.operator.put_module(Some(&name), module));
        deployed.expect("control takes the module").hash
    }

    /// Starts a scenario on a node.
    pub(crate) fn spawn(&self, name: &str, arguments: &[&str]) -> Guest {
        self.spawn_of(name, &self.module, "_start", arguments)
    }

    /// Starts a function of a deployed module on a node.
    pub(crate) fn spawn_of(
        &self,
        name: &str,
        module: &str,
        entry: &str,
        arguments: &[&str],
    ) -> Guest {
        let request = SpawnProcess {
            module: module.to_owned(),
            entry: entry.to_owned(),
            args: arguments
                .iter()
                .map(|argument| (*argument).to_owned())
                .collect(),
            ..SpawnProcess::default()
        };
        let url = format!("https://{}/v1/processes", self.node(name).admin());
        let spawned: Spawned = self.block_on(async {
            let response = self.http.post(&url).json(&request).send().await;
            let text = response
                .expect("the node answers")
                .text()
                .await
                .expect("an answer");
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{name} spawns: {text}"))
        });
        Guest {
            pid: spawned.pid,
            lines: self.node(name).lines.clone(),
        }
    }

    /// How many lines the guests of all nodes have printed.
    pub(crate) fn lines(&self) -> usize {
        self.nodes.values().map(|node| node.lines.len()).sum()
    }

    /// What a process that somebody else started prints.
    pub(crate) fn listen(&self, name: &str, pid: &str) -> Guest {
        Guest {
            pid: pid.to_owned(),
            lines: self.node(name).lines.clone(),
        }
    }

    /// Waits until a guest on this node has printed this line.
    pub(crate) fn prints(&self, name: &str, line: &str) {
        let found = self.node(name).lines.wait(|printed| printed.text == line);
        assert!(found.is_some(), "no guest on {name} has printed {line:?}");
    }

    /// Runs the command line as the operator.
    pub(crate) fn tidelock(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .env("TIDELOCK_CONTEXT", self.control.operator())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for daemon in self.nodes.values_mut().chain([&mut self.control]) {
            daemon.end();
        }
        if std::thread::panicking() {
            for daemon in [&self.control].into_iter().chain(self.nodes.values()) {
                daemon.show();
            }
        }
    }
}

// ---- daemons -----------------------------------------------------------------------------------

/// A process of the operating system that is part of the cluster.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    /// Its end would end the daemon.
    _stdin: Option<ChildStdin>,
    ready: Value,
    ended: Option<ExitStatus>,
    lines: Feed,
    /// What it logs.
    pub(crate) log: Feed,
    /// What it tells operators.
    pub(crate) events: Feed,
}

/// The binary that was built with these tests, or the one that `TIDELOCK_NODE_BINARY` names.
fn binary() -> OsString {
    let named = std::env::var_os("TIDELOCK_NODE_BINARY");
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_tidelock").into())
}

fn daemon(role: &str, starter: &[String]) -> Command {
    let binary = binary();
    let mut command = match starter {
        [] => Command::new(binary),
        [starter, arguments @ ..] => {
            let mut command = Command::new(starter);
            command.args(arguments).arg(binary);
            command
        }
    };
    command
        .args([role, "--ready-json", "--parent-watch", "--quiet"])
        .env("TIDELOCK_LOG_FORMAT", "text")
        .env("TIDELOCK_LOG_FILTER", "info")
        .env("NO_COLOR", "1")
        .env(
            "XDG_CACHE_HOME",
            concat!(env!("CARGO_TARGET_TMPDIR"), "/cluster-cache"),
        )
        .env_remove("TIDELOCK_TOKEN")
        // It looks like a setting, and is none.
        .env_remove("TIDELOCK_NODE_BINARY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Daemon {
    /// Starts the process. What it says is read from now on.
    pub(crate) fn spawn(name: &str, mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        // Waiting for a child closes a pipe that it still holds.
        let stdin = child.stdin.take();
        let (lines, log) = (Feed::default(), Feed::default());
        lines.follow(child.stdout.take().expect("a pipe was asked for"));
        log.follow(child.stderr.take().expect("a pipe was asked for"));
        Daemon {
            name: name.to_owned(),
            child,
            _stdin: stdin,
            ready: Value::Null,
            ended: None,
            lines,
            log,
            events: Feed::default(),
        }
    }

    fn ready(mut self) -> Self {
        let first = self.lines.wait(|_| true);
        match first {
            Some(line) => self.ready = line.json(),
            None => {
                self.show();
                panic!("{} was not ready", self.name);
            }
        }
        self
    }

    fn text(&self, key: &str) -> String {
        self.ready[key].as_str().unwrap_or_default().to_owned()
    }

    fn id(&self) -> String {
        self.text("ready")
    }

    /// Where other daemons reach it.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.text("addr").parse().expect("an address")
    }

    fn admin(&self) -> SocketAddr {
        self.text("admin_addr").parse().expect("an address")
    }

    fn operator(&self) -> PathBuf {
        PathBuf::from(self.text("operator"))
    }

    /// The kernel's number of the process.
    pub(crate) fn process(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// The kernel's letter for the state of the process; `None` if there is none.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }

    /// Whether the process exists and has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.ended.is_none() && !matches!(self.state(), None | Some('Z' | 'X'))
    }

    /// The memory it has now, by the kernel's account, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        crate::resources::resident(self.process()).expect("the process is there")
    }

    /// SIGKILL. Returns when it was sent, after the process is gone because of it.
    pub(crate) fn kill(&mut self) -> Instant {
        let (at, status) = self.signal_and_wait(Signal::SIGKILL);
        assert_eq!(
            status.signal(),
            Some(9),
            "{} ended otherwise: {status}",
            self.name
        );
        assert!(!Path::new(&format!("/proc/{}", self.child.id())).exists());
        at
    }

    /// SIGTERM. Returns when it was sent, after the process has left in good order.
    pub(crate) fn leave(&mut self) -> Instant {
        let (at, status) = self.signal_and_wait(Signal::SIGTERM);
        assert_eq!(
            status.code(),
            Some(0),
            "{} did not leave: {status}",
            self.name
        );
        at
    }

    fn signal_and_wait(&mut self, signal: Signal) -> (Instant, ExitStatus) {
        assert!(self.is_alive(), "{} has ended before", self.name);
        let at = Instant::now();
        kill(self.process(), signal).expect("the signal is sent");
        let status = self.child.wait().expect("the process is ours");
        self.ended = Some(status);
        (at, status)
    }

    /// SIGSTOP. Returns when it was sent, after the kernel has stopped the process.
    pub(crate) fn freeze(&self) -> Instant {
        let at = Instant::now();
        kill(self.process(), Signal::SIGSTOP).expect("the signal is sent");
        waitid(Id::Pid(self.process()), WaitPidFlag::WSTOPPED).expect("the process stops");
        self.assert_frozen();
        at
    }

    /// Fails unless the process stands still.
    pub(crate) fn assert_frozen(&self) {
        assert_eq!(self.state(), Some('T'), "{} is not frozen", self.name);
    }

    /// SIGCONT. Returns when it was sent, after the process goes on.
    pub(crate) fn thaw(&self) -> Instant {
        let at = Instant::now();
        kill(self.process(), Signal::SIGCONT).expect("the signal is sent");
        waitid(Id::Pid(self.process()), WaitPidFlag::WCONTINUED).expect("the process goes on");
        assert!(
            self.is_alive() && self.state() != Some('T'),
            "{} is frozen",
            self.name
        );
        at
    }

    fn end(&mut self) {
        if self.ended.is_none() {
            // It may end by itself in this moment; all that counts is that it is gone.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    fn show(&self) {
        eprintln!(
            "── {}, {:?}, {:?}",
            self.name, self.ready["ready"], self.ended
        );
        for (of, feed) in [
            ("stderr", &self.log),
            ("stdout", &self.lines),
            ("events", &self.events),
        ] {
            let all = feed.all();
            let last = all.len().saturating_sub(25);
            eprintln!("   {of}, {} lines, the last of them:", all.len());
            for line in &all[last..] {
                eprintln!("   {}", line.text.chars().take(300).collect::<String>());
            }
        }
    }
}

// ---- what is said ------------------------------------------------------------------------------

/// A process of the cluster, by what it prints.
#[derive(Clone)]
pub(crate) struct Guest {
    /// Such as `n1.2`.
    pub(crate) pid: String,
    lines: Feed,
}

impl Guest {
    /// Waits for its first observation of a kind.
    pub(crate) fn one(&self, what: &str) -> Seen {
        self.many(what, 1).remove(0)
    }

    /// As [`Guest::one`], for what takes long.
    pub(crate) fn one_within(&self, what: &str, patience: Duration) -> Seen {
        let seen = self
            .lines
            .wait_within(0, patience, |line| self.said(line, what));
        seen.unwrap_or_else(|| panic!("{} has not said {what:?} in {patience:?}", self.pid))
    }

    /// Waits until it has made `count` observations of a kind, and returns all there are.
    pub(crate) fn many(&self, what: &str, count: usize) -> Vec<Seen> {
        let mut left = count;
        self.lines.wait(|line| {
            left -= usize::from(self.said(line, what) && left > 0);
            left == 0
        });
        let all = self.all(what);
        assert!(
            all.len() >= count,
            "{} has said {what:?} {} times instead of {count}",
            self.pid,
            all.len()
        );
        all
    }

    /// Its observations of a kind up to now.
    pub(crate) fn all(&self, what: &str) -> Vec<Seen> {
        let mut all = self.lines.all();
        all.retain(|line| self.said(line, what));
        all
    }

    fn said(&self, line: &Seen, what: &str) -> bool {
        // Cheaper than parsing, and exact for what the scenarios print.
        line.text
            .starts_with(&format!(r#"{{"what":"{what}","me":"{}""#, self.pid))
    }
}

// ---- the machine -------------------------------------------------------------------------------

/// Waits for this test's turn: two clusters on two cores would measure each other.
fn turn() -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster.lock");
    let file = File::create(path).expect("a file to lock");
    file.lock().expect("the file can be locked");
    file
}

/// The file of a compiled guest; compiles all of them if it is missing or older than its source.
pub(crate) fn guest(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Some(folder) = std::env::var_os("TIDELOCK_GUESTS") {
        return PathBuf::from(folder).join(format!("{name}.wasm"));
    }
    let file = root.join(format!("target/guests/wasm32-wasip1/release/{name}.wasm"));
    let written = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let bin = root.join("examples/guests/src/bin");
    let sources = [
        bin.join(format!("{name}.rs")),
        bin.join(format!("{name}/load.rs")),
    ];
    let source = sources.iter().filter_map(|path| written(path)).max();
    if written(&file) < source {
        let status = Command::new(env!("CARGO"))
            .args(["xtask", "guests"])
            .current_dir(&root)
            .stdin(Stdio::null())
            .status()
            .expect("cargo starts");
        assert!(
            status.success(),
            "the guests cannot be compiled: cargo xtask guests"
        );
    }
    file
}
