//! The rows in kameo 0.22, and for two nodes over libp2p: TCP, encrypted by noise.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt;
use kameo::error::Infallible;
use kameo::mailbox;
use kameo::prelude::*;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, noise, tcp, yamux};
use peers::{Row, Second, free_port, phase, rate, spread};
use serde::{Deserialize, Serialize};
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
        _ => bail!("no row {}", row.text),
    };
    row.print(&values);
    Ok(())
}

type Values = Vec<(&'static str, f64)>;

// ---- one program -------------------------------------------------------------------------------

/// Says that it runs, and ends.
struct Child;

impl Actor for Child {
    type Args = mpsc::UnboundedSender<()>;
    type Error = Infallible;

    async fn on_start(parent: Self::Args, me: ActorRef<Self>) -> Result<Self, Infallible> {
        parent.send(()).expect("the parent waits");
        me.kill();
        Ok(Child)
    }
}

async fn spawns(count: u64) -> Result<Values> {
    let (parent, mut heard) = mpsc::unbounded_channel();
    let mut all = VecDeque::new();
    let begun = Instant::now();
    for _ in 0..count {
        all.push_back(Child::spawn(parent.clone()));
        if all.len() > WINDOW {
            let first = all.pop_front().context("a window is open")?;
            first.wait_for_shutdown().await;
        }
    }
    for one in all {
        one.wait_for_shutdown().await;
    }
    let values = vec![rate(count, begun)];
    for _ in 0..count {
        heard.recv().await.context("each has run")?;
    }
    Ok(values)
}

/// Is told how those that are linked to it end.
struct Parent(mpsc::UnboundedSender<()>);

impl Actor for Parent {
    type Args = mpsc::UnboundedSender<()>;
    type Error = Infallible;

    async fn on_start(told: Self::Args, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Parent(told))
    }

    async fn on_link_died(
        &mut self,
        _: WeakActorRef<Self>,
        _: ActorId,
        _: ActorStopReason,
    ) -> Result<ControlFlow<ActorStopReason>, Infallible> {
        self.0.send(()).expect("somebody counts");
        Ok(ControlFlow::Continue(()))
    }
}

async fn links(count: u64) -> Result<Values> {
    let (told, mut ends) = mpsc::unbounded_channel();
    let (running, mut heard) = mpsc::unbounded_channel();
    let parent = Parent::spawn_with_mailbox(told, mailbox::unbounded());
    let begun = Instant::now();
    let mut under_way = 0;
    for _ in 0..count {
        if under_way == WINDOW {
            ends.recv().await.context("the parent lives")?;
            under_way -= 1;
        }
        Child::spawn_link(&parent, running.clone()).await;
        under_way += 1;
    }
    for _ in 0..under_way {
        ends.recv().await.context("the parent lives")?;
    }
    let values = vec![rate(count, begun)];
    for _ in 0..count {
        heard.recv().await.context("each has run")?;
    }
    Ok(values)
}

/// Counts payload up to a number, or passes a ball back.
#[derive(Actor)]
struct One {
    left: u64,
    done: mpsc::UnboundedSender<()>,
}

struct Payload([u8; 64]);

impl Message<Payload> for One {
    type Reply = ();

    async fn handle(&mut self, payload: Payload, _: &mut Context<Self, ()>) {
        assert_eq!(payload.0[63], 7);
        self.left -= 1;
        if self.left == 0 {
            self.done.send(()).expect("somebody waits");
        }
    }
}

struct Ball(u64, ActorRef<One>);

impl Message<Ball> for One {
    type Reply = ();

    async fn handle(&mut self, ball: Ball, context: &mut Context<Self, ()>) {
        if ball.0 == 0 {
            self.done.send(()).expect("somebody waits");
        } else {
            let me = context.actor_ref().clone();
            let thrown = ball.1.tell(Ball(ball.0 - 1, me)).await;
            thrown.expect("the other one lives");
        }
    }
}

async fn ping(count: u64) -> Result<Values> {
    let (done, mut over) = mpsc::unbounded_channel();
    let player = || One {
        left: 0,
        done: done.clone(),
    };
    let (a, b) = (One::spawn(player()), One::spawn(player()));
    let begun = Instant::now();
    a.tell(Ball(2 * count, b)).await.ok().context("a lives")?;
    over.recv().await.context("the players live")?;
    Ok(vec![rate(count, begun)])
}

async fn fan_in(senders: u64, count: u64) -> Result<Values> {
    let each = count / senders;
    let (done, mut over) = mpsc::unbounded_channel();
    let left = each * senders;
    let sink = One::spawn_with_mailbox(One { left, done }, mailbox::unbounded());
    let begun = Instant::now();
    for _ in 0..senders {
        let sink = sink.clone();
        tokio::spawn(async move {
            for _ in 0..each {
                let sent = sink.tell(Payload([7; 64])).await;
                sent.expect("the sink lives");
                tokio::task::consume_budget().await;
            }
        });
    }
    over.recv().await.context("the sink lives")?;
    Ok(vec![rate(left, begun)])
}

async fn idle(count: u64) -> Result<Values> {
    phase("before").await;
    let (done, mut over) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let mut all = Vec::new();
    for _ in 0..count {
        let done = done.clone();
        let one = One::spawn(One { left: 1, done });
        one.wait_for_startup().await;
        all.push(one);
    }
    let values = vec![rate(count, begun), ("alive", count as f64)];
    tokio::time::sleep(Duration::from_millis(500)).await;
    phase("alive").await;
    for one in &all {
        one.tell(Payload([7; 64])).await.ok().context("it lives")?;
    }
    for _ in 0..count {
        over.recv().await.context("each lives")?;
    }
    Ok(values)
}

// ---- two programs ------------------------------------------------------------------------------

#[derive(Actor, RemoteActor)]
struct There;

#[derive(Serialize, Deserialize)]
struct Echo(#[serde(with = "serde_bytes")] Vec<u8>);

#[derive(Serialize, Deserialize, Reply)]
struct Answer(#[serde(with = "serde_bytes")] Vec<u8>);

#[remote_message]
impl Message<Echo> for There {
    type Reply = Answer;

    async fn handle(&mut self, echo: Echo, _: &mut Context<Self, Answer>) -> Answer {
        Answer(echo.0)
    }
}

fn address(port: u16) -> Multiaddr {
    let text = format!("/ip4/127.0.0.1/tcp/{port}");
    text.parse().expect("an address")
}

/// Joins the network that consists of the two programs.
fn join(listen: u16, dial: Option<u16>) -> Result<()> {
    let mut swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_behaviour(|key| {
            let config = remote::messaging::Config::default();
            remote::Behaviour::new(key.public().to_peer_id(), config)
        })?
        // Without this, a connection that is silent for some seconds is closed.
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(300)))
        .build();
    swarm.behaviour().init_global();
    swarm.listen_on(address(listen))?;
    if let Some(port) = dial {
        swarm.dial(address(port))?;
    }
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } = swarm.select_next_some().await
                && dial.is_some()
            {
                swarm.add_peer_address(peer_id, endpoint.get_remote_address().clone());
            }
        }
    });
    Ok(())
}

async fn second() -> Result<()> {
    let port = free_port()?;
    join(port, None)?;
    let there = There::spawn_with_mailbox(There, mailbox::unbounded());
    there.register("bench").await?;
    println!("{port}");
    there.wait_for_shutdown().await;
    Ok(())
}

async fn remote_ping(size: u64, count: u64) -> Result<Values> {
    let second = Second::start()?;
    // It listens a moment after it was told to.
    tokio::time::sleep(Duration::from_millis(300)).await;
    join(free_port()?, Some(second.port))?;
    let there = loop {
        if let Ok(Some(there)) = RemoteActorRef::<There>::lookup("bench").await {
            break there;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut times = Vec::new();
    for number in 0..count + count / 10 {
        let echo = Echo(vec![1; size as usize]);
        let begun = Instant::now();
        let answer = there.ask(&echo).await;
        if number >= count / 10 {
            times.push(begun.elapsed());
        }
        let answer = answer.ok().context("no answer")?;
        ensure!(answer.0.len() as u64 == size, "an answer was cut");
    }
    Ok(spread(times))
}
