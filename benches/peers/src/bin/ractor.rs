//! The rows in ractor 0.16, and for two nodes in ractor_cluster over plain TCP with a cookie.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use peers::{Row, Second, free_port, phase, rate, spread};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use ractor_cluster::{NodeServer, NodeServerMessage, RactorClusterMessage, RactorMessage};
use tokio::sync::mpsc;

/// Under way at once where a row is about throughput.
const WINDOW: usize = 1000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("second") {
        return second().await;
    }
    let row = Row::first()?;
    let values = match (row.name.as_str(), &row.numbers[..]) {
        ("local_spawn_empty", &[count]) => spawns(count).await?,
        ("local_link", &[count]) => links(count).await?,
        ("local_ping", &[count]) => ping(count).await?,
        ("local_fanin", &[senders, count]) => fan_in(senders, count).await?,
        ("local_idle", &[count]) => idle(count).await?,
        ("remote_ping", &[size, count]) => remote_ping(size, count).await?,
        ("remote_oneway", &[size, count]) => remote_one_way(size, count).await?,
        _ => bail!("no row {}", row.text),
    };
    row.print(&values);
    Ok(())
}

type Values = Vec<(&'static str, f64)>;

// ---- one program -------------------------------------------------------------------------------

#[derive(RactorMessage)]
enum Local {
    #[expect(dead_code, reason = "as many bytes as everybody's")]
    Payload([u8; 64]),
    Ball(u64, ActorRef<Local>),
}

/// Counts payload up to a number, passes a ball back, or ends as soon as it runs.
enum Role {
    Child(mpsc::UnboundedSender<()>),
    Failing,
    Counter(u64, mpsc::UnboundedSender<()>),
    Player(mpsc::UnboundedSender<()>),
}

struct One;

impl Actor for One {
    type Msg = Local;
    type State = Role;
    type Arguments = Role;

    async fn pre_start(&self, _: ActorRef<Local>, role: Role) -> Result<Role, ActorProcessingErr> {
        Ok(role)
    }

    async fn post_start(
        &self,
        me: ActorRef<Local>,
        role: &mut Role,
    ) -> Result<(), ActorProcessingErr> {
        match role {
            Role::Child(parent) => {
                parent.send(())?;
                me.stop(None);
                Ok(())
            }
            Role::Failing => Err("told to".into()),
            Role::Counter(..) | Role::Player(_) => Ok(()),
        }
    }

    async fn handle(
        &self,
        me: ActorRef<Local>,
        message: Local,
        role: &mut Role,
    ) -> Result<(), ActorProcessingErr> {
        match (message, role) {
            (Local::Payload(_), Role::Counter(left, done)) => {
                *left -= 1;
                if *left == 0 {
                    done.send(())?;
                }
            }
            (Local::Ball(0, _), Role::Player(done)) => done.send(())?,
            (Local::Ball(left, other), Role::Player(_)) => other.cast(Local::Ball(left - 1, me))?,
            _ => return Err("a message for somebody else".into()),
        }
        Ok(())
    }
}

async fn spawns(count: u64) -> Result<Values> {
    let (parent, mut heard) = mpsc::unbounded_channel();
    let mut ends = VecDeque::new();
    let begun = Instant::now();
    for number in 0..count {
        let (_, end) = One::spawn(None, One, Role::Child(parent.clone())).await?;
        ends.push_back(end);
        if number >= WINDOW as u64 {
            ends.pop_front().context("a window is open")?.await?;
        }
    }
    for end in ends {
        end.await?;
    }
    let values = vec![rate(count, begun)];
    for _ in 0..count {
        heard.recv().await.context("each has run")?;
    }
    Ok(values)
}

/// Is told how its children end.
struct Supervisor;

impl Actor for Supervisor {
    type Msg = Local;
    type State = mpsc::UnboundedSender<()>;
    type Arguments = mpsc::UnboundedSender<()>;

    async fn pre_start(
        &self,
        _: ActorRef<Local>,
        told: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(told)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Local>,
        event: SupervisionEvent,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(event, SupervisionEvent::ActorFailed(..)) {
            told.send(())?;
        }
        Ok(())
    }
}

async fn links(count: u64) -> Result<Values> {
    let (told, mut ends) = mpsc::unbounded_channel();
    let (supervisor, _) = Supervisor::spawn(None, Supervisor, told).await?;
    let begun = Instant::now();
    let mut under_way = 0;
    for _ in 0..count {
        if under_way == WINDOW {
            ends.recv().await.context("the supervisor lives")?;
            under_way -= 1;
        }
        One::spawn_linked(None, One, Role::Failing, supervisor.get_cell()).await?;
        under_way += 1;
    }
    for _ in 0..under_way {
        ends.recv().await.context("the supervisor lives")?;
    }
    Ok(vec![rate(count, begun)])
}

async fn ping(count: u64) -> Result<Values> {
    let (done, mut over) = mpsc::unbounded_channel();
    let (a, _) = One::spawn(None, One, Role::Player(done.clone())).await?;
    let (b, _) = One::spawn(None, One, Role::Player(done)).await?;
    let begun = Instant::now();
    a.cast(Local::Ball(2 * count, b))?;
    over.recv().await.context("the players live")?;
    Ok(vec![rate(count, begun)])
}

async fn fan_in(senders: u64, count: u64) -> Result<Values> {
    let each = count / senders;
    let (done, mut over) = mpsc::unbounded_channel();
    let (sink, _) = One::spawn(None, One, Role::Counter(each * senders, done)).await?;
    let begun = Instant::now();
    for _ in 0..senders {
        let sink = sink.clone();
        tokio::spawn(async move {
            for _ in 0..each {
                sink.cast(Local::Payload([7; 64])).expect("the sink lives");
                tokio::task::consume_budget().await;
            }
        });
    }
    over.recv().await.context("the sink lives")?;
    Ok(vec![rate(each * senders, begun)])
}

async fn idle(count: u64) -> Result<Values> {
    phase("before").await;
    let (done, mut over) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(
            One::spawn(None, One, Role::Counter(1, done.clone()))
                .await?
                .0,
        );
    }
    let values = vec![rate(count, begun), ("alive", count as f64)];
    tokio::time::sleep(Duration::from_millis(500)).await;
    phase("alive").await;
    for one in &all {
        one.cast(Local::Payload([7; 64]))?;
    }
    for _ in 0..count {
        over.recv().await.context("each lives")?;
    }
    Ok(values)
}

// ---- two programs ------------------------------------------------------------------------------

#[derive(RactorClusterMessage)]
enum Remote {
    Payload(Vec<u8>),
    #[rpc]
    Echo(Vec<u8>, RpcReplyPort<Vec<u8>>),
    #[rpc]
    Count(RpcReplyPort<u64>),
}

struct There;

impl Actor for There {
    type Msg = Remote;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Remote>, (): ()) -> Result<u64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<Remote>,
        message: Remote,
        seen: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Remote::Payload(_) => *seen += 1,
            Remote::Echo(bytes, reply) => reply.send(bytes)?,
            Remote::Count(reply) => reply.send(*seen)?,
        }
        Ok(())
    }
}

async fn node(port: u16, name: &str) -> Result<ActorRef<NodeServerMessage>> {
    let host = "127.0.0.1";
    let server = NodeServer::new(port, "bench".into(), name.into(), host.into(), None, None);
    let server = server.with_listen_addr(host.parse()?);
    Ok(Actor::spawn(None, server, ()).await?.0)
}

async fn second() -> Result<()> {
    let port = free_port()?;
    node(port, "second").await?;
    let (there, end) = There::spawn(None, There, ()).await?;
    ractor::pg::join("bench".into(), vec![there.get_cell()]);
    println!("{port}");
    Ok(end.await?)
}

/// The second node, and the actor on it.
async fn connect() -> Result<(Second, ActorRef<Remote>)> {
    let second = Second::start()?;
    let first = node(free_port()?, "first").await?;
    let address = format!("127.0.0.1:{}", second.port);
    while ractor_cluster::client_connect(&first, address.clone())
        .await
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    loop {
        let members = ractor::pg::get_members(&"bench".to_owned());
        if let Some(there) = members.into_iter().find(|one| !one.get_id().is_local()) {
            return Ok((second, there.into()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn remote_ping(size: u64, count: u64) -> Result<Values> {
    let (_second, there) = connect().await?;
    let mut times = Vec::new();
    for number in 0..count + count / 10 {
        let bytes = vec![1; size as usize];
        let begun = Instant::now();
        let answer = ractor::call!(there, Remote::Echo, bytes)?;
        if number >= count / 10 {
            times.push(begun.elapsed());
        }
        anyhow::ensure!(answer.len() as u64 == size, "an answer was cut");
    }
    Ok(spread(times))
}

async fn remote_one_way(size: u64, count: u64) -> Result<Values> {
    let (_second, there) = connect().await?;
    let begun = Instant::now();
    for _ in 0..count {
        there.cast(Remote::Payload(vec![7; size as usize]))?;
        tokio::task::consume_budget().await;
    }
    // Behind all of them, as a call is as good as a message.
    let seen = ractor::call!(there, Remote::Count)?;
    anyhow::ensure!(seen == count, "{seen} of {count} have arrived");
    Ok(vec![rate(count, begun)])
}
