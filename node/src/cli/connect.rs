//! A running cluster, for operators: finds the credentials, asks control and nodes over mutual TLS.

mod lines;
mod nodes;
mod request;

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};
use tidelock_certs::{Identity, Role, tls::https_client_config};
use tidelock_control::api::{
    CreateToken, ModuleInfo, ModuleName, NodeInfo, OperatorContext, ProcessInfo, TokenCreated,
    codes,
};
use tidelock_control::modules::check_module_name;
use tidelock_node::config::user_state_dir;
use tidelock_proto::Pid;

use super::{
    failure::{Failure, Outcome, plain},
    output::Output,
};
use request::{Whom, checked};

pub(crate) use lines::Line;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long an ordinary answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long an answer may take that has to fetch and compile a module first.
const WORK_WITHIN: Duration = Duration::from_secs(120);

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
}
