//! A running cluster, for operators: finds the credentials, asks control and nodes over mutual TLS.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use tidelock_certs::{Identity, Role, tls::https_client_config};
use tidelock_control::api::{
    CreateToken, ErrorBody, Members, ModuleInfo, NodeInfo, NodeState, OperatorContext,
    TokenCreated, codes,
};
use tidelock_node::config::user_state_dir;
use tidelock_proto::Pid;
use tokio::sync::mpsc;

use super::{
    failure::{Failure, Outcome, plain},
    output::Output,
};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long an ordinary answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long an answer may take that has to fetch and compile a module first.
const WORK_WITHIN: Duration = Duration::from_secs(120);

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
}

impl Cluster {
    /// Reads the credentials of `dir`, or of the place that is the default. Connects to nobody yet.
    pub(crate) fn open(dir: Option<&Path>) -> Outcome<Self> {
        let chosen = dir.map(PathBuf::from).or_else(default_context);
        let Some(dir) = chosen.filter(|dir| dir.is_dir()) else {
            let message = match dir {
                Some(dir) => format!("{}: there are no credentials here", dir.display()),
                None => "no cluster was chosen and none is running as the default".to_owned(),
            };
            return Err(Failure::new("E0010", message)
                .next("tidelock dev", "starts a cluster on this machine"));
        };
        // The control plane may be given its state directory as well as the folder in it.
        let dir = if dir.join("operator").is_dir() {
            dir.join("operator")
        } else {
            dir
        };
        let file = dir.join("context.json");
        let text = std::fs::read_to_string(&file).map_err(|error| Failure::file(&file, &error))?;
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
        })
    }

    /// Host and port of the control plane.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// All nodes that control knows, gone ones included.
    pub(crate) async fn nodes(&self) -> Outcome<Vec<NodeInfo>> {
        let request = self.to_control(Method::GET, "/v1/nodes");
        let members: Members = self.ask(Whom::Control, request).await?;
        Ok(members.nodes)
    }

    /// The nodes to ask: the one that was named, or all that are there.
    pub(crate) async fn chosen(&self, name: Option<&str>) -> Outcome<Vec<NodeInfo>> {
        match name {
            Some(name) => Ok(vec![self.node(name).await?]),
            None => {
                let mut nodes = self.nodes().await?;
                nodes.retain(|node| node.state.is_present());
                Ok(nodes)
            }
        }
    }

    /// A node by id or stable name; the latest start if there were several.
    pub(crate) async fn node(&self, name: &str) -> Outcome<NodeInfo> {
        let nodes = self.nodes().await?;
        let found = nodes.iter().rfind(|node| node.id == name).or_else(|| {
            let mut named = nodes.iter().filter(|node| node.name == name);
            let first = named.next();
            named.fold(first, |best, node| {
                if best.is_some_and(|best| best.state.is_present()) {
                    best
                } else {
                    Some(node)
                }
            })
        });
        let next = "tidelock nodes --all";
        match found {
            None => Err(
                Failure::new("E0021", format!("{name}: there is no such node"))
                    .next(next, "who is here and who was"),
            ),
            Some(node) if !node.state.is_present() => {
                let how = match node.state {
                    NodeState::Lost => "was lost",
                    _ => "has left",
                };
                let message = format!("{name}: the node {how}");
                Err(Failure::new("E0012", message)
                    .detail(format_args!(
                        "Last seen {}; its processes are gone for good.",
                        super::output::ago(node.last_seen)
                    ))
                    .next(next, "who is here and who was"))
            }
            Some(node) => Ok(node.clone()),
        }
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

    /// The admin address of the node that a process lives on.
    pub(crate) async fn node_of(&self, pid: Pid) -> Outcome<SocketAddr> {
        let id = pid.node().to_string();
        let node = self.node(&id).await.map_err(|failure| match failure {
            Failure::Letter(mut letter) if letter.code == "E0021" => {
                letter.code = "E0020".to_owned();
                letter.message = format!("{pid}: there is no such process, and no node {id}");
                Failure::Letter(letter)
            }
            other => other,
        })?;
        Ok(node.admin_addr)
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
        let request = self.to_control(Method::GET, "/v1/modules");
        self.ask(Whom::Control, request).await
    }

    /// Gives the cluster a module.
    pub(crate) async fn put_module(&self, name: &str, bytes: Vec<u8>) -> Outcome<ModuleInfo> {
        let request = self
            .to_control(Method::PUT, "/v1/modules")
            .query(&[("name", name)]);
        self.ask(Whom::Control, request.body(bytes)).await
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
        out: &Output,
    ) -> Outcome<Vec<T>> {
        let lists = join_all(nodes.iter().map(|node| self.get(node.admin_addr, path))).await;
        merge(nodes, lists, out)
    }

    /// The same for a list that comes line by line.
    pub(crate) async fn lines_of_all<T: DeserializeOwned>(
        &self,
        nodes: &[NodeInfo],
        path: &str,
        out: &Output,
    ) -> Outcome<Vec<T>> {
        let lists = join_all(nodes.iter().map(|node| self.lines(node.admin_addr, path))).await;
        merge(nodes, lists, out)
    }

    /// All lines that one node has now.
    pub(crate) async fn lines<T: DeserializeOwned>(
        &self,
        admin: SocketAddr,
        path: &str,
    ) -> Outcome<Vec<T>> {
        let (sender, mut receiver) = mpsc::channel(LINES_WAITING_MAX);
        let reading = self.read_lines(admin, path, sender);
        let taking = async {
            let mut lines = Vec::new();
            while let Some(line) = receiver.recv().await {
                lines.push(line);
            }
            lines
        };
        let (read, lines) = tokio::join!(reading, taking);
        read.map(|()| lines)
    }

    /// Hands over the lines of several nodes as they come; ends when no node is left to listen to.
    pub(crate) async fn follow<T: DeserializeOwned>(
        &self,
        nodes: &[NodeInfo],
        path: &str,
        mut take: impl FnMut(T) -> Outcome,
    ) -> Outcome {
        let (sender, mut receiver) = mpsc::channel(LINES_WAITING_MAX);
        let mut readers: FuturesUnordered<_> = nodes
            .iter()
            .map(|node| self.read_lines(node.admin_addr, path, sender.clone()))
            .collect();
        drop(sender);
        let mut last = Ok(());
        loop {
            tokio::select! {
                Some(read) = readers.next() => last = last.and(read),
                line = receiver.recv() => match line {
                    Some(line) => take(line)?,
                    None => return last,
                },
            }
        }
    }

    async fn read_lines<T: DeserializeOwned>(
        &self,
        admin: SocketAddr,
        path: &str,
        to: mpsc::Sender<T>,
    ) -> Outcome {
        let response = checked(Whom::Node, self.to_node(Method::GET, admin, path)).await?;
        let mut body = response.bytes_stream();
        let mut rest = Vec::new();
        while let Some(part) = body.next().await {
            let part: Bytes =
                part.map_err(|error| unreachable_server(Whom::Node, &admin.to_string(), &error))?;
            rest.extend_from_slice(&part);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
                if rest.len() > LINE_BYTES_MAX {
                    return Err(Failure::new(
                        "E0001",
                        format!("{admin}: a line without an end"),
                    ));
                }
                continue;
            };
            for line in rest[..end].split(|byte| *byte == b'\n') {
                // A kind of line that a newer node sends is not for us.
                if let Ok(line) = serde_json::from_slice(line)
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
    let words = why.rsplit(": ").next().unwrap_or(&why);
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

/// `TIDELOCK_CONTEXT` is read by the argument parser; this is what is left.
fn default_context() -> Option<PathBuf> {
    env::var_os("TIDELOCK_CONTEXT")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| user_state_dir().map(|dir| dir.join("current")))
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
}
