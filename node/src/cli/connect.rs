//! A running cluster, for operators: finds the credentials, asks control and nodes over mutual TLS.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{join_all, try_join},
    stream::FuturesUnordered,
};
use jiff::Timestamp;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;
use tidelock_certs::{Identity, Role, tls::https_client_config};
use tidelock_control::api::{
    CreateToken, ErrorBody, Members, ModuleInfo, ModuleName, NodeInfo, NodeState, NodeStatus,
    OperatorContext, ProcessInfo, TokenCreated, codes,
};
use tidelock_control::modules::check_module_name;
use tidelock_node::config::user_state_dir;
use tidelock_proto::Pid;
use tokio::sync::mpsc;

use super::{
    failure::{Failure, Letter, Outcome, plain},
    output::{Output, Tone, ago, json},
};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long an ordinary answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long an answer may take that has to fetch and compile a module first.
const WORK_WITHIN: Duration = Duration::from_secs(120);

/// How long a node may take to answer that control has lost: most such nodes are gone.
const LOST_ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How often control is asked for new nodes while lines are followed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Beside `context.json`: the nodes, as control last told them.
const NODES_FILE: &str = "nodes.json";

/// A line of a stream may be so long, and no longer.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Lines of several nodes on their way to the one printer.
const LINES_WAITING_MAX: usize = 256;

/// Whom a request is for.
#[derive(Debug, Clone, Copy)]
enum Whom {
    Control,
    Node,
}

/// A cluster and the right to ask it.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    address: String,
    control: reqwest::Client,
    node: reqwest::Client,
    /// Where the credentials are.
    dir: PathBuf,
    /// The nodes as they were known before, once control has not answered for a list of them.
    without_control: Arc<OnceLock<Vec<NodeInfo>>>,
    out: Output,
}

/// What [`NODES_FILE`] holds.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    asked_at: Timestamp,
    nodes: Vec<NodeInfo>,
}

/// A line that a node sends.
#[derive(Debug)]
pub(crate) enum Line<T> {
    Item(T),
    /// The node had no longer what stood here.
    Missed(Missed),
}

/// How many lines a node had no longer when it was to send them.
#[derive(Debug, Serialize)]
pub(crate) struct Missed {
    node: String,
    missed: u64,
}

/// [`Missed`], as the node sends it.
#[derive(Deserialize)]
struct Gap {
    missed: u64,
}

/// How far the lines of one node were read. It numbers them for as long as it runs.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The number of the first line that was not handed over.
    next: u64,
    /// Whether it was said that there are no more, and nothing has come since.
    lost: bool,
}

impl Place {
    /// What is new of the line whose number is `at`; moves both behind it. What was no line for us has a number, too.
    fn news<T>(&mut self, at: &mut u64, line: Option<Line<T>>) -> Option<Line<T>> {
        let numbers = match &line {
            Some(Line::Missed(gap)) => gap.missed,
            Some(Line::Item(_)) | None => 1,
        };
        *at = at.saturating_add(numbers);
        let new = at.saturating_sub(self.next);
        self.next = self.next.max(*at);
        match line {
            _ if new == 0 => None,
            Some(Line::Missed(gap)) => Some(Line::Missed(Missed {
                missed: gap.missed.min(new),
                ..gap
            })),
            other => other,
        }
    }
}

impl Missed {
    /// Says it where the lines would stand. It is data: whoever reads these lines relies on having all of them.
    pub(crate) fn print(&self, out: &Output) -> Outcome {
        // Only ids were asked for.
        if out.quiet {
            return Ok(());
        }
        out.item(self, "", &out.tone(Tone::Warn, &self.to_string()))
    }
}

impl std::fmt::Display for Missed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, missed } = self;
        match missed {
            1 => write!(f, "{node}: 1 line is missing here"),
            _ => write!(f, "{node}: {missed} lines are missing here"),
        }
    }
}

impl<T> Line<T> {
    /// Reads one. A kind of line that a newer node sends is none for us.
    fn parse(node: &str, line: &[u8]) -> Option<Self>
    where
        T: DeserializeOwned,
    {
        if let Ok(item) = serde_json::from_slice(line) {
            return Some(Self::Item(item));
        }
        let Gap { missed } = serde_json::from_slice(line).ok()?;
        let node = node.to_owned();
        Some(Self::Missed(Missed { node, missed }))
    }

    /// Puts lines of several nodes in the order of their times. What is missing stands before the line that
    /// it stood before.
    pub(crate) fn in_order(lines: Vec<Self>, time: impl Fn(&T) -> Timestamp) -> Vec<Self> {
        let mut next = Timestamp::MAX;
        let mut timed = Vec::with_capacity(lines.len());
        for line in lines.into_iter().rev() {
            if let Self::Item(item) = &line {
                next = time(item);
            }
            timed.push((next, line));
        }
        timed.reverse();
        timed.sort_by_key(|(time, _)| *time);
        timed.into_iter().map(|(_, line)| line).collect()
    }
}

impl Cluster {
    /// Reads the credentials of `dir`, or of the place that is the default. Connects to nobody yet. `out` is for
    /// what is worth a word and no failure.
    pub(crate) fn open(dir: Option<&Path>, out: &Output) -> Outcome<Self> {
        let none = |message: String| {
            Err(Failure::new("E0010", message)
                .next("tidelock dev", "starts a cluster on this machine")
                .next(
                    "export TIDELOCK_CONTEXT=DIR/operator",
                    "chooses one: DIR is its control plane's --state-dir",
                ))
        };
        let Some(dir) = dir.map(PathBuf::from).or_else(default_context) else {
            return none("no cluster was chosen and none is running as the default".to_owned());
        };
        // The control plane may be given its state directory as well as the folder in it.
        let dir = if dir.join("operator").is_dir() {
            dir.join("operator")
        } else {
            dir
        };
        let file = dir.join("context.json");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory]
                    .contains(&error.kind()) =>
            {
                return none(format!("{}: there are no credentials here", dir.display()));
            }
            Err(error) => return Err(Failure::file(&file, &error)),
        };
        let unreadable = |what: &dyn std::fmt::Display| {
            Failure::new(
                "E0013",
                format!("{}: the credentials are damaged", dir.display()),
            )
            .detail(what)
        };
        let context: OperatorContext =
            serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
        let identity = Identity::load(&dir).map_err(|error| unreadable(&error))?;
        let client = |role| {
            let tls = https_client_config(&identity, role, None).map_err(|e| unreadable(&e))?;
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls)
                .connect_timeout(CONNECT_WITHIN)
                .no_proxy()
                .build()
                .map_err(|error| unreadable(&plain(&error)))
        };
        Ok(Self {
            address: context.control,
            control: client(Role::Control)?,
            node: client(Role::Node)?,
            dir,
            without_control: Arc::default(),
            out: out.clone(),
        })
    }

    /// Host and port of the control plane.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// All nodes that control knows, gone ones included.
    pub(crate) async fn nodes(&self) -> Outcome<Vec<NodeInfo>> {
        let nodes = self.listed().await?;
        // For a later day: a directory that is somebody else's is no failure of this one.
        let _ = self.remember(&nodes);
        Ok(nodes)
    }

    async fn listed(&self) -> Outcome<Vec<NodeInfo>> {
        let request = self.to_control(Method::GET, "/v1/nodes");
        let members: Members = self
            .ask(Whom::Control, request.timeout(ANSWER_WITHIN))
            .await?;
        Ok(members.nodes)
    }

    /// As [`Cluster::nodes`]; if control does not answer, as it has answered last.
    async fn known(&self) -> Outcome<Vec<NodeInfo>> {
        if let Some(nodes) = self.without_control.get() {
            return Ok(nodes.clone());
        }
        match self.nodes().await {
            Err(Failure::Letter(letter)) if is_silence(&letter) => {
                let Some(known) = self.remembered() else {
                    return Err(Failure::Letter(letter));
                };
                self.out.say(format_args!(
                    "control is not there; asking the nodes as known {}",
                    ago(known.asked_at)
                ));
                let _ = self.without_control.set(known.nodes.clone());
                Ok(known.nodes)
            }
            answered => answered,
        }
    }

    /// Whether the nodes are known from before, and not from control.
    fn is_remembered(&self) -> bool {
        self.without_control.get().is_some()
    }

    /// Writes down who is there. Readable by its owner alone, and there completely or not at all.
    fn remember(&self, nodes: &[NodeInfo]) -> io::Result<()> {
        let known = Known {
            asked_at: Timestamp::now(),
            nodes: nodes.to_vec(),
        };
        let mut file = NamedTempFile::new_in(&self.dir)?;
        file.write_all(json(&known, false).as_bytes())?;
        file.persist(self.dir.join(NODES_FILE))?;
        Ok(())
    }

    fn remembered(&self) -> Option<Known> {
        let text = fs::read(self.dir.join(NODES_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The nodes to ask: the one that was named, or all that are there. Says which ones may be there, too.
    pub(crate) async fn chosen(&self, name: Option<&str>) -> Outcome<Vec<NodeInfo>> {
        if let Some(name) = name {
            return Ok(vec![self.node(name).await?]);
        }
        let mut nodes = self.known().await?;
        for node in nodes.iter().filter(|node| node.state == NodeState::Lost) {
            self.out.say(format_args!(
                "{} ({}) is left out: control has lost it, and last heard of it {}",
                node.id,
                node.name,
                ago(node.last_seen)
            ));
        }
        nodes.retain(|node| node.state.is_present());
        Ok(nodes)
    }

    /// A node by id or stable name; the latest start if there were several.
    pub(crate) async fn node(&self, name: &str) -> Outcome<NodeInfo> {
        let nodes = self.known().await?;
        let by_id = nodes.iter().rfind(|node| node.id == name);
        let mut named = nodes.iter().filter(|node| node.name == name);
        let first = named.next();
        let by_name = named.fold(first, |best, node| {
            if best.is_some_and(|best| best.state.is_present()) {
                best
            } else {
                Some(node)
            }
        });
        if let (Some(one), Some(other)) = (by_id, by_name)
            && one.id != other.id
            && other.state.is_present()
        {
            return Err(two_meanings(name, one, other));
        }
        self.usable(name, by_id.or(by_name)).await
    }

    /// As [`Cluster::node`], to change something there: the node that answers now. Another one may have its address
    /// since control told of it.
    pub(crate) async fn node_itself(&self, name: &str) -> Outcome<NodeInfo> {
        self.itself(name, self.node(name).await?).await
    }

    /// Who answers where a node is that was found, if it is what was typed.
    async fn itself(&self, typed: &str, node: NodeInfo) -> Outcome<NodeInfo> {
        let status: NodeStatus = self.get(node.admin_addr, "/v1/status").await?;
        // Whoever is meant by its name may have started again.
        let is_by_name = typed != node.id && status.name == typed;
        if status.id != node.id && !is_by_name {
            return Err(another(&node, &status));
        }
        Ok(NodeInfo {
            id: status.id,
            version: status.version,
            ..node
        })
    }

    /// A node that was found, if it can be asked.
    async fn usable(&self, typed: &str, found: Option<&NodeInfo>) -> Outcome<NodeInfo> {
        let next = "tidelock nodes --all";
        let Some(node) = found else {
            if self.is_remembered() {
                // It may have joined since.
                return Err(no_control(&self.address).detail(format_args!(
                    "{typed} is not among the nodes that were known before."
                )));
            }
            return Err(
                Failure::new("E0021", format!("{typed}: there is no such node"))
                    .next(next, "who is here and who was"),
            );
        };
        let seen = ago(node.last_seen);
        if node.state == NodeState::Lost && self.answers(node).await {
            self.out.say(format_args!(
                "control last heard of {} {seen}, but it answers",
                node.id
            ));
            return Ok(node.clone());
        }
        let (how, so) = match node.state {
            NodeState::Alive | NodeState::Draining => return Ok(node.clone()),
            NodeState::Lost => (
                "was lost",
                format!(
                    "Control last heard of it {seen}, and it does not answer; its processes may still run."
                ),
            ),
            NodeState::Left => (
                "has left",
                format!("Last seen {seen}; its processes are gone for good."),
            ),
        };
        Err(Failure::new("E0012", format!("{typed}: the node {how}"))
            .detail(so)
            .next(next, "who is here and who was"))
    }

    /// Whether a node that control has lost is there all the same: only their way to each other may be gone.
    async fn answers(&self, node: &NodeInfo) -> bool {
        let request = self.to_node(Method::GET, node.admin_addr, "/v1/status");
        let status: Outcome<NodeStatus> = self
            .ask(Whom::Node, request.timeout(LOST_ANSWER_WITHIN))
            .await;
        status.is_ok_and(|status| status.id == node.id)
    }

    /// Puts a node out for good. By its id alone: a name may be another's by now.
    pub(crate) async fn remove(&self, id: &str) -> Outcome<NodeInfo> {
        let nodes = self.nodes().await?;
        if !nodes.iter().any(|node| node.id == id) {
            let mut named = nodes.iter().rev().filter(|node| node.name == id);
            let latest = named.clone().next();
            let present = named.find(|node| node.state.is_present());
            let all = "tidelock nodes --all";
            return Err(match (present.or(latest), present) {
                (Some(node), present) => {
                    let is = if present.is_some() { "is" } else { "was" };
                    let message = format!("{id}: remove takes an id: {id} {is} {}", node.id);
                    Failure::new("E0021", message)
                        .next(format!("tidelock remove {}", node.id), "if that is meant")
                        .next(all, "who is here and who was")
                }
                (None, _) => Failure::new("E0021", format!("{id}: there is no node with this id"))
                    .next(all, "who is here and who was"),
            });
        }
        let path = format!("/v1/nodes/{id}?remove=true");
        let request = self.to_control(Method::DELETE, &path);
        self.ask(Whom::Control, request).await
    }

    /// The node that a process lives on.
    pub(crate) async fn home_of(&self, pid: Pid) -> Outcome<NodeInfo> {
        let id = pid.node().to_string();
        let nodes = self.known().await?;
        let found = nodes.iter().rfind(|node| node.id == id);
        let usable = self.usable(&id, found).await;
        let node = usable.map_err(|failure| match failure {
            Failure::Letter(mut letter) if letter.code == "E0021" => {
                letter.code = "E0020".to_owned();
                letter.message = format!("{pid}: there is no such process, and no node {id}");
                Failure::Letter(letter)
            }
            other => other,
        })?;
        match self.is_remembered() {
            // Another one would say that there is no such process.
            true => self.itself(&id, node).await,
            false => Ok(node),
        }
    }

    /// The admin address of the node that a process lives on.
    pub(crate) async fn node_of(&self, pid: Pid) -> Outcome<SocketAddr> {
        Ok(self.home_of(pid).await?.admin_addr)
    }

    /// The process that is meant: by its pid, the name it is registered under, or NAME@NODE.
    pub(crate) async fn pid_of(&self, typed: &str) -> Outcome<Pid> {
        if let Ok(pid) = typed.parse() {
            return Ok(pid);
        }
        let (name, node) = match typed.rsplit_once('@') {
            Some((name, node)) => (name, Some(node)),
            None => (typed, None),
        };
        let nodes = self.chosen(node).await?;
        let lists = join_all(nodes.iter().map(|node| self.named(node, name))).await;
        let found = merge(&nodes, lists, &self.out)?;
        match found.as_slice() {
            [] => Err(Failure::new(
                "E0002",
                format!("{typed}: this is not a pid, and no process has this name"),
            )
            .detail("A pid looks like n3.42.")
            .next("tidelock ps", "what runs")),
            [one] => parse_pid(&one.pid),
            several => {
                let pids: Vec<&str> = several.iter().map(|one| one.pid.as_str()).collect();
                let message = format!("{typed}: several processes have this name");
                Err(Failure::new("E0002", message)
                    .detail(pids.join(", "))
                    .next("tidelock show NAME@NODE", "of one node"))
            }
        }
    }

    async fn named(&self, node: &NodeInfo, name: &str) -> Outcome<Vec<ProcessInfo>> {
        let request = self.to_node(Method::GET, node.admin_addr, "/v1/processes");
        let request = request.query(&[("name", name)]).timeout(ANSWER_WITHIN);
        self.ask(Whom::Node, request).await
    }

    /// Says "no such process" the way the user typed it.
    pub(crate) fn missing_process(&self, typed: &str, failure: Failure) -> Failure {
        match failure {
            Failure::Letter(letter)
                if [codes::NO_PROCESS, "E0020"].contains(&letter.code.as_str()) =>
            {
                no_process(typed)
            }
            other => other,
        }
    }

    /// All modules the cluster holds.
    pub(crate) async fn modules(&self) -> Outcome<Vec<ModuleInfo>> {
        // Waiting for it once is enough.
        if self.is_remembered() {
            return Err(no_control(&self.address));
        }
        let request = self.to_control(Method::GET, "/v1/modules");
        self.ask(Whom::Control, request).await
    }

    /// Gives the cluster a module. A request that is held up on its way takes no name from a later one.
    pub(crate) async fn put_module(&self, name: &str, bytes: Vec<u8>) -> Outcome<ModuleInfo> {
        let mut query = vec![("name", name.to_owned())];
        let after = self.deploys(name).await?;
        query.extend(after.map(|after| ("after", after.to_string())));
        let request = self.to_control(Method::PUT, "/v1/modules").query(&query);
        self.ask(Whom::Control, request.body(bytes)).await
    }

    /// How often a module was deployed under `name`; `None` if this control does not count that.
    async fn deploys(&self, name: &str) -> Outcome<Option<u64>> {
        if check_module_name(name).is_err() {
            // It would be another path. Control says what is wrong with it.
            return Ok(None);
        }
        let path = format!("/v1/module-names/{name}");
        let request = self.to_control(Method::GET, &path);
        match self.ask::<ModuleName>(Whom::Control, request).await {
            Ok(name) => Ok(Some(name.deploys)),
            // One of an earlier version.
            Err(Failure::Letter(letter)) if letter.code == codes::NOT_FOUND => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Makes a join token.
    pub(crate) async fn token(&self, ttl: Duration, uses: u32) -> Outcome<TokenCreated> {
        let body = CreateToken {
            ttl_s: whole_seconds(ttl),
            uses,
        };
        let request = self.to_control(Method::POST, "/v1/tokens").json(&body);
        self.ask(Whom::Control, request).await
    }

    /// Asks one node for something that may take as long as it takes, such as the end of a process.
    pub(crate) async fn wait_for<T: DeserializeOwned>(
        &self,
        admin: SocketAddr,
        path: &str,
    ) -> Outcome<T> {
        let request = self.to_node(Method::GET, admin, path);
        self.ask(Whom::Node, request).await
    }

    /// Asks one node.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        admin: SocketAddr,
        path: &str,
    ) -> Outcome<T> {
        let request = self.to_node(Method::GET, admin, path);
        self.ask(Whom::Node, request.timeout(ANSWER_WITHIN)).await
    }

    /// Asks one node to do something.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        admin: SocketAddr,
        path: &str,
        body: &impl Serialize,
    ) -> Outcome<T> {
        let request = self.to_node(Method::POST, admin, path).json(body);
        self.ask(Whom::Node, request.timeout(WORK_WITHIN)).await
    }

    /// Asks one node to end something.
    pub(crate) async fn delete(&self, admin: SocketAddr, path: &str) -> Outcome {
        let request = self.to_node(Method::DELETE, admin, path);
        checked(Whom::Node, request.timeout(ANSWER_WITHIN))
            .await
            .map(drop)
    }

    /// Asks several nodes for a list each. A node that does not answer is named and passed over, unless
    /// it is the only one.
    pub(crate) async fn of_all<T: DeserializeOwned>(
        &self,
        nodes: &[NodeInfo],
        path: &str,
    ) -> Outcome<Vec<T>> {
        let lists = join_all(nodes.iter().map(|node| self.get(node.admin_addr, path))).await;
        merge(nodes, lists, &self.out)
    }

    /// The same for a list that comes line by line.
    pub(crate) async fn lines_of_all<T: DeserializeOwned>(
        &self,
        nodes: &[NodeInfo],
        path: &str,
    ) -> Outcome<Vec<Line<T>>> {
        let lists = nodes
            .iter()
            .map(|node| self.lines(&node.id, node.admin_addr, path));
        merge(nodes, join_all(lists).await, &self.out)
    }

    /// All lines that one node has now.
    pub(crate) async fn lines<T: DeserializeOwned>(
        &self,
        node: &str,
        admin: SocketAddr,
        path: &str,
    ) -> Outcome<Vec<Line<T>>> {
        let mut lines = Vec::new();
        let take = |line| {
            lines.push(line);
            Ok(())
        };
        self.follow_one(node, admin, path, take).await?;
        Ok(lines)
    }

    /// Hands over the lines of one node as they come; ends with them, or when one is not taken.
    pub(crate) async fn follow_one<T: DeserializeOwned>(
        &self,
        node: &str,
        admin: SocketAddr,
        path: &str,
        mut take: impl FnMut(Line<T>) -> Outcome,
    ) -> Outcome {
        let (sender, mut receiver) = mpsc::channel(LINES_WAITING_MAX);
        let mut place = Place::default();
        let reading = self.read_lines(node, admin, path, sender, &mut place);
        let taking = async {
            while let Some(line) = receiver.recv().await {
                take(line)?;
            }
            Ok::<(), Failure>(())
        };
        try_join(reading, taking).await.map(|_| ())
    }

    /// Hands over the lines of the node that was named, or of all that are there, as they come; also those of nodes
    /// that join, or start again under that name, later. A node whose lines ended is asked again as long as it is
    /// listed, and goes on where it was. Ends when a node's lines end that was named by its id, and when neither
    /// control nor a node is left to listen to.
    pub(crate) async fn follow<T: DeserializeOwned>(
        &self,
        on: Option<&str>,
        path: &str,
        mut take: impl FnMut(Line<T>) -> Outcome,
    ) -> Outcome {
        let mut there = self.chosen(on).await?;
        if let [node] = &there[..]
            && on.is_some_and(|on| on == node.id)
        {
            return self.follow_one(&node.id, node.admin_addr, path, take).await;
        }
        let (sender, mut receiver) = mpsc::channel(LINES_WAITING_MAX);
        let mut readers = FuturesUnordered::new();
        let mut reading = BTreeSet::new();
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        let mut wanted = there.clone();
        let looking = self.look_again(on);
        tokio::pin!(looking);
        loop {
            for node in wanted.drain(..) {
                if reading.insert(node.id.clone()) {
                    let place = places.remove(&node.id).unwrap_or_default();
                    readers.push(self.read_of(node, path, sender.clone(), place));
                }
            }
            tokio::select! {
                biased;
                Some(line) = receiver.recv() => take(line)?,
                Some((node, mut place, read)) = readers.next() => {
                    // What it has sent before its end.
                    while let Ok(line) = receiver.try_recv() {
                        take(line)?;
                    }
                    if !place.lost {
                        let why = match read {
                            Err(Failure::Letter(letter)) => format!(": {}", letter.message),
                            _ => String::new(),
                        };
                        self.out.say(format_args!("no more lines from {node}{why}"));
                        place.lost = true;
                    }
                    reading.remove(&node);
                    places.insert(node, place);
                }
                listed = &mut looking => {
                    looking.set(self.look_again(on));
                    match listed {
                        Ok(nodes) => there = nodes,
                        Err(failure) if readers.is_empty() => return Err(failure),
                        // Control is asked again; what is followed does not depend on it.
                        Err(_) => {}
                    }
                    wanted.clone_from(&there);
                }
            }
        }
    }

    /// After a while, the nodes that are there, or the one that has this name.
    async fn look_again(&self, name: Option<&str>) -> Outcome<Vec<NodeInfo>> {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut nodes = self.listed().await?;
        nodes.retain(|node| node.state.is_present() && name.is_none_or(|name| name == node.name));
        Ok(nodes)
    }

    /// Reads the lines of one node from a place on; its id, how far that went, and how it ended.
    async fn read_of<T: DeserializeOwned>(
        &self,
        node: NodeInfo,
        path: &str,
        to: mpsc::Sender<Line<T>>,
        mut place: Place,
    ) -> (String, Place, Outcome) {
        // Another one may answer where it was, and its lines have numbers of their own.
        let read = if place.lost && !self.answers(&node).await {
            Ok(())
        } else {
            self.read_lines(&node.id, node.admin_addr, path, to, &mut place)
                .await
        };
        (node.id, place, read)
    }

    async fn read_lines<T: DeserializeOwned>(
        &self,
        node: &str,
        admin: SocketAddr,
        path: &str,
        to: mpsc::Sender<Line<T>>,
        place: &mut Place,
    ) -> Outcome {
        let response = checked(Whom::Node, self.to_node(Method::GET, admin, path)).await?;
        let mut at = 0;
        let mut body = response.bytes_stream();
        let mut rest = Vec::new();
        while let Some(part) = body.next().await {
            let part: Bytes = part.map_err(|error| {
                Failure::new("E0012", format!("{node}: the connection was lost"))
                    .detail(cause(&plain(&error)))
                    .next("tidelock nodes", "who is there, as control knows it")
            })?;
            place.lost = false;
            rest.extend_from_slice(&part);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
                if rest.len() > LINE_BYTES_MAX {
                    return Err(Failure::new(
                        "E0001",
                        format!("{node}: a line without an end"),
                    ));
                }
                continue;
            };
            for line in rest[..end].split(|byte| *byte == b'\n') {
                if let Some(line) = place.news(&mut at, Line::parse(node, line))
                    && to.send(line).await.is_err()
                {
                    return Ok(());
                }
            }
            rest.drain(..=end);
        }
        Ok(())
    }

    fn to_control(&self, method: Method, path: &str) -> RequestBuilder {
        self.control
            .request(method, format!("https://{}{path}", self.address))
            .timeout(WORK_WITHIN)
    }

    fn to_node(&self, method: Method, admin: SocketAddr, path: &str) -> RequestBuilder {
        self.node.request(method, format!("https://{admin}{path}"))
    }

    async fn ask<T: DeserializeOwned>(&self, whom: Whom, request: RequestBuilder) -> Outcome<T> {
        let response = checked(whom, request).await?;
        let from = response.url().authority().to_owned();
        response.json().await.map_err(|error| {
            let message = format!("{from}: the answer was not understood");
            Failure::new("E0001", message).detail(plain(&error))
        })
    }
}

/// A pid as people type it.
pub(crate) fn parse_pid(text: &str) -> Outcome<Pid> {
    text.parse().map_err(|_| {
        Failure::new("E0002", format!("{text}: this is not a pid"))
            .detail("A pid looks like n3.42.")
            .next("tidelock ps", "what runs")
    })
}

/// A process that never was, or has ended, the way the user typed it.
pub(crate) fn no_process(typed: &str) -> Failure {
    Failure::new("E0020", format!("{typed}: there is no such process"))
        .next("tidelock ps", "what runs")
}

/// Nobody answers where control should be.
pub(crate) fn no_control(address: &str) -> Failure {
    let message =
        format!("control plane {address} cannot be reached; start it with: tidelock control");
    Failure::new("E0011", message).next(
        "tidelock control --state-dir DIR",
        "on its machine, with the directory that it had",
    )
}

/// Whole seconds, as the servers take them; part of one counts as one.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    let part = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(part)
}

/// Sends the request; an answer that is none becomes a letter.
async fn checked(whom: Whom, request: RequestBuilder) -> Outcome<Response> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| Failure::new("E0001", plain(&error)))?;
    let from = request.url().authority().to_owned();
    let response = client
        .execute(request)
        .await
        .map_err(|error| unreachable_server(whom, &from, &error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    match response.json::<ErrorBody>().await {
        Ok(body) => {
            let mut failure = Failure::new(&body.code, &body.message);
            for command in body.next.iter().take(2) {
                failure = failure.next(command, "");
            }
            Err(failure)
        }
        Err(_) if status == StatusCode::NOT_FOUND => Err(Failure::new(
            "E1005",
            format!("{from}: there is no such thing"),
        )),
        Err(_) => Err(Failure::new("E0001", format!("{from} answered {status}"))),
    }
}

fn unreachable_server(whom: Whom, from: &str, error: &reqwest::Error) -> Failure {
    let why = plain(error);
    let words = cause(&why);
    if error.is_timeout() {
        return Failure::new("E0040", format!("{from} did not answer in time"));
    }
    if why.contains("certificate") {
        return Failure::new(
            "E0013",
            format!("{from}: the credentials were not accepted"),
        )
        .detail(words);
    }
    match whom {
        Whom::Control => no_control(from).detail(words),
        Whom::Node => Failure::new("E0012", format!("the node at {from} cannot be reached"))
            .detail(words)
            .next("tidelock nodes", "who is there, as control knows it"),
    }
}

/// The last of several causes, which is the one that people can do something about.
fn cause(why: &str) -> &str {
    // rustls's words for it are an address of its manual.
    if why.contains("close_notify") {
        return "the connection ended";
    }
    why.rsplit(": ").next().unwrap_or(why)
}

/// Whether control has not answered at all.
fn is_silence(letter: &Letter) -> bool {
    ["E0011", "E0040"].contains(&letter.code.as_str())
}

/// Where a node was, another one answers.
fn another(node: &NodeInfo, there: &NodeStatus) -> Failure {
    let message = format!(
        "{}: another node answers at {} now: {} ({})",
        node.id, node.admin_addr, there.id, there.name
    );
    Failure::new("E0012", message)
        .detail(format_args!(
            "{} ({}) was there when control told of it.",
            node.id, node.name
        ))
        .next("tidelock nodes --all", "who is here and who was")
}

/// What was typed is the id of `one` and the name of `other`.
fn two_meanings(typed: &str, one: &NodeInfo, other: &NodeInfo) -> Failure {
    let message = format!("{typed}: one node has this id, and another one this name");
    Failure::new("E0021", message)
        .detail(format_args!(
            "{} is the node called {}; the node called {typed} is {}.",
            one.id, one.name, other.id
        ))
        .next("tidelock nodes --all", "who is here and who was")
}

fn merge<T>(nodes: &[NodeInfo], lists: Vec<Outcome<Vec<T>>>, out: &Output) -> Outcome<Vec<T>> {
    let mut all = Vec::new();
    for (node, list) in nodes.iter().zip(lists) {
        match list {
            Ok(list) => all.extend(list),
            Err(failure) if nodes.len() == 1 => return Err(failure),
            Err(_) => out.say(format_args!("{} does not answer; it is left out", node.id)),
        }
    }
    Ok(all)
}

/// `TIDELOCK_CONTEXT` is read by the argument parser; this is what is left: the `dev` that is the default, else
/// what a control plane of this user keeps that was not told where.
fn default_context() -> Option<PathBuf> {
    if let Some(dir) = env::var_os("TIDELOCK_CONTEXT").filter(|value| !value.is_empty()) {
        return Some(PathBuf::from(dir));
    }
    let state = user_state_dir()?;
    [state.join("current"), state.join("control/operator")]
        .into_iter()
        .find(|dir| dir.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_cut_to_nothing() {
        for (ms, seconds) in [(0, 0), (1, 1), (900, 1), (1000, 1), (1001, 2), (30_000, 30)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), seconds, "{ms} ms");
        }
    }

    #[test]
    fn what_is_missing_stands_where_it_was() {
        let line = |second: i64| Line::Item(Timestamp::from_second(second).unwrap());
        let missed = |node: &str| Line::parse(node, br#"{"missed":2}"#).unwrap();
        let mut lines = vec![missed("n1"), line(5), line(9), line(1)];
        lines.extend([missed("n2"), line(7)]);
        let shown: Vec<String> = Line::in_order(lines, |time| *time)
            .into_iter()
            .map(|line| match line {
                Line::Item(time) => time.as_second().to_string(),
                Line::Missed(missed) => missed.to_string(),
            })
            .collect();
        let (one, two) = (
            "n1: 2 lines are missing here",
            "n2: 2 lines are missing here",
        );
        assert_eq!(shown, ["1", one, "5", two, "7", "9"]);
        assert!(Line::<Timestamp>::parse("n1", br#"{"later":2}"#).is_none());
    }

    #[test]
    fn what_was_read_before_is_not_read_again() {
        let item = |number: u64| Some(Line::Item(number));
        let gap = |missed| {
            let node = "n1".to_owned();
            Some(Line::Missed(Missed { node, missed }))
        };
        let mut place = Place::default();
        let mut read = |lines: Vec<Option<Line<u64>>>| -> Vec<String> {
            let mut at = 0;
            let news = lines
                .into_iter()
                .filter_map(|line| place.news(&mut at, line));
            news.map(|line| match line {
                Line::Item(number) => number.to_string(),
                Line::Missed(missed) => format!("-{}", missed.missed),
            })
            .collect()
        };
        assert_eq!(read(vec![gap(2), item(2), None, item(4)]), ["-2", "2", "4"]);
        // The same again, and one more; the ring has moved on; it has moved on beyond what was read.
        assert_eq!(read(vec![gap(2), item(2), None, item(4), item(5)]), ["5"]);
        assert_eq!(read(vec![gap(4), item(4), item(5), item(6)]), ["6"]);
        assert_eq!(read(vec![gap(9), item(9)]), ["-2", "9"]);
        assert_eq!(
            read(vec![gap(u64::MAX), item(1)]),
            [format!("-{}", u64::MAX - 10)]
        );
    }

    #[test]
    fn a_cause_is_in_words() {
        let tls = "error reading a body: peer closed connection without sending TLS close_notify: \
                   https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";
        assert_eq!(cause(tls), "the connection ended");
        assert_eq!(
            cause("tcp connect error: Connection refused"),
            "Connection refused"
        );
    }
}
