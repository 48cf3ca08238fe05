//! A whole cluster on this machine: a control plane and nodes as child processes, for `dev` and `demo`.
//!
//! # Guarantees
//!
//! * A daemon counts as started once it has printed its ready line; nobody sleeps or polls for it.
//! * Nothing outlives the cluster: dropping it kills every daemon and removes the directory. If this
//!   process itself is killed, each daemon sees its standard input end and stops; the control plane
//!   then removes the directory.
//! * Two clusters share nothing: ports are free ones, the directory is new, the authority is its own.

use std::{
    collections::VecDeque,
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tidelock_node::MESH_MAX;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{
    connect,
    failure::{Exit, Failure, Outcome},
    output::Output,
};

/// How long a daemon may take until it is ready. Generous: the machine may be busy compiling.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long everybody may take to know everybody.
const MET_WITHIN: Duration = Duration::from_secs(30);

/// How long a daemon that was asked to leave may take.
const LEFT_WITHIN: Duration = Duration::from_secs(10);

/// Last words of a daemon that are kept for an error.
const TAIL_LINES: usize = 12;

/// The one line a daemon prints on stdout when it is ready, if started with `--ready-json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// `control`, or the node's id.
    pub(crate) ready: String,
    /// The address for others.
    pub(crate) addr: SocketAddr,
    /// The address for operators.
    pub(crate) admin_addr: SocketAddr,
    /// The operator's credentials; of the control plane only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operator: Option<PathBuf>,
}

/// What a cluster should look like.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// How many nodes.
    pub(crate) nodes: u32,
    /// How long a silent peer is believed to be alive.
    pub(crate) lease: Option<Duration>,
    /// Whether guests' output is also the daemon's own.
    pub(crate) guest_output: bool,
    /// Whether the daemons' stderr, guests' included, is passed through to ours.
    pub(crate) pass_stderr: bool,
}

/// A running cluster.
pub(crate) struct LocalCluster {
    /// For operators.
    pub(crate) wire: connect::Cluster,
    /// In the order they joined.
    pub(crate) nodes: Vec<Daemon>,
    control: Daemon,
    dir: TempDir,
}

/// A child process of ours.
pub(crate) struct Daemon {
    /// `control`, `n1`, ….
    pub(crate) name: String,
    /// What it said when it was ready.
    pub(crate) ready: Ready,
    /// What it says after that: output of guests. Taken by whoever reads it.
    pub(crate) stdout: Option<BufReader<ChildStdout>>,
    child: Kept,
    tail: Tail,
    over: bool,
}

/// A child process that does not outlive its owner: dropping kills it and waits for its end.
///
/// Its standard input is kept apart, since waiting for a child would close it, and that ends a daemon.
struct Kept(Child, Option<ChildStdin>);

/// The last lines of a daemon's stderr.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<String>>>);

impl LocalCluster {
    /// Starts everything and returns once all nodes know each other.
    ///
    /// Must be awaited on the main task: the kernel ties a daemon's life to the thread that started it.
    ///
    /// # Errors
    ///
    /// A daemon that ends or stays silent, with its last words. Nothing is left behind.
    pub(crate) async fn start(shape: &Shape, out: &Output) -> Outcome<Self> {
        Self::start_in(Self::new_dir()?, shape, out).await
    }

    /// A directory for a cluster. What is put into it goes when the cluster goes.
    pub(crate) fn new_dir() -> Outcome<TempDir> {
        Ok(tempfile::Builder::new().prefix("tidelock-").tempdir()?)
    }

    /// As [`LocalCluster::start`], in a directory that was made before.
    pub(crate) async fn start_in(dir: TempDir, shape: &Shape, out: &Output) -> Outcome<Self> {
        let state = |name: &str| dir.path().join(name);

        let mut command = daemon("control")?;
        command
            .arg("--listen")
            .arg("127.0.0.1:0")
            .arg("--state-dir")
            .arg(state("control"));
        command
            .args(["--cluster", "dev"])
            .arg("--remove-on-orphan")
            .arg(dir.path());
        let control = Daemon::start("control", command, shape.pass_stderr, out).await?;
        let wire = connect::Cluster::open(control.ready.operator.as_deref(), out)?;
        let token = wire
            .token(Duration::from_secs(600), shape.nodes)
            .await?
            .token;

        let mut nodes = Vec::new();
        for number in 1..=shape.nodes {
            let name = format!("n{number}");
            let mut command = daemon("node")?;
            command.args([
                "--name",
                &name,
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ]);
            command
                .arg("--join")
                .arg(control.ready.addr.to_string())
                .env("TIDELOCK_TOKEN", &token)
                // All nodes are this machine: what the first process may see, its children may.
                .env("TIDELOCK_NODE_REMOTE_PREOPENS", ".");
            command.arg("--state-dir").arg(state(&name));
            if let Some(lease) = shape.lease {
                command.arg("--lease-ms").arg(lease.as_millis().to_string());
            }
            // Whatever the settings say: what this command waits for depends on it.
            command.arg("--mesh-max").arg(MESH_MAX.to_string());
            if shape.guest_output {
                command.arg("--guest-output");
            }
            nodes.push(Daemon::start(&name, command, shape.pass_stderr, out).await?);
        }
        let cluster = Self {
            wire,
            nodes,
            control,
            dir,
        };
        cluster.meet().await?;
        Ok(cluster)
    }

    /// Waits until each node has a session with each other one, or knows of it in a cluster that is too large for that.
    async fn meet(&self) -> Outcome {
        let nodes = self.nodes.len();
        let path = match nodes <= MESH_MAX {
            true => format!("/v1/sessions?at_least={}", nodes - 1),
            false => format!("/v1/status?nodes={nodes}"),
        };
        for node in &self.nodes {
            let met = self
                .wire
                .wait_for::<serde_json::Value>(node.ready.admin_addr, &path);
            match timeout(MET_WITHIN, met).await {
                Ok(answer) => drop(answer?),
                Err(_) => {
                    return Err(node.letter("E0041", "has not met all other nodes in time"));
                }
            }
        }
        Ok(())
    }

    /// The operator's credentials.
    pub(crate) fn context(&self) -> &Path {
        self.control
            .ready
            .operator
            .as_deref()
            .unwrap_or(self.dir.path())
    }

    /// Address of the control plane.
    pub(crate) fn control_addr(&self) -> SocketAddr {
        self.control.ready.addr
    }

    /// Waits until a daemon ends that had not ended before; the letter says which and how, and whether
    /// anything is left to work with. Cancel-safe.
    pub(crate) async fn any_end(&mut self) -> (Failure, bool) {
        let all = self.nodes.iter_mut().chain([&mut self.control]);
        let mut ends: FuturesUnordered<_> = all
            .filter(|daemon| !daemon.over)
            .map(|daemon| async {
                let failure = daemon.ended().await;
                daemon.over = true;
                failure
            })
            .collect();
        let Some(failure) = ends.next().await else {
            return std::future::pending().await;
        };
        drop(ends);
        let usable = !self.control.over && self.nodes.iter().any(|node| !node.over);
        (failure, usable)
    }

    /// Asks all nodes to leave, waits for them, then ends the control plane.
    pub(crate) async fn leave(mut self) {
        for node in &self.nodes {
            node.signal(nix::sys::signal::Signal::SIGTERM);
        }
        let left = async {
            for node in &mut self.nodes {
                let _ = node.child.0.wait().await;
            }
        };
        let _ = timeout(LEFT_WITHIN, left).await;
        self.kill().await;
    }

    /// Ends all daemons now and removes the directory.
    pub(crate) async fn kill(mut self) {
        for daemon in self.nodes.iter_mut().chain([&mut self.control]) {
            let _ = daemon.child.0.start_kill();
        }
        for daemon in self.nodes.iter_mut().chain([&mut self.control]) {
            let _ = daemon.child.0.wait().await;
        }
    }
}

impl Daemon {
    async fn start(
        name: &str,
        mut command: Command,
        pass_stderr: bool,
        out: &Output,
    ) -> Outcome<Self> {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let mut child = Kept(child, stdin);
        let tail = Tail::default();
        let stderr = child
            .0
            .stderr
            .take()
            .expect("stderr was asked to be a pipe");
        tokio::spawn(
            tail.clone()
                .follow(stderr, pass_stderr.then(|| out.clone())),
        );
        let stdout = child
            .0
            .stdout
            .take()
            .expect("stdout was asked to be a pipe");
        let mut stdout = BufReader::new(stdout);

        let mut line = String::new();
        let said = timeout(READY_WITHIN, stdout.read_line(&mut line)).await;
        let ready = serde_json::from_str(&line).ok();
        if let Some(ready) = ready {
            return Ok(Self {
                name: name.to_owned(),
                ready,
                stdout: Some(stdout),
                child,
                tail,
                over: false,
            });
        }
        let why = match said {
            Err(_) => format!("was not ready after {} s", READY_WITHIN.as_secs()),
            Ok(_) => {
                let _ = child.0.start_kill();
                let status = child.0.wait().await;
                status.map_or_else(|_| "ended".to_owned(), ended) + " before it was ready"
            }
        };
        drop(child);
        tail.settle().await;
        Err(tail.letter(name, "E0041", &why))
    }

    /// The id of the process.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.child.0.id()
    }

    /// SIGKILL, then waits for the end; returns how it ended.
    pub(crate) async fn kill(&mut self) -> Outcome<ExitStatus> {
        self.child.0.start_kill()?;
        Ok(self.child.0.wait().await?)
    }

    /// Waits for the end and says it as a letter.
    pub(crate) async fn ended(&mut self) -> Failure {
        let status = self.child.0.wait().await;
        self.tail.settle().await;
        self.letter(
            "E0042",
            &status.map_or_else(|_| "has ended".to_owned(), ended),
        )
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        if let Some(id) = self.child.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal);
        }
    }

    /// What it said last on stderr.
    pub(crate) fn last_words(&self) -> String {
        self.tail.words(&self.name)
    }

    fn letter(&self, code: &str, what: &str) -> Failure {
        self.tail.letter(&self.name, code, what)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.start_kill();
        drop(self.1.take());
        // Reaping is the runtime's; here we only wait, so that files can be removed afterwards.
        #[cfg(target_os = "linux")]
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            use nix::sys::wait::{Id, WaitPidFlag, waitid};
            let id = Id::Pid(nix::unistd::Pid::from_raw(id));
            let _ = waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        }
    }
}

impl Tail {
    /// Keeps the last lines and passes the bytes on if asked to.
    async fn follow(self, mut from: tokio::process::ChildStderr, to: Option<Output>) {
        let mut buffer = vec![0; 16 << 10];
        let mut line = Vec::new();
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if let Some(out) = &to {
                out.raw_err(&buffer[..length]);
            }
            for byte in &buffer[..length] {
                match byte {
                    b'\n' => self.keep(&mut line),
                    _ if line.len() < 1024 => line.push(*byte),
                    _ => {}
                }
            }
        }
        self.keep(&mut line);
    }

    fn keep(&self, line: &mut Vec<u8>) {
        if !line.is_empty() {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == TAIL_LINES {
                lines.pop_front();
            }
            lines.push_back(String::from_utf8_lossy(line).into_owned());
            line.clear();
        }
    }

    /// Lets the reader finish: it holds the other reference until the pipe has ended.
    async fn settle(&self) {
        let finished = async {
            while Arc::strong_count(&self.0) > 1 {
                tokio::task::yield_now().await;
            }
        };
        let _ = timeout(Duration::from_secs(1), finished).await;
    }

    fn letter(&self, name: &str, code: &str, what: &str) -> Failure {
        Failure::new(code, format!("{name}: the daemon {what}")).detail(self.words(name))
    }

    fn words(&self, name: &str) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            return format!("{name} said nothing on stderr.");
        }
        let mut text = format!("The last words of {name}:");
        for line in lines.iter() {
            text.push_str("\n  ");
            text.push_str(line);
        }
        text
    }
}

/// This very program as a daemon that ends with us.
fn daemon(role: &str) -> Outcome<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args([role, "--parent-watch", "--ready-json", "--quiet"]);
    command.env("TIDELOCK_LOG_FORMAT", "text");
    if env::var_os("TIDELOCK_LOG_FILTER").is_none() {
        command.env("TIDELOCK_LOG_FILTER", "warn");
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .env_remove("TIDELOCK_CONTEXT")
        .env_remove("TIDELOCK_OUTPUT");
    // A group of its own: Ctrl-C on the terminal is for us, and we tell the daemons.
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The daemon's side: end when standard input ends, which the parent holds open as long as it lives.
///
/// On Linux the kernel kills a node at once when its parent dies; `remove` is for the one daemon that
/// cleans up and therefore only watches the pipe.
pub(crate) fn end_with_parent(remove: Option<PathBuf>) {
    #[cfg(target_os = "linux")]
    if remove.is_none() {
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    }
    // The pipe is for us; a guest that reads its standard input finds the end at once.
    let Ok(mut pipe) = nix::unistd::dup(std::io::stdin()).map(std::fs::File::from) else {
        return;
    };
    if let Ok(nothing) = std::fs::File::open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(nothing);
    }
    let watch = move || {
        use std::io::Read as _;
        let mut byte = [0];
        // Whatever is read is nothing to us; the end is.
        while matches!(pipe.read(&mut byte), Ok(1)) {}
        if let Some(dir) = remove {
            // Nodes that are still ending may put a file into it while it is removed.
            for _ in 0..100 {
                if std::fs::remove_dir_all(&dir).is_ok() || !dir.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        std::process::exit(i32::from(Exit::Interrupted as u8));
    };
    let watcher = std::thread::Builder::new()
        .name("parent-watch".to_owned())
        .spawn(watch);
    drop(watcher);
}
