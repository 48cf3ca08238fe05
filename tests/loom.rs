//! Processes on several threads, in every order of their steps.
//!
//! Goal: no order in which threads run loses a wake-up, a signal or the news of an end, or brings it twice.
//! Method: [loom](https://docs.rs/loom) runs each scenario again and again, with the locks of the shipped
//! code and one thread for each process's task, until every order with at most [`PREEMPTIONS`] preemptions
//! has been. A process that nobody wakes is a deadlock, which loom reports.
//!
//! ```text
//! LOOM_MAX_PREEMPTIONS=2 cargo test --release -p tidelock --features loom --test loom -- --nocapture
//! ```
//!
//! `LOOM_MAX_PREEMPTIONS=3` looks further.

#![allow(clippy::print_stderr, reason = "how many orders there were")]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;

use loom::future::block_on;
use tidelock::{
    Context, Engine, EngineConfig, Environ, Environment, EnvironmentConfig, ExitReason, Filter,
    LinkError, LinkForm, LinkSignal, Message, NodeId, Pending, Pid, Prepare, Received, Remote,
    SendError, SpawnAnswer, SpawnOptions,
};
use tokio::sync::oneshot;

/// Switches away from a thread that could go on, within one order. Most faults take one or two.
const PREEMPTIONS: usize = 2;
/// In words. Loom's own threads have 4 096, less than a debug build takes.
const STACK_WORDS: usize = 32_768;

// ---- waking ----------------------------------------------------------------------------------

#[test]
fn two_senders_wake_a_receiver_that_parks() {
    explore("two senders, one receiver", |env| {
        let receiver = spawn(&env, |mut me| async move {
            for _ in 0..2 {
                me.receive(Filter::Any, None).await;
            }
            ExitReason::Normal
        });
        let sender = {
            let env = env.clone();
            thread(move || send(&env, receiver, 1))
        };
        send(&env, receiver, 2);
        sender.join().unwrap();
        assert_eq!(block_on(env.wait(receiver)), ExitReason::Normal);
    });
}

#[test]
fn a_kill_wakes_a_receiver_that_parks() {
    explore("a kill and a message", |env| {
        let receiver = spawn(&env, |mut me| async move {
            me.receive(Filter::Any, None).await;
            me.receive(Filter::Any, None).await;
            ExitReason::Normal
        });
        let killer = {
            let env = env.clone();
            thread(move || env.kill(receiver, None))
        };
        send(&env, receiver, 1);
        killer.join().unwrap();
        assert_eq!(block_on(env.wait(receiver)), ExitReason::Killed(None));
    });
}

#[test]
fn a_receive_that_is_dropped_loses_nothing() {
    explore("a receive is dropped", |env| {
        let receiver = spawn(&env, |mut me| async move {
            let first = {
                let mut receive = pin!(me.receive(Filter::Any, None));
                once(receive.as_mut()).await
            };
            let received = match first {
                Some(received) => received,
                None => me.receive(Filter::Any, None).await,
            };
            match received {
                Some(Received::Message(message)) if message.tag == Some(1) => ExitReason::Exit(1),
                other => ExitReason::Fault(format!("{other:?}")),
            }
        });
        let killer = {
            let env = env.clone();
            thread(move || env.kill(receiver, None))
        };
        send(&env, receiver, 1);
        killer.join().unwrap();
        let reason = block_on(env.wait(receiver));
        assert!(
            [ExitReason::Exit(1), ExitReason::Killed(None)].contains(&reason),
            "{reason:?}"
        );
    });
}

#[test]
fn whoever_waits_for_everybodys_end_is_woken() {
    explore("idle beside an end", |env| {
        spawn(&env, |_me| async move { ExitReason::Normal });
        block_on(env.idle());
        assert_eq!(env.counters().alive, 0);
    });
    explore("shutdown beside an end", |env| {
        spawn(&env, |_me| async move { ExitReason::Normal });
        let other = spawn(&env, forever);
        block_on(env.shutdown());
        assert_eq!(env.end_of(other), Some(ExitReason::Killed(None)));
    });
}

// ---- signals ---------------------------------------------------------------------------------

#[test]
fn signals_are_handled_once_and_in_order_whoever_pumps() {
    explore("two pump one inbox", |env| {
        let lane = Lane::connect(&env);
        let target = spawn(&env, forever);
        let (x, y) = (far(1), far(2));
        let other = {
            let env = env.clone();
            thread(move || {
                deliver(&env, x, target, LinkSignal::Monitor { reference: 1 });
                deliver(&env, x, target, LinkSignal::Demonitor { reference: 1 });
                deliver(&env, x, target, LinkSignal::Monitor { reference: 2 });
            })
        };
        deliver(&env, y, target, LinkSignal::Link { id: 1, tag: None });
        deliver(&env, y, target, LinkSignal::Unlink { id: 2 });
        deliver(&env, y, target, LinkSignal::Link { id: 3, tag: None });
        other.join().unwrap();
        env.kill(target, None);
        block_on(env.wait(target));
        assert_eq!(lane.to(x), ["1 lives", "2 lives", "2 down: killed"]);
        assert_eq!(
            lane.to(y),
            ["1 linked", "2 unlinked", "3 linked", "exit: killed"]
        );
    });
}

#[test]
fn every_question_is_answered_once_whenever_its_target_ends() {
    explore("monitors beside an end", |env| {
        let lane = Lane::connect(&env);
        let target = spawn(&env, |_me| async move { ExitReason::Exit(3) });
        let x = far(1);
        for reference in 1..=2 {
            let signal = LinkSignal::Monitor { reference };
            if let Some(answer) = env.deliver(Environ::default(), x, target, signal) {
                lane.append(x, &answer);
            }
        }
        block_on(env.wait(target));
        let said = lane.to(x);
        for reference in ["1 ", "2 "] {
            let about = said.iter().filter_map(|text| text.strip_prefix(reference));
            let about: Vec<_> = about.collect();
            assert!(
                about == ["lives", "down: exit code 3"] || about == ["gone"],
                "{said:?}"
            );
        }
        // The order of the lane is that of what happened: a dead one has said so before it is gone.
        let at = |end: &str| said.iter().position(|text| text.ends_with(end));
        if let (Some(down), Some(gone)) = (at("down: exit code 3"), at("gone")) {
            assert!(down < gone, "{said:?}");
        }
    });
}

// ---- ends ------------------------------------------------------------------------------------

#[test]
fn a_link_with_somebody_who_ends_is_told_once() {
    explore("link beside an end", |env| {
        let other = spawn(&env, |_me| async move { ExitReason::Exit(3) });
        let linker = spawn(&env, move |mut me| async move {
            me.set_die_when_link_dies(false);
            let linked = me.link(other, Some(7), LinkForm::Value, None).await;
            let told = match linked {
                Ok(()) => told(me.receive(Filter::Any, None).await),
                Err(LinkError::Ended(reason)) => Some((other, reason)),
                Err(error) => return ExitReason::Fault(error.to_string()),
            };
            me.environment().wait(other).await;
            match (told, me.try_receive(&Filter::Any)) {
                (Some((pid, ExitReason::Exit(3) | ExitReason::NoProcess)), None)
                    if pid == other =>
                {
                    ExitReason::Normal
                }
                other => ExitReason::Fault(format!("{other:?}")),
            }
        });
        assert_eq!(block_on(env.wait(linker)), ExitReason::Normal);
    });
}

#[test]
fn a_kill_beside_a_childs_own_end_gives_one_reason_told_once() {
    explore("a linked child ends and is killed", |env| {
        let child = Pid::new(NodeId::default(), 2).unwrap();
        let parent = spawn(&env, move |mut me| async move {
            me.set_die_when_link_dies(false);
            let made = me.spawn_native_link("child", Some(7), |_me| async { ExitReason::Exit(3) });
            if made != Ok(child) {
                return ExitReason::Fault(format!("{made:?}"));
            }
            let told = told(me.receive(Filter::Any, None).await);
            let ended = me.environment().wait(child).await;
            match (told, me.try_receive(&Filter::Any)) {
                (Some((pid, reason)), None) if pid == child && reason == ended => {
                    ExitReason::Normal
                }
                other => ExitReason::Fault(format!("{other:?}, ended: {ended:?}")),
            }
        });
        env.kill(child, None);
        assert_eq!(block_on(env.wait(parent)), ExitReason::Normal);
        let reason = env.end_of(child);
        let reasons = [ExitReason::Exit(3), ExitReason::Killed(None)];
        assert!(reasons.contains(reason.as_ref().unwrap()), "{reason:?}");
    });
}

#[test]
fn no_linked_child_outlives_a_parent_that_is_killed_while_it_spawns() {
    explore("a kill beside spawn's link", |env| {
        let parent = spawn(&env, |mut me| async move {
            let made = me.spawn_native_link("child", None, forever);
            assert!(made.is_ok());
            me.receive(Filter::Any, None).await;
            ExitReason::Normal
        });
        env.kill(parent, None);
        // The child ends by its link alone, or this never returns.
        block_on(env.idle());
        assert_eq!(env.end_of(parent), Some(ExitReason::Killed(None)));
    });
}

#[test]
fn after_unlink_nothing_of_the_others_end_is_read() {
    explore("unlink beside an end", |env| {
        let parent = spawn(&env, |mut me| async move {
            me.set_die_when_link_dies(false);
            let child = me
                .spawn_native_link("child", Some(7), |_me| async { ExitReason::Exit(3) })
                .unwrap();
            let before = me.try_receive(&Filter::Any);
            me.unlink(child, None).await.unwrap();
            me.environment().wait(child).await;
            match (before, me.try_receive(&Filter::Any)) {
                (None | Some(Received::LinkDied { .. }), None) => ExitReason::Normal,
                other => ExitReason::Fault(format!("{other:?}")),
            }
        });
        assert_eq!(block_on(env.wait(parent)), ExitReason::Normal);
    });
}

#[test]
fn after_unlink_nobody_dies_of_the_others_end() {
    explore("unlink beside a deadly end", |env| {
        let called = Arc::new(AtomicBool::new(false));
        let parent = spawn(&env, {
            let called = called.clone();
            move |mut me| async move {
                let child = me
                    .spawn_native_link("child", None, |_me| async { ExitReason::Exit(3) })
                    .unwrap();
                give_way().await;
                called.store(true, Ordering::Relaxed);
                me.unlink(child, None).await.unwrap();
                me.environment().wait(child).await;
                ExitReason::Normal
            }
        });
        let reason = block_on(env.wait(parent));
        match called.load(Ordering::Relaxed) {
            true => assert_eq!(reason, ExitReason::Normal),
            false => assert!(matches!(reason, ExitReason::LinkDied { .. }), "{reason:?}"),
        }
    });
}

#[test]
fn a_kill_inside_link_hides_no_end_from_the_other_side() {
    explore("links that cross, and a kill", |env| {
        let (a, b) = (near(1), near(2));
        spawn(&env, move |mut me| async move {
            me.set_die_when_link_dies(false);
            let linked = me.link(b, None, LinkForm::Value, None).await;
            me.receive(Filter::Any, None).await;
            ExitReason::Fault(format!("not killed: {linked:?}"))
        });
        let other = spawn(&env, move |mut me| async move {
            me.set_die_when_link_dies(false);
            let linked = me.link(a, Some(7), LinkForm::Value, None).await;
            let first = match linked {
                Ok(()) => me.receive(Filter::Any, None).await,
                // Of the link that the other side made before, if it did.
                Err(_) => me.try_receive(&Filter::Any),
            };
            me.environment().wait(a).await;
            match (linked.is_ok(), told(first), me.try_receive(&Filter::Any)) {
                (_, Some((_, ExitReason::Killed(None))), None) | (false, None, None) => {
                    ExitReason::Normal
                }
                other => ExitReason::Fault(format!("{other:?}")),
            }
        });
        env.kill(a, None);
        match block_on(env.wait(other)) {
            ExitReason::Normal => {}
            // Linked by the other side before it said that it traps that.
            ExitReason::LinkDied { pid, .. } if pid == a => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(block_on(env.wait(a)), ExitReason::Killed(None));
    });
}

#[test]
fn a_link_that_is_given_up_is_told_by_nobody() {
    explore("a link is given up beside an end", |env| {
        let other = spawn(&env, |_me| async move { ExitReason::Exit(3) });
        let linker = spawn(&env, move |mut me| async move {
            me.set_die_when_link_dies(false);
            let linked = {
                let mut link = pin!(me.link(other, None, LinkForm::Notice, None));
                once(link.as_mut()).await
            };
            me.environment().wait(other).await;
            let told = told(me.try_receive(&Filter::Any));
            match (linked.is_some(), told, me.try_receive(&Filter::Any)) {
                (true, Some(_), None) | (false, None, None) => ExitReason::Normal,
                other => ExitReason::Fault(format!("{other:?}")),
            }
        });
        assert_eq!(block_on(env.wait(linker)), ExitReason::Normal);
    });
}

// ---- the bench -------------------------------------------------------------------------------

/// Runs a scenario in every order, in an environment of its own each time.
fn explore(name: &str, scenario: impl Fn(Environment) + Send + Sync + 'static) {
    let orders = Arc::new(AtomicUsize::new(0));
    let mut model = loom::model::Builder::new();
    let preemptions = *model.preemption_bound.get_or_insert(PREEMPTIONS);
    let (counted, scenario) = (orders.clone(), Arc::new(scenario));
    let outside = Outside::get();
    model.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let scenario = scenario.clone();
        // The model's first thread has little stack.
        thread(move || scenario(outside.environment()))
            .join()
            .unwrap();
    });
    let orders = orders.load(Ordering::Relaxed);
    eprintln!("{name}: {orders} orders, at most {preemptions} preemptions in each");
    assert!(orders > 10, "{name}: the threads never met");
}

/// What is not part of the model: no process here is a guest, and none runs on tokio.
struct Outside {
    engine: Engine,
    runtime: tokio::runtime::Runtime,
}

impl Outside {
    fn get() -> &'static Self {
        static OUTSIDE: OnceLock<Outside> = OnceLock::new();
        OUTSIDE.get_or_init(|| Outside {
            engine: Engine::new(EngineConfig::default()).unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
        })
    }

    fn environment(&self) -> Environment {
        let _inside = self.runtime.enter();
        Environment::with_engine(EnvironmentConfig::default(), self.engine.clone())
    }
}

fn spawn<F, C>(env: &Environment, code: F) -> Pid
where
    F: FnOnce(Context) -> C,
    C: Future<Output = ExitReason> + Send + 'static,
{
    env.spawn_native("native", SpawnOptions::default(), code)
        .unwrap()
}

async fn forever(mut me: Context) -> ExitReason {
    me.receive(Filter::Any, None).await;
    ExitReason::Normal
}

fn thread(code: impl FnOnce() + Send + 'static) -> loom::thread::JoinHandle<()> {
    loom::thread::Builder::new()
        .stack_size(STACK_WORDS)
        .spawn(code)
        .unwrap()
}

fn send(env: &Environment, to: Pid, tag: i64) {
    let message = Message {
        tag: Some(tag),
        ..Message::default()
    };
    block_on(env.send(to, message)).unwrap();
}

fn deliver(env: &Environment, from: Pid, to: Pid, signal: LinkSignal) {
    let answer = env.deliver(Environ::default(), from, to, signal);
    assert_eq!(answer, None, "{to} lives");
}

fn told(received: Option<Received>) -> Option<(Pid, ExitReason)> {
    match received {
        Some(Received::LinkDied { pid, reason, .. }) => Some((pid, reason)),
        _ => None,
    }
}

/// Polls once.
async fn once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|poller| match future.as_mut().poll(poller) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Is resumed, as a process that was busy.
async fn give_way() {
    let mut gave = false;
    std::future::poll_fn(|poller| {
        if std::mem::replace(&mut gave, true) {
            return Poll::Ready(());
        }
        poller.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The process of this node with that number.
fn near(local: u64) -> Pid {
    Pid::new(NodeId::default(), local).unwrap()
}

/// A process of another node.
fn far(local: u64) -> Pid {
    Pid::new(NodeId(9), local).unwrap()
}

/// What is said to other nodes, in order.
#[derive(Default)]
struct Lane(Mutex<BTreeMap<Pid, Vec<String>>>);

impl Lane {
    fn connect(env: &Environment) -> Arc<Self> {
        let lane = Arc::new(Lane::default());
        let remote: Arc<dyn Remote> = lane.clone();
        env.set_remote(Arc::downgrade(&remote));
        lane
    }

    fn to(&self, pid: Pid) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .get(&pid)
            .cloned()
            .unwrap_or_default()
    }

    fn append(&self, to: Pid, signal: &LinkSignal) {
        let text = match signal {
            LinkSignal::LinkAck { id, .. } => format!("{id} linked"),
            LinkSignal::UnlinkAck { id } => format!("{id} unlinked"),
            LinkSignal::Exit { reason } => format!("exit: {reason}"),
            LinkSignal::MonitorAck {
                reference,
                exists: true,
            } => format!("{reference} lives"),
            LinkSignal::MonitorAck {
                reference,
                exists: false,
            } => format!("{reference} gone"),
            LinkSignal::Down { reference, reason } => format!("{reference} down: {reason}"),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().entry(to).or_default().push(text);
    }
}

impl Remote for Lane {
    fn nodes_with(&self, _: &[(String, String)]) -> Vec<NodeId> {
        Vec::new()
    }

    fn nodes(&self) -> Vec<NodeId> {
        vec![NodeId::default(), NodeId(9)]
    }

    fn ready(&self, _node: NodeId) -> Pending<'_, Result<(), ExitReason>> {
        Box::pin(async { Ok(()) })
    }

    fn is_ready(&self, _node: NodeId) -> bool {
        true
    }

    fn signal(
        &self,
        _environ: Environ,
        _from: Pid,
        to: Pid,
        signal: &LinkSignal,
    ) -> Result<(), ExitReason> {
        self.append(to, signal);
        Ok(())
    }

    fn message(&self, _: Environ, _: Pid, _: Pid, _: &Message) -> Result<(), SendError> {
        Ok(())
    }

    fn note(&self, _node: NodeId, _local: Pid) -> Result<(), ExitReason> {
        Ok(())
    }

    fn ask(
        &self,
        node: NodeId,
        _prepare: Prepare,
    ) -> Result<(u64, oneshot::Receiver<SpawnAnswer>), ExitReason> {
        let how = "nobody spawns here".into();
        Err(ExitReason::NodeDown { node, how })
    }

    fn cancel(&self, _node: NodeId, _reference: u64) {}

    fn exists(&self, _pid: Pid) -> Pending<'_, bool> {
        Box::pin(async { false })
    }

    fn parked_ended(&self, _node: NodeId, _epoch: u64, _reference: u64) {}

    fn ended(&self, _local: Pid, _told: Option<NodeId>) {}
}
