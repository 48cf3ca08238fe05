//! The paths of the admin port.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State as Get},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidelock::{Environ, Environment, ExitReason, Pid, ProcessConfig, SpawnOptions};
use tidelock_certs::{Role, UnixTime};
use tidelock_control::{
    api::{
        Check, Drain, Draining, Ended, EventKind, Health, LinkInfo, NodeStatus, ProcessDetail,
        ProcessInfo, ProcessState, SessionInfo, SpawnProcess, Spawned, codes,
    },
    http::{ApiError, Caller, Json},
};

use super::{Journal, Kept, Subject, journal::time};

/// Items handed to one reader at once.
const BATCH_MAX: usize = 256;
/// Bytes of a name that an operator gives, as many as one that a guest gives. A longer one is refused.
const NAME_BYTES_MAX: usize = 4096;
/// Letters that are not seen, and turn around what stands beside them.
const TURNS: [char; 12] = [
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
    '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];
/// How often a reader's certificate is looked at while there is nothing to tell it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What the handlers share.
#[derive(Clone)]
pub(super) struct State {
    pub(super) subject: Arc<dyn Subject>,
    pub(super) journal: Journal,
    pub(super) started_at: Timestamp,
    /// Held by who spawns under a name, from the look at the name until it is given: of two who ask for
    /// one, one gets it.
    pub(super) naming: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Follow {
    #[serde(default)]
    follow: bool,
    /// Of `logs` alone: the lines of those whose output is kept apart.
    #[serde(default)]
    apart: bool,
}

#[derive(Deserialize)]
struct AtLeast {
    at_least: Option<usize>,
}

#[derive(Deserialize)]
struct Knowing {
    nodes: Option<usize>,
}

/// All paths; `/v1` for operators only.
pub(super) fn router(state: State) -> Router {
    let operators = Router::new()
        .route("/status", get(status))
        .route("/processes", get(processes).post(spawn))
        .route("/processes/{pid}", get(process).delete(kill))
        .route("/processes/{pid}/wait", get(wait))
        .route("/sessions", get(sessions))
        .route("/logs", get(logs))
        .route("/events", get(events))
        .route("/drain", post(drain))
        .layer(middleware::from_fn(operators_only));
    Router::new()
        .nest("/v1", operators)
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn operators_only(caller: Caller, request: Request, next: Next) -> Response {
    match caller.require(&[Role::Operator]) {
        Ok(_) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

// ---- processes ---------------------------------------------------------------------------------

/// Everybody here; with `name`, whoever is registered under it.
async fn processes(Get(state): Get<State>, Query(query): Query<Named>) -> Json<Vec<ProcessInfo>> {
    let environment = state.subject.environment();
    let mut all: Vec<ProcessInfo> = if let Some(name) = query.name {
        named(environment, &name)
    } else {
        let mut names = environment.registry().names_of(environment.node().0);
        let all = environment.processes().into_iter();
        all.map(|process| {
            let name = names.remove(&(process.environ, process.pid.raw()));
            info(&process, name)
        })
        .collect()
    };
    all.sort_by_key(|process| process.pid.parse::<Pid>().map_or(0, Pid::raw));
    Json(all)
}

async fn process(
    Get(state): Get<State>,
    Path(pid): Path<String>,
) -> Result<Json<ProcessDetail>, ApiError> {
    let pid = parse(&pid)?;
    let environment = state.subject.environment();
    match environment.info(pid) {
        Some(process) => Ok(Json(detail(&state, &process))),
        None => match environment.end_of(pid) {
            Some(reason) => Ok(Json(remembered(&state, pid, &reason))),
            None => Err(no_process(pid)),
        },
    }
}

async fn wait(Get(state): Get<State>, Path(pid): Path<String>) -> Result<Json<Ended>, ApiError> {
    let pid = parse(&pid)?;
    match state.subject.environment().wait(pid).await {
        ExitReason::NoProcess => Err(no_process(pid)),
        reason => Ok(Json(Ended {
            pid: pid.to_string(),
            exit_code: reason.exit_code(),
            own: matches!(reason, ExitReason::Normal | ExitReason::Exit(_)),
            reason: reason.to_string(),
        })),
    }
}

async fn kill(Get(state): Get<State>, Path(pid): Path<String>) -> Result<StatusCode, ApiError> {
    let pid = parse(&pid)?;
    let environment = state.subject.environment();
    if !environment.exists(pid) {
        return Err(no_process(pid));
    }
    environment.kill(pid, None);
    // Answered once it is true: whoever asks next does not find it any more.
    environment.wait(pid).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn spawn(
    Get(state): Get<State>,
    Json(request): Json<SpawnProcess>,
) -> Result<Json<Spawned>, ApiError> {
    if state.subject.is_draining() {
        let message = "this node is draining and takes no new work";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            codes::DRAINING,
            message,
        ));
    }
    if let Some(name) = &request.name {
        must_be_a_name(name)?;
    }
    let environment = state.subject.environment();
    for dir in &request.preopens {
        let about = tokio::fs::metadata(dir).await;
        if !about.is_ok_and(|about| about.is_dir()) {
            let node = environment.node();
            return Err(refused(format!(
                "{dir}: there is no such directory on {node}"
            )));
        }
    }
    let module = state.subject.module(&request.module).await?;
    let entry = if request.entry.is_empty() {
        "_start"
    } else {
        &request.entry
    };
    module.check_entry(entry, &[]).map_err(refused)?;
    environment.modules().keep(&module);
    let mut args = vec![request.program.unwrap_or(request.module)];
    args.extend(request.args);
    let config = ProcessConfig {
        args,
        env: request.env.into_iter().collect(),
        preopens: request.preopens,
        ..ProcessConfig::default()
    };
    let mut options = SpawnOptions::default();
    options.config = Arc::new(config);
    let environ = options.environ;
    let mut naming = None;
    if let Some(name) = &request.name {
        naming = Some(state.naming.lock().await);
        must_be_free(environment, environ, name).await?;
    }
    let start = || environment.spawn_wasm(&module, entry, Vec::new(), options);
    let pid = match request.apart {
        true => state.journal.start_apart(start),
        false => start(),
    };
    let pid = pid.map_err(refused)?;
    if let Some(name) = request.name {
        let registry = environment.registry();
        if !registry.put(environ, &name, pid.node().0, pid.raw()) {
            environment.kill(pid, None);
            return Err(refused("there is no room for more names"));
        }
    }
    drop(naming);
    Ok(Json(Spawned {
        pid: pid.to_string(),
    }))
}

/// Refuses a name that people could not type, or would take for something else.
fn must_be_a_name(name: &str) -> Result<(), ApiError> {
    let unseen = |letter: char| letter.is_control() || TURNS.contains(&letter);
    let why = if name.is_empty() || name.len() > NAME_BYTES_MAX {
        format!("a name has 1 to {NAME_BYTES_MAX} bytes")
    } else if name.contains(unseen) {
        format!("{name:?}: a name has no control characters")
    } else if name.contains('@') {
        format!("{name}: a name has no @, which stands before a node")
    } else if name.parse::<Pid>().is_ok() {
        format!("{name}: this is a pid, and no name")
    } else {
        return Ok(());
    };
    Err(ApiError::bad_request(why))
}

/// Refuses a name that a living process has.
async fn must_be_free(
    environment: &Environment,
    environ: Environ,
    name: &str,
) -> Result<(), ApiError> {
    let holder = environment.registry().find(environ, name);
    let Some(holder) = holder.and_then(|(_, raw)| Pid::from_raw(raw)) else {
        return Ok(());
    };
    let lives = if holder.node() == environment.node() {
        environment.exists(holder)
    } else if let Some(remote) = environment.remote() {
        remote.exists(holder).await
    } else {
        false
    };
    if lives {
        let why = refused(format!("{name}: {holder} has this name"));
        return Err(why.next(format!("tidelock show {holder}")));
    }
    Ok(())
}

/// Who lives here and is registered under `name`, of each tenant.
fn named(environment: &Environment, name: &str) -> Vec<ProcessInfo> {
    let holders = environment.registry().holders(name).into_iter();
    let living = holders.filter_map(|(environ, (node, raw))| {
        let pid = Pid::from_raw(raw)?;
        let is_here = node == environment.node().0 && pid.node().0 == node;
        let process = is_here.then(|| environment.info(pid)).flatten()?;
        (process.environ == environ).then(|| info(&process, Some(name.to_owned())))
    });
    living.collect()
}

fn info(process: &tidelock::ProcessInfo, name: Option<String>) -> ProcessInfo {
    ProcessInfo {
        pid: process.pid.to_string(),
        name,
        module: process.module.map(|hash| hash.to_string()),
        entry: process.name.clone(),
        state: if process.parked {
            ProcessState::Parked
        } else if process.waiting {
            ProcessState::Waiting
        } else {
            ProcessState::Running
        },
        hibernating: process.hibernating,
        queued: process.queued as u64,
        queued_bytes: process.queued_bytes as u64,
        memory_bytes: process.memory_bytes as u64,
        links: process.links.len() as u64,
        monitors: process.monitors.len() as u64,
        parent: process.parent.map(|parent| parent.to_string()),
        started_at: Some(time(process.started_at)),
    }
}

fn detail(state: &State, process: &tidelock::ProcessInfo) -> ProcessDetail {
    let environment = state.subject.environment();
    let limits = environment.limits();
    let pid = process.pid;
    let name = environment
        .registry()
        .name_of(process.environ, pid.node().0, pid.raw());
    let names = |pids: &[Pid]| pids.iter().map(Pid::to_string).collect();
    ProcessDetail {
        info: info(process, name),
        linked: process
            .links
            .iter()
            .map(|pid| LinkInfo {
                pid: pid.to_string(),
            })
            .collect(),
        monitoring: names(&process.monitors),
        monitored_by: names(&process.watchers),
        limits: BTreeMap::from([
            ("mailbox_len_max".to_owned(), limits.mailbox_len_max as u64),
            (
                "mailbox_bytes_max".to_owned(),
                limits.mailbox_bytes_max as u64,
            ),
            (
                "message_bytes_max".to_owned(),
                limits.message_bytes_max as u64,
            ),
        ]),
        messages_in: Some(process.received),
        die_when_link_dies: Some(!process.traps_exits),
        reason: None,
        ended_at: None,
    }
}

/// What is still known of a process that has ended: its reason, and its beginning and end if the events have
/// them.
fn remembered(state: &State, pid: Pid, reason: &ExitReason) -> ProcessDetail {
    let (began, ended) = state.journal.life_of(pid);
    let known = began.as_ref().or(ended.as_ref());
    let (module, entry) = match known {
        Some(event) => (event.module.clone(), event.entry.clone()),
        None => (None, None),
    };
    ProcessDetail {
        info: ProcessInfo {
            pid: pid.to_string(),
            name: None,
            module,
            entry: entry.unwrap_or_default(),
            state: ProcessState::Ended,
            hibernating: false,
            queued: 0,
            queued_bytes: 0,
            memory_bytes: 0,
            links: 0,
            monitors: 0,
            parent: began.as_ref().and_then(|event| event.peer.clone()),
            started_at: began.map(|event| event.time),
        },
        linked: Vec::new(),
        monitoring: Vec::new(),
        monitored_by: Vec::new(),
        limits: BTreeMap::new(),
        messages_in: None,
        die_when_link_dies: None,
        reason: Some(reason.to_string()),
        ended_at: ended.map(|event| event.time),
    }
}

fn parse(pid: &str) -> Result<Pid, ApiError> {
    pid.parse()
        .map_err(|_| ApiError::bad_request(format!("{pid:?} is not a pid such as n3.42")))
}

fn no_process(pid: Pid) -> ApiError {
    let message = format!("{pid}: there is no such process");
    ApiError::new(StatusCode::NOT_FOUND, codes::NO_PROCESS, message)
}

fn refused(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, codes::SPAWN_REFUSED, why.to_string())
}

// ---- what happens ------------------------------------------------------------------------------

async fn logs(Get(state): Get<State>, caller: Caller, Query(query): Query<Follow>) -> Response {
    let kept = match query.apart {
        true => state.journal.apart,
        false => state.journal.lines,
    };
    lines(kept, Clone::clone, query.follow, caller)
}

async fn events(Get(state): Get<State>, caller: Caller, Query(query): Query<Follow>) -> Response {
    let journal = state.journal;
    let kept = journal.events.clone();
    lines(
        kept,
        move |noted: &_| journal.told(noted),
        query.follow,
        caller,
    )
}

/// Everything that is kept, one JSON document per line, and then, if asked for, all that comes until the
/// reader's certificate runs out.
fn lines<T, Told>(
    kept: Kept<T>,
    told: impl Fn(&T) -> Told + Clone + Send + 'static,
    follow: bool,
    caller: Caller,
) -> Response
where
    T: Clone + Send + 'static,
    Told: Serialize,
{
    let until = match caller {
        Caller::Known { not_after, .. } => not_after,
        Caller::Nobody => UnixTime::now(),
    };
    let body = stream::unfold((kept, told, 0), move |(kept, told, from)| async move {
        loop {
            if UnixTime::now() > until {
                return None;
            }
            let (missed, items, next) = kept.since(from, BATCH_MAX);
            if items.is_empty() {
                if !follow {
                    return None;
                }
                let left_s = until.as_secs().saturating_sub(UnixTime::now().as_secs());
                let left = Duration::from_secs(left_s.saturating_add(1)).min(LOOK_AGAIN);
                let _: Result<(), _> = tokio::time::timeout(left, kept.wait(from)).await;
                continue;
            }
            let mut text = String::new();
            if missed > 0 {
                let _ = writeln!(text, "{{\"missed\":{missed}}}");
            }
            for item in &items {
                text.push_str(&serde_json::to_string(&told(item)).expect("plain data serialises"));
                text.push('\n');
            }
            return Some((text, (kept, told, next)));
        }
    });
    let body = body.map(|text| Ok::<_, Infallible>(Bytes::from(text)));
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(body),
    )
        .into_response()
}

// ---- the node itself ---------------------------------------------------------------------------

/// What the node says of itself; with `nodes`, answered once it knows so many.
async fn status(Get(state): Get<State>, Query(query): Query<Knowing>) -> Json<NodeStatus> {
    let subject = &state.subject;
    let nodes = query.nodes.unwrap_or(0);
    until(&state, || subject.nodes() >= nodes).await;
    let identity = subject.identity();
    Json(NodeStatus {
        id: subject.environment().node().to_string(),
        name: subject.name().to_owned(),
        cluster: Some(identity.name().cluster.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: state.started_at,
        processes: subject.environment().counters().alive,
        memory_bytes: memory(subject.as_ref()),
        sessions: subject.sessions().len() as u64,
        nodes: subject.nodes() as u64,
        draining: subject.is_draining(),
        expires_at: expiry(subject.as_ref()),
    })
}

/// All sessions; with `at_least`, answered once there are so many.
async fn sessions(Get(state): Get<State>, Query(query): Query<AtLeast>) -> Json<Vec<SessionInfo>> {
    let least = query.at_least.unwrap_or(0);
    until(&state, || state.subject.sessions().len() >= least).await;
    Json(state.subject.sessions())
}

/// Waits until the node's peers are as asked for, or the node ends.
async fn until(state: &State, done: impl Fn() -> bool) {
    let mut changed = state.subject.peers_changed();
    loop {
        changed.mark_unchanged();
        if done() || changed.changed().await.is_err() {
            return;
        }
    }
}

async fn drain(Get(state): Get<State>, Json(request): Json<Drain>) -> Json<Draining> {
    state.journal.record(EventKind::Draining, None, None);
    state
        .subject
        .drain(request.timeout_s.map(Duration::from_secs));
    Json(Draining {
        remaining: state.subject.environment().counters().alive,
    })
}

async fn livez() -> Response {
    // That this is answered is the check.
    health(vec![Check {
        name: "loop".to_owned(),
        ok: true,
        detail: "turns".to_owned(),
    }])
}

async fn readyz(Get(state): Get<State>) -> Response {
    let subject = state.subject.as_ref();
    let check = |name: &str, ok, detail: String| Check {
        name: name.to_owned(),
        ok,
        detail,
    };
    let expires_at = expiry(subject);
    health(vec![
        check(
            "joined",
            true,
            format!("as {}", subject.environment().node()),
        ),
        check(
            "certificate",
            expires_at.is_some_and(|at| at > Timestamp::now()),
            expires_at.map_or_else(|| "none".to_owned(), |at| format!("until {at}")),
        ),
        check(
            "draining",
            !subject.is_draining(),
            if subject.is_draining() { "yes" } else { "no" }.to_owned(),
        ),
    ])
}

fn health(checks: Vec<Check>) -> Response {
    let ok = checks.iter().all(|check| check.ok);
    let status = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Health { ok, checks })).into_response()
}

fn expiry(subject: &dyn Subject) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(subject.identity().not_after().as_secs()).ok()?).ok()
}

/// Linear memory of all processes.
fn memory(subject: &dyn Subject) -> u64 {
    let processes = subject.environment().processes();
    processes
        .iter()
        .map(|process| process.memory_bytes as u64)
        .sum()
}

/// OpenMetrics text. Base units; a pid is never a label.
async fn metrics(Get(state): Get<State>) -> Response {
    let subject = state.subject.as_ref();
    let counters = subject.environment().counters();
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        let _ = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {help}");
        let suffix = if kind == "counter" { "_total" } else { "" };
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        }
    };
    let plain = |value: f64| vec![(String::new(), value)];
    family(
        "tidelock_processes",
        "gauge",
        "Processes alive.",
        &plain(counters.alive as f64),
    );
    family(
        "tidelock_hibernating",
        "gauge",
        "Guests that have waited for long, with their memory packed.",
        &plain(counters.hibernating as f64),
    );
    family(
        "tidelock_spawns",
        "counter",
        "Processes made.",
        &plain(counters.spawned as f64),
    );
    let exits = [
        (
            "{reason=\"normal\"}".to_owned(),
            counters.ended_normally as f64,
        ),
        (
            "{reason=\"other\"}".to_owned(),
            counters.ended_abnormally as f64,
        ),
    ];
    family("tidelock_exits", "counter", "Processes ended.", &exits);

    let memory = plain(memory(subject) as f64);
    family(
        "tidelock_memory_bytes",
        "gauge",
        "Linear memory of guests.",
        &memory,
    );

    family(
        "tidelock_tasks",
        "gauge",
        "Tasks of the daemon itself and of its processes.",
        &plain(subject.tasks() as f64),
    );

    let sessions = subject.sessions();
    let per_peer = |value: &dyn Fn(&SessionInfo) -> f64| -> Vec<(String, f64)> {
        sessions
            .iter()
            .map(|session| (format!("{{peer=\"{}\"}}", session.peer), value(session)))
            .collect()
    };
    family(
        "tidelock_sessions",
        "gauge",
        "Sessions open.",
        &plain(sessions.len() as f64),
    );
    let rtt = per_peer(&|session| session.rtt_ms / 1000.0);
    family(
        "tidelock_session_rtt_seconds",
        "gauge",
        "Round-trip time.",
        &rtt,
    );
    let backlog = per_peer(&|session| session.backlog_bytes as f64);
    family(
        "tidelock_session_backlog_bytes",
        "gauge",
        "Bytes not taken yet.",
        &backlog,
    );
    let left = expiry(subject).map_or(0, |at| at.as_second() - now_s());
    let expiry = plain(left as f64);
    family(
        "tidelock_certificate_expiry_seconds",
        "gauge",
        "Until the certificate ends.",
        &expiry,
    );
    text.push_str("# EOF\n");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn now_s() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelock_certs::PeerName;

    #[tokio::test]
    async fn following_ends_with_the_readers_certificate() {
        let kept = Kept::new(3);
        kept.extend(["a"]);
        let read = async |left_s: i64| {
            let end_s = UnixTime::now().as_secs().saturating_add_signed(left_s);
            let caller = Caller::Known {
                peer: PeerName {
                    cluster: "sea".to_owned(),
                    role: Role::Operator,
                    name: "ann".to_owned(),
                },
                key: [1; 32],
                not_after: UnixTime::since_unix_epoch(Duration::from_secs(end_s)),
            };
            let body = lines(kept.clone(), Clone::clone, true, caller).into_body();
            // As long as a certificate is good, whoever follows is not told an end.
            tokio::time::timeout(Duration::from_millis(100), axum::body::to_bytes(body, 100)).await
        };
        assert!(read(3600).await.is_err());
        let told = read(-1).await.expect("it ends").expect("all of it");
        assert!(told.is_empty());
    }
}
