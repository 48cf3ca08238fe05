//! Another node that answers nothing, or has no room for anything: calls with a timeout come back by it.

use std::sync::{Arc, Mutex};

use tidelock_proto::link::Signal;
use tidelock_proto::spawn::Prepare;
use tidelock_proto::wire::{CONTROL_BYTES_MAX, Frame, HEADER_BYTES, decode_first};
use tidelock_proto::{Environ, NodeId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::tidelock::{CHILD, TIDELOCK};
use super::*;
use crate::{Filter, LinkError, LinkForm, Message, Pending, Remote, SendError, SpawnAnswer};

/// The way to nodes that take everything and never answer.
#[derive(Default)]
pub(crate) struct Silent {
    /// Whether the way has room.
    congested: bool,
    /// Who would be answered.
    asked: Mutex<Vec<oneshot::Sender<SpawnAnswer>>>,
    /// What they have asked for.
    wanted: Mutex<Vec<Prepare>>,
    said: Mutex<Vec<Signal>>,
    given_up: Mutex<Vec<u64>>,
    /// Who has ended, and which node knows by an Exit.
    pub(crate) ended: Mutex<Vec<(Pid, Option<NodeId>)>>,
}

impl Remote for Silent {
    fn nodes(&self) -> Vec<NodeId> {
        vec![NodeId::default(), NodeId(2)]
    }

    fn nodes_with(&self, _: &[(String, String)]) -> Vec<NodeId> {
        Vec::new()
    }

    fn ready(&self, _: NodeId) -> Pending<'_, Result<(), ExitReason>> {
        match self.congested {
            true => Box::pin(std::future::pending()),
            false => Box::pin(async { Ok(()) }),
        }
    }

    fn is_ready(&self, _: NodeId) -> bool {
        !self.congested
    }

    fn signal(&self, _: Environ, _: Pid, _: Pid, signal: &Signal) -> Result<(), ExitReason> {
        self.said.lock().unwrap().push(signal.clone());
        Ok(())
    }

    fn message(&self, _: Environ, _: Pid, _: Pid, _: &Message) -> Result<(), SendError> {
        Ok(())
    }

    fn note(&self, _: NodeId, _: Pid) -> Result<(), ExitReason> {
        Ok(())
    }

    fn ask(
        &self,
        _: NodeId,
        prepare: Prepare,
    ) -> Result<(u64, oneshot::Receiver<SpawnAnswer>), ExitReason> {
        self.wanted.lock().unwrap().push(prepare);
        let (answer, answered) = oneshot::channel();
        let mut asked = self.asked.lock().unwrap();
        asked.push(answer);
        Ok((asked.len() as u64, answered))
    }

    fn cancel(&self, _: NodeId, reference: u64) {
        self.given_up.lock().unwrap().push(reference);
    }

    fn exists(&self, _: Pid) -> Pending<'_, bool> {
        Box::pin(async { false })
    }

    fn parked_ended(&self, _: NodeId, _: u64, _: u64) {}

    fn ended(&self, local: Pid, told: Option<NodeId>) {
        self.ended.lock().unwrap().push((local, told));
    }
}

/// Runs `_start` beside that; `$far` is a process there.
async fn beside(remote: &Arc<Silent>, code: &str) {
    beside_with(remote, "", code).await;
}

/// As [`beside`], with more imports.
async fn beside_with(remote: &Arc<Silent>, more: &str, code: &str) {
    let env = environment();
    let way: Arc<dyn Remote> = remote.clone();
    env.set_remote(Arc::downgrade(&way));
    let far = Pid::new(NodeId(2), 7).expect("a pid").raw();
    let imports = [
        TIDELOCK, RECEIVE, GET_TAG, DIE, PROC_EXIT, PROCESS_ID, MESSAGES, SPAWN, SPAWN_AT, more,
    ]
    .concat();
    let code = format!(
        r#"{CHILD} (func $far (result i64) (i64.const {far}))
        (func (export "_start") (call $die (i32.const 0)) {code})"#
    );
    let module = guest(&env, &imports, &code).await;
    // From here on time passes when everybody waits, and at no other time.
    tokio::time::pause();
    let ended = tokio::time::timeout(Duration::from_mins(5), env.wait(start(&env, &module)));
    assert_eq!(ended.await, Ok(ExitReason::Normal));
}

const LINK: &str = "(call $check32 (i32.const 9027)
    (call $link (call $far) (i64.const 1) (i64.const 10) (i32.const 8)))";
const SPAWN_FAR: &str = "(call $check32 (i32.const 9027)
    (call $spawn_on (i64.const 2) (i64.const -1) (i64.const -1) (i64.const -1)
        (i32.const 110) (i32.const 5) (i32.const 0) (i32.const 0) (i64.const 10) (i32.const 0)))";

/// Lunatic's own, which has no timeout: it waits for half a minute.
const SPAWN_AT: &str = r#"
    (import "lunatic::distributed" "spawn" (func $spawn_at
        (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))"#;
const SPAWN_AT_FAR: &str = "(call $check32 (i32.const 9027)
    (call $spawn_at (i64.const 2) (i64.const -1) (i64.const 0) (i32.const 110) (i32.const 5)
        (i32.const 0) (i32.const 0) (i32.const 0)))";

#[tokio::test]
async fn a_link_that_is_not_answered_is_given_up_in_time_and_none_remains() {
    let remote = Arc::<Silent>::default();
    // Nor is the unlink that took it back: it stands all the same.
    let unlink = "(call $check32 (i32.const 9027) (call $unlink (call $far) (i64.const 10)))";
    let nothing = "(call $check32 (i32.const 9027)
        (call $receive (i32.const 0) (i32.const 0) (i64.const 10)))";
    beside(&remote, &[LINK, unlink, nothing, LINK].concat()).await;
}

#[tokio::test]
async fn a_spawn_that_is_not_answered_is_given_up_in_time_and_the_other_side_is_told() {
    let remote = Arc::<Silent>::default();
    beside(&remote, &[SPAWN_FAR, SPAWN_FAR, SPAWN_AT_FAR].concat()).await;
    assert_eq!(*remote.given_up.lock().unwrap(), [1, 2, 3]);
}

/// The longest that a guest can make: a full configuration, the longest name and parameters.
#[tokio::test]
async fn a_request_for_a_process_fits_into_a_frame_whatever_its_configuration() {
    let remote = Arc::<Silent>::default();
    let imports = r#"
        (import "lunatic::process" "create_config" (func $config (result i64)))
        (import "lunatic::wasi" "config_add_command_line_argument"
            (func $arg (param i64 i32 i32)))"#;
    // Texts and the type of parameters that take most.
    let make = "(drop (memory.grow (i32.const 1)))
        (memory.fill (i32.const 65536) (i32.const 0x7b) (i32.const 65536))
        (call $check (call $config) (i64.const 0))";
    let add =
        |bytes: usize| format!("(call $arg (i64.const 0) (i32.const 65536) (i32.const {bytes}))");
    let spawn = "(call $check32 (i32.const 9027)
        (call $spawn_on (i64.const 2) (i64.const 1) (i64.const 0) (i64.const -1) (i32.const 65536)
            (i32.const 4096) (i32.const 65536) (i32.const 4352) (i64.const 10) (i32.const 0)))";
    let full = add(65_536).repeat(15) + &add(32_384);
    let code = [make, &full, spawn, spawn].concat();
    beside_with(&remote, imports, &code).await;
    let wanted = remote.wanted.lock().unwrap();
    assert_eq!(wanted.len(), 2);
    assert!(
        Arc::ptr_eq(&wanted[0].config, &wanted[1].config),
        "no request has one of its own"
    );
    let mut frame = Vec::new();
    Frame::Prepare(u64::MAX, Box::new(wanted[0].clone())).encode(&mut frame);
    assert!(frame.len() - HEADER_BYTES <= CONTROL_BYTES_MAX);
    assert!(matches!(decode_first(&frame), Ok(Some(_))));
}

#[tokio::test]
async fn a_way_without_room_is_waited_for_no_longer_than_was_said() {
    let congested = true;
    let remote = Arc::new(Silent {
        congested,
        ..Silent::default()
    });
    let request = "(call $create_data (i64.const 1) (i64.const 0))
        (call $check32 (i32.const 9027)
            (call $request (call $far) (i64.const 1) (i64.const 10)))";
    beside(&remote, &[LINK, SPAWN_FAR, SPAWN_AT_FAR, request].concat()).await;
    // Nothing was begun that would have to be given up.
    assert!(remote.asked.lock().unwrap().is_empty());
    assert!(remote.given_up.lock().unwrap().is_empty());
}

/// The other side has linked to it before. It cannot ask for the link, so it gives it up.
#[tokio::test]
async fn a_link_that_waits_for_the_way_in_vain_takes_the_one_before_it_along() {
    let congested = true;
    let remote = Arc::new(Silent {
        congested,
        ..Silent::default()
    });
    let env = environment();
    let way: Arc<dyn Remote> = remote.clone();
    env.set_remote(Arc::downgrade(&way));
    tokio::time::pause();
    let far = Pid::new(NodeId(2), 7).expect("a pid");
    for is_dropped in [false, true] {
        let options = SpawnOptions::default();
        let linked = env.spawn_native("linked", options, move |mut me| async move {
            me.set_die_when_link_dies(false);
            let (env, pid) = (me.environment().clone(), me.pid());
            let says =
                |signal| assert!(env.deliver(Environ::default(), far, pid, signal).is_none());
            says(Signal::Link { id: 1, tag: None });
            let soon = Instant::now() + Duration::from_millis(10);
            if is_dropped {
                let link = me.link(far, None, LinkForm::Value, None);
                assert!(tokio::time::timeout_at(soon, link).await.is_err());
            } else {
                let link = me.link(far, None, LinkForm::Value, Some(soon)).await;
                assert_eq!(link, Err(LinkError::TimedOut));
            }
            let reason = ExitReason::Exit(3);
            says(Signal::Exit { reason });
            let told = me.try_receive(&Filter::Any);
            assert!(told.is_none(), "{told:?}");
            ExitReason::Normal
        });
        assert_eq!(end(&env, linked.unwrap()).await, ExitReason::Normal);
    }
    let said = remote.said.lock().unwrap();
    let unlinks = said
        .iter()
        .filter(|signal| matches!(signal, Signal::Unlink { .. }));
    assert_eq!(unlinks.count(), 2);
}
