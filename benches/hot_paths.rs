//! The hot paths, each so often as it is told: `hot_paths NAME COUNT`. Without arguments it lists them.
//!
//! To be counted, not timed: `cargo xtask instructions` runs it under callgrind with two counts, and what the
//! second run takes more is what the operations cost. One thread, no guests, no sockets; what depends on
//! chance is the seed of the hash maps alone. Every path checks that it has done what it says.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use tidelock::{
    Context, Environment, EnvironmentConfig, ExitReason, Filter, Message, Received, SpawnOptions,
};
use tidelock_proto::link::{Block, Effect, LinkForm, Signal};
use tidelock_proto::session::{Limits, Session};
use tidelock_proto::wire::{Frame, Route, decode};
use tidelock_proto::{Environ, NodeId, Pid};

/// A name, and what does the operation so many times.
type HotPath = (&'static str, fn(u64));

const PATHS: [HotPath; 7] = [
    ("message_round_trip", message_round_trip),
    ("spawn_and_exit", spawn_and_exit),
    ("receive_by_tag", receive_by_tag),
    ("frame_encode", frame_encode),
    ("frame_decode", frame_decode),
    ("lane_append", lane_append),
    ("link_handshake", link_handshake),
];

/// Bytes of every message here.
const PAYLOAD: [u8; 64] = [7; 64];
/// Messages with another tag that lie in the mailbox of [`receive_by_tag`].
const BACKLOG: usize = 100;
/// Messages that leave with one write in [`lane_append`].
const BATCH: u64 = 64;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = &words[..] else {
        return PATHS.iter().for_each(|(name, _)| println!("{name}"));
    };
    let path = PATHS.iter().find(|(path, _)| path == name);
    let (_, path) = path.expect("the name is one of the list");
    path(count.parse().expect("the count is a number"));
}

// ---- one machine -------------------------------------------------------------------------------

/// Runs one native process to its end, on this thread alone.
fn in_process<F, C>(code: F)
where
    F: FnOnce(Context) -> C + Send + 'static,
    C: Future<Output = ExitReason> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime").block_on(async {
        let environment = Environment::new(EnvironmentConfig::default()).expect("an engine");
        let options = SpawnOptions::default();
        let pid = environment.spawn_native("main", options, code);
        let ended = environment.wait(pid.expect("there is room")).await;
        assert_eq!(ended, ExitReason::Normal);
    });
}

fn message(tag: i64) -> Message {
    Message {
        tag: Some(tag),
        data: Bytes::from_static(&PAYLOAD),
        resources: Vec::new(),
    }
}

async fn take(me: &mut Context, filter: Filter) {
    match me.receive(filter, None).await {
        Some(Received::Message(message)) => assert_eq!(message.data[..], PAYLOAD),
        other => panic!("{other:?}"),
    }
}

fn message_round_trip(count: u64) {
    in_process(move |mut me| async move {
        let parent = me.pid();
        let echo = me.spawn_native_link("echo", None, move |mut me| async move {
            loop {
                take(&mut me, Filter::Any).await;
                me.send(parent, message(1)).await.expect("it is here");
            }
        });
        let echo = echo.expect("there is room");
        for _ in 0..count {
            me.send(echo, message(1)).await.expect("it is here");
            take(&mut me, Filter::Any).await;
        }
        me.kill(echo).await;
        ExitReason::Normal
    });
}

fn spawn_and_exit(count: u64) {
    in_process(move |me| async move {
        let environment = me.environment().clone();
        for _ in 0..count {
            let options = SpawnOptions::default();
            let child =
                environment.spawn_native("child", options, |_| async { ExitReason::Exit(3) });
            let ended = environment.wait(child.expect("there is room")).await;
            assert_eq!(ended, ExitReason::Exit(3));
        }
        ExitReason::Normal
    });
}

fn receive_by_tag(count: u64) {
    in_process(move |mut me| async move {
        let myself = me.pid();
        for _ in 0..BACKLOG {
            me.send(myself, message(1)).await.expect("it is here");
        }
        for _ in 0..count {
            me.send(myself, message(2)).await.expect("it is here");
            take(&mut me, Filter::Tag(2)).await;
        }
        ExitReason::Normal
    });
}

// ---- between machines --------------------------------------------------------------------------

fn pid(node: u64) -> Pid {
    Pid::new(NodeId(node), 5).expect("small numbers")
}

fn route() -> Route {
    Route {
        environ: Environ(1),
        from: pid(2),
        to: pid(1),
    }
}

fn frame() -> Frame {
    Frame::Message(route(), Some(1), Bytes::from_static(&PAYLOAD))
}

fn frame_encode(count: u64) {
    let (frame, mut bytes) = (frame(), Vec::new());
    for _ in 0..count {
        bytes.clear();
        black_box(&frame).encode(&mut bytes);
        black_box(&bytes);
    }
}

fn frame_decode(count: u64) {
    let mut bytes = Vec::new();
    frame().encode(&mut bytes);
    let mut buffer = BytesMut::new();
    for _ in 0..count {
        buffer.extend_from_slice(black_box(&bytes));
        let decoded = decode(&mut buffer).expect("it was encoded");
        assert!(matches!(decoded, Some(Frame::Message(..))));
    }
}

fn lane_append(count: u64) {
    let mut session = Session::new(NodeId(2), NodeId(1), 1, Limits::default());
    for number in 1..=count {
        session
            .message(&route(), Some(1), black_box(&PAYLOAD))
            .expect("the session is open");
        if number % BATCH == 0 {
            let bytes = session.poll_transmit().expect("there is a batch");
            session.transmitted(bytes.len());
        }
    }
}

/// A link, acknowledged, and an unlink, acknowledged, between blocks on two nodes.
fn link_handshake(count: u64) {
    let (mut here, mut there) = (Block::new(pid(1)), Block::new(pid(2)));
    let mut effects = Vec::new();
    for _ in 0..count {
        here.link(there.pid(), Some(1), LinkForm::Value, &mut effects);
        pass_on(&mut here, &mut there, &mut effects);
        assert!(here.is_linked(there.pid()) && there.is_linked(here.pid()));
        here.unlink(there.pid(), &mut effects);
        pass_on(&mut here, &mut there, &mut effects);
        assert!(here.at_rest() && there.at_rest());
    }
}

/// Carries one signal over and its answer back.
fn pass_on(here: &mut Block, there: &mut Block, effects: &mut Vec<Effect>) {
    let signal = sent(effects);
    there.handle(here.pid(), signal, effects);
    let answer = sent(effects);
    here.handle(there.pid(), answer, effects);
    effects.clear();
}

/// The signal among the effects, which are used up.
fn sent(effects: &mut Vec<Effect>) -> Signal {
    let signal = effects.drain(..).find_map(|effect| match effect {
        Effect::Send(_, signal) => Some(signal),
        _ => None,
    });
    signal.expect("a signal is on its way")
}
