//! Which nodes a cluster has, and which of them is meant.
//!
//! Control tells. What it told last is written down beside the credentials, and counts when control does not answer.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    time::Duration,
};

use jiff::Timestamp;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tidelock_control::api::{Members, NodeInfo, NodeState, NodeStatus};
use tidelock_proto::Pid;

use super::{ANSWER_WITHIN, Cluster, no_control, request::Whom};
use crate::cli::{
    failure::{Failure, Letter, Outcome},
    output::{ago, json},
};

/// How long a node may take to answer that control has lost: most such nodes are gone.
const LOST_ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Beside `context.json`: the nodes, as control last told them.
const NODES_FILE: &str = "nodes.json";

/// What [`NODES_FILE`] holds.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    asked_at: Timestamp,
    nodes: Vec<NodeInfo>,
}

impl Cluster {
    /// All nodes that control knows, gone ones included.
    pub(crate) async fn nodes(&self) -> Outcome<Vec<NodeInfo>> {
        let nodes = self.listed().await?;
        // For a later day: a directory that is somebody else's is no failure of this one.
        let _ = self.remember(&nodes);
        Ok(nodes)
    }

    pub(super) async fn listed(&self) -> Outcome<Vec<NodeInfo>> {
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
    pub(super) fn is_remembered(&self) -> bool {
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
    pub(super) async fn answers(&self, node: &NodeInfo) -> bool {
        let request = self.to_node(Method::GET, node.admin_addr, "/v1/status");
        let status: Outcome<NodeStatus> = self
            .ask(Whom::Node, request.timeout(LOST_ANSWER_WITHIN))
            .await;
        status.is_ok_and(|status| status.id == node.id)
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
