//! The HTTP contract: types shared by servers, clients, the command line and whoever reads its JSON.
//!
//! Two servers speak it. The control plane (`/v1/nodes`, `/v1/modules`, …) keeps the books of a
//! cluster; each node answers on its admin port about its own processes (`/v1/processes`, …).
//!
//! # Rules
//!
//! * Nodes and processes are named by text, `"n3"` and `"n3.42"`, because a JSON number cannot hold
//!   every pid. The text is what `NodeId` and `Pid` print and parse.
//! * Times are RFC 3339 in UTC. Sizes are bytes, durations are named with their unit.
//! * Adding a field is allowed, renaming or removing one never is. Readers ignore fields they do not
//!   know and read unknown kinds of events as [`EventKind::Other`].
//! * A failed request is answered with an [`ErrorBody`], whatever the status.
//!
//! # What this module does not do
//!
//! It checks nothing. Text from a request is unverified until the server that received it has parsed
//! it.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use jiff::Timestamp;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::tags::Tags;

/// Stable codes of the errors that both servers answer with.
///
/// A code names one cause for good; its text may be reworded. `E1…` come from the control plane,
/// `E2…` from a node's admin port. `E0…` are the command line's own; a node answers with one where it
/// meets the same cause.
pub mod codes {
    /// The control plane cannot be reached.
    pub const CONTROL_UNREACHABLE: &str = "E0011";
    /// No such module, or the beginning of a hash that several modules share.
    pub const NO_MODULE: &str = "E0022";
    /// The module cannot run here.
    pub const NOT_RUNNABLE: &str = "E0030";
    /// The request could not be understood: not JSON, a field missing, a value out of range.
    pub const BAD_REQUEST: &str = "E1001";
    /// The join token is wrong, spent or expired. Deliberately one code for all of them.
    pub const TOKEN_REFUSED: &str = "E1002";
    /// The caller's certificate does not carry the role that this request needs.
    pub const NOT_PERMITTED: &str = "E1003";
    /// Too many attempts, or too much under way; the same request may succeed in a moment. Always with status 429.
    pub const TOO_MANY: &str = "E1004";
    /// No such node, module or path.
    pub const NOT_FOUND: &str = "E1005";
    /// The body is larger than the server takes.
    pub const TOO_LARGE: &str = "E1006";
    /// The signing request is malformed, badly signed, or its key is too weak.
    pub const BAD_SIGNING_REQUEST: &str = "E1007";
    /// The node has left, and must join again under a new id; or its name has a later start, and what runs as
    /// the earlier one has to end.
    pub const NODE_GONE: &str = "E1008";
    /// The module's bytes are none, do not have the hash they were sent under, or clash with another module; or
    /// the cluster holds as many bytes of modules as it may, which does not pass.
    pub const MODULE_REFUSED: &str = "E1009";
    /// The server could not store the change, its books are older than the node that asks, or a module's file is
    /// of no use. What was to be changed is there completely or not at all; asking again is harmless, and helps
    /// where the status is 503.
    pub const STORE: &str = "E1010";
    /// A living node with another key has this name.
    pub const NAME_TAKEN: &str = "E1011";
    /// The name has had too many node ids within an hour. Asking again is of no use before the first of them is
    /// an hour old.
    pub const TOO_MANY_IDS: &str = "E1012";
    /// Too many join tokens are open. Asking again is of no use before one of them is used up or has expired.
    pub const TOO_MANY_TOKENS: &str = "E1013";
    /// All node ids of the cluster are used up. Nothing brings one back.
    pub const NO_IDS_LEFT: &str = "E1014";
    /// A rejoin was to follow a start of its name that is not the newest. [`ErrorBody::newest`](super::ErrorBody)
    /// is; whoever is still there may ask again with that.
    pub const LATER_START: &str = "E1015";
    /// Somebody has deployed under the name since this deploy began, which may have been held up on its way. The
    /// module is kept, by its hash alone, and the name is left as it is.
    pub const LATER_DEPLOY: &str = "E1016";
    /// No such process on this node.
    pub const NO_PROCESS: &str = "E2001";
    /// The process could not be started.
    pub const SPAWN_REFUSED: &str = "E2002";
    /// The node is draining and takes no new work.
    pub const DRAINING: &str = "E2003";
}

/// Why a request failed, in words a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One of [`codes`].
    pub code: String,
    /// What happened and why, as one sentence without a full stop.
    pub message: String,
    /// Commands or steps that may help, best first. May be empty.
    #[serde(default)]
    pub next: Vec<String>,
    /// With [`codes::LATER_START`]: the newest start of the name, `"n3"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
}

// ---------------------------------------------------------------------------------------------
// Control plane: joining

/// `POST /v1/tokens`, operators only: makes a join token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateToken {
    /// How long the token can be used.
    pub ttl_s: u64,
    /// How many nodes may join with it; 1 unless said otherwise.
    #[serde(default = "one")]
    pub uses: u32,
}

fn one() -> u32 {
    1
}

/// Answer to [`CreateToken`]. `Debug` hides the token.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The token's text, to be handed to the new node. Shown this once; only its hash is kept.
    pub token: String,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// How many nodes may join with it.
    pub uses: u32,
}

impl fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCreated")
            .field("expires_at", &self.expires_at)
            .field("uses", &self.uses)
            .finish_non_exhaustive()
    }
}

/// `POST /v1/join`, no client certificate: makes the caller a node of the cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The secret part of the join token.
    pub secret: String,
    /// The node's stable name.
    pub name: String,
    /// The signing request (PKCS #10, PEM). Only its public key is used.
    pub csr_pem: String,
    /// Where peers reach the node's data plane (UDP).
    pub addr: SocketAddr,
    /// Where operators reach the node's admin port (TCP).
    pub admin_addr: SocketAddr,
    /// The version of the node's software.
    pub version: String,
    /// What guests find the node by.
    #[serde(default)]
    pub tags: Tags,
}

/// `POST /v1/rejoin`, nodes only: a new start of a node that has joined before.
///
/// The name is that of the caller's certificate; the answer is a [`JoinResponse`].
///
/// Requests may be held up on their way, and be repeated. `start` and `after` keep one of an earlier start from
/// replacing a later one. A request with neither, as nodes of earlier versions send it, counts as a new start
/// whenever it comes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RejoinRequest {
    /// The signing request (PKCS #10, PEM), for the key of the caller's certificate.
    pub csr_pem: String,
    /// Where peers reach the node's data plane (UDP).
    pub addr: SocketAddr,
    /// Where operators reach the node's admin port (TCP).
    pub admin_addr: SocketAddr,
    /// The version of the node's software.
    pub version: String,
    /// What guests find the node by.
    #[serde(default)]
    pub tags: Tags,
    /// Which start asks: 32 hexadecimal digits, made at random for each. If it is listed already, the answer is
    /// for the id that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The newest start of its name that the caller knows of, `"n3"`; `"n0"` if none. Refused with
    /// [`codes::LATER_START`] if control knows of a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Answer to [`JoinRequest`] and [`RejoinRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinResponse {
    /// The id of this start of the node, `"n3"`. Never handed out again.
    pub node_id: String,
    /// The cluster's name, part of every certificate.
    pub cluster: String,
    /// The node's certificate (PEM).
    pub cert_pem: String,
    /// The authority's certificate (PEM).
    pub ca_pem: String,
    /// The start ticket, as lower-case hexadecimal digits.
    pub ticket: String,
    /// How long the node may be silent before it is declared lost.
    pub lease_ms: u64,
    /// Everybody in the cluster at this moment, the new node included.
    pub members: Members,
}

/// `POST /v1/renew`, nodes only: a new certificate and ticket for the same node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewRequest {
    /// The signing request (PKCS #10, PEM), for the key of the caller's certificate.
    pub csr_pem: String,
    /// The node's start ticket, in hexadecimal digits: it says which start asks. One whose name has a later
    /// start gets nothing. Without it nothing tells the starts of a key apart, and the answer is for the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Answer to [`RenewRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewResponse {
    /// The node's new certificate (PEM).
    pub cert_pem: String,
    /// The new start ticket, same node id, as lower-case hexadecimal digits.
    pub ticket: String,
}

// ---------------------------------------------------------------------------------------------
// Control plane: membership

/// What control believes about a node. Advice for placement and for people; only nodes themselves
/// decide that a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Its lease is running.
    Alive,
    /// Alive, but it takes no new work.
    Draining,
    /// Its lease ran out. It is listed as alive again if it is heard of before its name has a later
    /// start.
    Lost,
    /// It said goodbye, was removed by an operator, or a later start of the same name replaced it.
    Left,
}

impl NodeState {
    /// Whether the node counts as present.
    #[must_use]
    pub fn is_present(self) -> bool {
        matches!(self, Self::Alive | Self::Draining)
    }
}

/// One start of one node, as control knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// `"n3"`.
    pub id: String,
    /// The stable name.
    pub name: String,
    /// Data plane address (UDP).
    pub addr: SocketAddr,
    /// Admin port address (TCP).
    pub admin_addr: SocketAddr,
    /// Whether it is there.
    pub state: NodeState,
    /// When it got its id.
    pub joined_at: Timestamp,
    /// When its lease was last renewed.
    pub last_seen: Timestamp,
    /// The version of its software.
    pub version: String,
    /// What guests find it by. Shown of nodes that are present.
    #[serde(default)]
    pub tags: Tags,
}

/// `GET /v1/nodes`: all nodes known, the gone ones included, as of `revision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Grows by one with each change; never reused, not even by a restarted control plane.
    pub revision: u64,
    /// Ordered by id.
    pub nodes: Vec<NodeInfo>,
    /// The keys that an operator has removed, as [`WatchEvent::Change`] tells of them. All there ever
    /// were: whoever has this list needs no earlier one. 64 characters for each removal.
    #[serde(default)]
    pub removed: Vec<String>,
}

/// One line of `GET /v1/watch` (newline-delimited JSON).
///
/// The stream opens with a snapshot. Whoever is told of a change has been told of all earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum WatchEvent {
    /// Everybody, as of the revision. Replaces whatever the reader knew; may come again later, to a
    /// reader that was too slow for single changes.
    Snapshot(Members),
    /// One node joined or changed.
    Change {
        /// The revision that this change made.
        revision: u64,
        /// The node as it is since then.
        node: NodeInfo,
        /// The key that an operator removed with this change, if any: the fingerprint of its public key,
        /// as in its start tickets, in lower-case hexadecimal digits. Whoever holds it is no node any
        /// more, whatever certificate and tickets it has; nodes end its sessions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        removed: Option<String>,
    },
    /// Nothing happened; the connection is alive.
    Heartbeat {
        /// The revision the reader is at.
        revision: u64,
    },
}

/// `PUT /v1/nodes/{id}/lease`, that node only: "I am here".
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The node takes no new work. It cannot be taken back.
    #[serde(default)]
    pub draining: bool,
    /// The node's start ticket, in hexadecimal digits: it shows control that a node which is not in its books
    /// is one of a later state of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Answer to [`LeaseRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseResponse {
    /// How long the lease now runs.
    pub lease_ms: u64,
    /// The membership's revision; a reader of the watch that is behind it may expect news.
    pub revision: u64,
}

/// `context.json` beside an operator's certificate: which cluster it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorContext {
    /// The cluster's name.
    pub cluster: String,
    /// Where its control plane answers, `host:port`.
    pub control: String,
}

/// `GET /v1/cluster`, any role: what this control plane is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// The cluster's name.
    pub cluster: String,
    /// The version of the control plane's software.
    pub version: String,
    /// The membership's revision.
    pub revision: u64,
    /// SHA-256 of the authority's certificate, hexadecimal.
    pub authority_fingerprint: String,
    /// When this control plane was started.
    pub started_at: Timestamp,
}

// ---------------------------------------------------------------------------------------------
// Control plane: modules

/// A module the cluster holds. `PUT /v1/modules?name=…` answers with one, `GET /v1/modules` with all.
///
/// A request to deploy may be held up on its way, and be repeated. With `&after=…`, which is [`ModuleName::deploys`]
/// as it was when the deploy began, it takes no name from a later one: it is refused with [`codes::LATER_DEPLOY`],
/// unless the name stands for these bytes anyway. One without, as earlier versions send it, counts as a new deploy
/// whenever it comes.
///
/// Its JSON has the field `name`, too: the first of the names, or null. It is for readers that know of one
/// name only; nothing here reads it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ModuleInfo {
    /// `"b3:…"`, the hash of the bytes; the module's true name.
    pub hash: String,
    /// The names that stand for it now, in order. One that was deployed again stands for what it was deployed
    /// with then.
    #[serde(default)]
    pub names: Vec<String>,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// When it was first stored.
    pub added_at: Timestamp,
    /// When a name was last made to stand for it. None: never, or before this was kept.
    #[serde(default)]
    pub deployed_at: Option<Timestamp>,
}

impl ModuleInfo {
    /// When it was deployed last, as far as that is known.
    #[must_use]
    pub fn deployed(&self) -> Timestamp {
        self.deployed_at.unwrap_or(self.added_at)
    }
}

impl Serialize for ModuleInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ModuleInfo", 6)?;
        fields.serialize_field("hash", &self.hash)?;
        fields.serialize_field("name", &self.names.first())?;
        fields.serialize_field("names", &self.names)?;
        fields.serialize_field("size_bytes", &self.size_bytes)?;
        fields.serialize_field("added_at", &self.added_at)?;
        fields.serialize_field("deployed_at", &self.deployed_at)?;
        fields.end()
    }
}

/// `GET /v1/module-names/{name}`, operators only: what a deploy under the name is to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleName {
    /// How often the name was made to stand for a module; 0 if it never was, or only before this was counted.
    pub deploys: u64,
}

// ---------------------------------------------------------------------------------------------
// A node's admin port: processes

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It runs, could, or waits for something that is no message: a time, a socket, another process's answer
    /// to a link.
    Running,
    /// It waits for a message, and has looked at all that are in its mailbox.
    Waiting,
    /// It exists and is linked, but has not been started.
    Parked,
    /// It ended; kept for a while for those who ask why.
    Ended,
}

/// One line of `GET /v1/processes`; with `?name=…` only those that are registered under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// `"n3.42"`.
    pub pid: String,
    /// The name it is registered under on its node, if any; of several the first in their order.
    pub name: Option<String>,
    /// The hash of its module (`"b3:…"`): control knows which names stand for it. None for processes of the runtime
    /// itself.
    pub module: Option<String>,
    /// The function it was started with; empty if that is not known any more.
    pub entry: String,
    /// What it is doing.
    pub state: ProcessState,
    /// It has waited for so long that its memory is packed until a message comes.
    #[serde(default)]
    pub hibernating: bool,
    /// Messages in its mailbox. An ended process has no mailbox, memory, links or monitors: 0.
    pub queued: u64,
    /// Bytes in its mailbox, with 64 for each message.
    #[serde(default)]
    pub queued_bytes: u64,
    /// Linear memory it holds.
    pub memory_bytes: u64,
    /// How many processes it is linked to.
    pub links: u64,
    /// How many processes and nodes it monitors.
    pub monitors: u64,
    /// Who spawned it, if a process did.
    pub parent: Option<String>,
    /// When it was created, unless that is not known any more.
    pub started_at: Option<Timestamp>,
}

/// `GET /v1/processes/{pid}`: everything about one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessDetail {
    /// What the list shows, too.
    #[serde(flatten)]
    pub info: ProcessInfo,
    /// Whom it is linked to.
    pub linked: Vec<LinkInfo>,
    /// Whom it monitors: pids, and nodes as `"n3"`.
    pub monitoring: Vec<String>,
    /// Who monitors it.
    pub monitored_by: Vec<String>,
    /// Its limits by name, in the unit that the name ends with.
    pub limits: BTreeMap<String, u64>,
    /// Messages taken in since it started; not kept when it ends.
    pub messages_in: Option<u64>,
    /// Whether a linked process's failure ends it, too; not kept when it ends.
    pub die_when_link_dies: Option<bool>,
    /// Why it ended, if it has.
    pub reason: Option<String>,
    /// When it ended, if it has and that is not forgotten yet.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

/// One link, seen from one of its ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// The other end.
    pub pid: String,
}

/// `POST /v1/processes`: starts a process on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnProcess {
    /// The module's hash (`"b3:…"`), the beginning of it with four digits or more, or the name it was
    /// deployed under.
    pub module: String,
    /// The exported function; `_start` if empty.
    #[serde(default)]
    pub entry: String,
    /// The program's name, its argument number 0; the module's name if absent.
    #[serde(default)]
    pub program: Option<String>,
    /// Command-line arguments, the program's name not included.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Directories of the node's machine that the guest may use; they must be there. It sees them under
    /// the same path; a relative one starts where the node was started.
    #[serde(default)]
    pub preopens: Vec<String>,
    /// A name to register it under: 4096 bytes at the most, without control characters and `@`, and no pid.
    /// Refused while a living process has it.
    #[serde(default)]
    pub name: Option<String>,
    /// Its output is kept apart from that of others: `GET /v1/logs` shows it only with `?apart=true`.
    #[serde(default)]
    pub apart: bool,
}

/// Answer to [`SpawnProcess`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// The new process.
    pub pid: String,
}

/// `GET /v1/processes/{pid}/wait`: answered once the process has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Who ended.
    pub pid: String,
    /// Why, as text.
    pub reason: String,
    /// 0 for a normal end, the guest's own code if it gave one, else what a shell would show: 101 for
    /// a trap, 137 for a kill.
    pub exit_code: i32,
    /// Whether the guest ended by itself: it returned, or gave an exit code.
    pub own: bool,
}

/// What killing a process would do. No node answers this: `tidelock kill --dry-run` follows the links of
/// [`ProcessDetail`] from process to process, over all nodes, and prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlastRadius {
    /// The process asked about.
    pub pid: String,
    /// Who would end, the process itself first.
    pub ends: Vec<String>,
    /// Who would be told and live on: linked to one of those, or monitoring it.
    pub told: Vec<String>,
    /// Who is linked to one of those, on a node that does not answer: they may end, and others with them.
    #[serde(default)]
    pub unknown: Vec<String>,
}

// ---------------------------------------------------------------------------------------------
// A node's admin port: what happens

/// What an [`Event`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A process was created.
    Spawned,
    /// Two processes were linked.
    Linked,
    /// A link was taken away.
    Unlinked,
    /// A process ended.
    Ended,
    /// A session to a node was opened.
    NodeUp,
    /// A session to a node ended without a goodbye.
    NodeLost,
    /// A node said goodbye.
    NodeLeft,
    /// A module arrived and was compiled.
    ModuleLoaded,
    /// This node takes no new work.
    Draining,
    /// A guest or the runtime had something to say.
    Log,
    /// A kind this reader does not know.
    #[serde(other)]
    Other,
}

/// One line of `GET /v1/events` (newline-delimited JSON; `?follow=true` keeps it open).
///
/// Where the node no longer has what would stand there, it sends a line `{"missed":12}` instead: how many lines
/// that were. It comes before the next one that the node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// The node that says so.
    pub node: String,
    /// What happened.
    pub kind: EventKind,
    /// The process it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<String>,
    /// The other process or node involved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The code of a process that was created or ended, if it is a guest: the hash of its module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The function that it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Anything else worth a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Where a guest wrote a line to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of `GET /v1/logs` (newline-delimited JSON; `?follow=true` keeps it open). Lines that are missing
/// are told of as among [`Event`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub time: Timestamp,
    /// Who wrote it.
    pub pid: String,
    /// Where to.
    pub stream: Stream,
    /// The text, without its line end.
    pub line: String,
}

// ---------------------------------------------------------------------------------------------
// A node's admin port: the node itself

/// One line of `GET /v1/sessions`: a peer this node is connected to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The peer, `"n2"`.
    pub peer: String,
    /// The peer's stable name.
    pub name: String,
    /// The address it is reached at.
    pub addr: SocketAddr,
    /// The session's epoch; a later session between the same two nodes has a higher one.
    pub epoch: u64,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The round-trip time as last measured.
    pub rtt_ms: f64,
    /// Bytes that wait to be taken by the peer.
    pub backlog_bytes: u64,
    /// Bytes of signals sent.
    pub sent_bytes: u64,
    /// Bytes of signals received.
    pub received_bytes: u64,
    /// Links held over this session.
    pub links: u64,
    /// When the peer's certificate runs out.
    pub expires_at: Option<Timestamp>,
}

/// `GET /v1/status`: the node in one screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `"n3"`, or `"n0"` for a node without a cluster.
    pub id: String,
    /// The stable name.
    pub name: String,
    /// The cluster's name, if it is part of one.
    pub cluster: Option<String>,
    /// The version of the software.
    pub version: String,
    /// When the node was started.
    pub started_at: Timestamp,
    /// Processes living here.
    pub processes: u64,
    /// Linear memory they hold.
    pub memory_bytes: u64,
    /// Peers connected.
    pub sessions: u64,
    /// Nodes that it takes to be there, itself included.
    #[serde(default)]
    pub nodes: u64,
    /// Whether it refuses new work.
    pub draining: bool,
    /// When its certificate runs out.
    pub expires_at: Option<Timestamp>,
}

/// `GET /livez` and `GET /readyz`: 200 if all is well, 503 if not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether every check passed.
    pub ok: bool,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it was in order.
    pub ok: bool,
    /// What was seen, in a few words.
    pub detail: String,
}

/// `POST /v1/drain`: take no new work, wait for what runs here, then leave the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// How long to wait before the remaining processes are killed; no limit if absent.
    #[serde(default)]
    pub timeout_s: Option<u64>,
}

/// Answer to [`Drain`], given at once; [`NodeStatus`] shows how it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Processes that are still there.
    pub remaining: u64,
}
