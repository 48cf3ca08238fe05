//! One process's guest: from a module and an entry to the reason it ended.

use std::cell::Cell;
use std::fmt::Write;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::poll;
use tidelock_proto::spawn::{Param, ProcessConfig};
use tidelock_proto::{ExitReason, bounded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{
    AsContextMut, Error, Instance, Memory, ResourceLimiter, Store, Trap, UpdateDeadline, Val,
    WasmBacktrace,
};
use wasmtime_wasi::I32Exit;

use super::module::{EntryError, ModuleError, Native};
use super::packed::Packed;
use super::{
    Engine, Flavour, MemorySlot, Module, RestingStack, SlabFull, TABLE_ELEMENTS_MAX, Whose,
};
use crate::Context;
use crate::hibernation::Hibernating;
use crate::host::State;

/// Instructions in one unit of fuel.
const FUEL_UNIT: u64 = 100_000;
/// Ticks a guest may compute through before it has to wait for its turn.
const PATIENT_TICKS: u32 = 1;
/// Ticks between two messages after which a handler keeps no page of its stack until the next one: giving it back
/// and having another one take a microsecond or two.
const LONG_TICKS: u32 = 20;
/// Functions named in the text of a trap.
pub(super) const FRAMES_MAX: usize = 8;

/// Memory taken for a process before it runs.
#[derive(Debug)]
pub(crate) struct Reservation {
    place: Place,
    memory_bytes_max: usize,
}

/// Where the memory of a process lies.
#[derive(Debug)]
enum Place {
    /// It has none, or the engine finds a place for it.
    Anywhere,
    Slot(MemorySlot),
    /// Between pages that fault, one of so many.
    Guarded {
        _one: OwnedSemaphorePermit,
    },
}

/// Why memory could not be reserved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReserveError {
    /// The module needs more to start than the process may have.
    #[error("the module starts with {needs} bytes of memory, the process may have {max}")]
    Limit {
        /// Bytes the module declares.
        needs: u64,
        /// Bytes its configuration allows.
        max: u64,
    },
    /// This node has no room.
    #[error(transparent)]
    Full(#[from] SlabFull),
}

impl Module {
    /// Takes memory for one process. No code runs, and no page is touched; dropping gives it back.
    pub(crate) fn reserve(&self, config: &ProcessConfig) -> Result<Reservation, ReserveError> {
        let max = config.memory_bytes_max;
        let memory_bytes_max = usize::try_from(max).unwrap_or(usize::MAX);
        let Some((min, declared)) = self.memory_size() else {
            return Ok(Reservation {
                place: Place::Anywhere,
                memory_bytes_max,
            });
        };
        if min > max {
            return Err(ReserveError::Limit { needs: min, max });
        }
        let bytes = |n| usize::try_from(n).unwrap_or(usize::MAX);
        // Fuel is counted in slots only.
        let may_be_guarded = self.computes() && config.fuel_max.is_none();
        let guarded = may_be_guarded.then(|| self.engine().guarded()).flatten();
        let place = match guarded {
            Some(one) => Place::Guarded { _one: one },
            None if self.engine().guards() => Place::Anywhere,
            None => Place::Slot(MemorySlot::take(bytes(min), bytes(declared.min(max)))?),
        };
        Ok(Reservation {
            place,
            memory_bytes_max,
        })
    }
}

impl Reservation {
    /// Whether the process runs the code for guarded memory. One without any memory runs what there is.
    fn is_guarded(&self, module: &Module) -> bool {
        match self.place {
            Place::Anywhere => module.computes(),
            Place::Slot(_) => false,
            Place::Guarded { .. } => true,
        }
    }
}

/// What a process runs.
#[derive(Debug)]
pub(crate) struct Start {
    /// Its code.
    pub(crate) module: Module,
    /// The exported function it starts in.
    pub(crate) entry: String,
    /// The function's arguments.
    pub(crate) params: Vec<Param>,
    /// The memory it got.
    pub(crate) reservation: Reservation,
}

/// Runs a guest to its end inside the task of its process.
///
/// The code of a start section runs here too. A guest that computes yields every tick. Dropping the
/// future ends the guest where it is and gives its memory back.
pub(crate) async fn run(start: Start, context: Context) -> ExitReason {
    let Start {
        module,
        entry,
        params,
        reservation,
    } = start;
    let _ticks = module.engine().running();
    // Others are never asked to.
    if matches!(reservation.place, Place::Slot(_)) {
        context.may_hibernate();
    }
    let fuel = context.config().fuel_max;
    let whose = match context.parent() {
        Some(_) => Whose::Tenant(context.environ()),
        None => Whose::Operator,
    };
    let native = match fuel {
        None => module.native(reservation.is_guarded(&module), whose).await,
        Some(_) => module.fuelled(whose).await,
    };
    let native = match native {
        Ok(native) => native,
        Err(error) => return ExitReason::NotStarted(bounded(error.to_string())),
    };
    let limits = Limits::new(reservation);
    let state = State::new(module.clone(), context, limits);
    let mut store = Store::new(native.pre.module().engine(), state);
    store.limiter(|state| state);
    if !module.engine().trusted() {
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            // The ticks that passed while it waited are not its own.
            if TURN.replace(Turn::Begun) == Turn::Fresh {
                return Ok(UpdateDeadline::Continue(1));
            }
            TURN.set(Turn::GaveWay);
            let state = store.data_mut();
            state.busy_ticks = state.busy_ticks.saturating_add(1);
            let computes = state.busy_ticks > PATIENT_TICKS;
            if computes {
                state.environment().scheduler().note_computing();
            }
            let turns = computes.then(|| state.module().engine().turns());
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(give_way(turns))))
        });
    }
    if let Some(units) = fuel {
        let set = store.set_fuel(units.saturating_mul(FUEL_UNIT));
        set.expect("the engine of this artefact counts fuel");
    }
    let ended = {
        let guest = pin!(execute(&module, native, &mut store, &entry, &params));
        in_turns(guest).await
    };
    match ended {
        Ok(()) => ExitReason::Normal,
        Err(error) => reason(&error, store.data()),
    }
}

/// A function that guests may import.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// Its namespace.
    pub module: String,
    /// Its name there.
    pub name: String,
    /// The types of its parameters, as the text format writes them.
    pub params: Vec<String>,
    /// The types of its results.
    pub results: Vec<String>,
}

/// Everything a guest may import, by name. `context` is that of a process which never runs.
pub(crate) fn imports(engine: &Engine, context: Context) -> Result<Vec<Import>, ModuleError> {
    let nothing = Module::compile_blocking(engine, &b"\0asm\x01\0\0\0"[..])?;
    let limits = Limits::new(Reservation {
        place: Place::Anywhere,
        memory_bytes_max: 0,
    });
    let Flavour { engine, linker, .. } = engine.plain();
    let mut store = Store::new(engine, State::new(nothing, context, limits));
    let all: Vec<_> = linker.iter(&mut store).collect();
    let types = |types: &mut dyn Iterator<Item = wasmtime::ValType>| {
        types.map(|ty| ty.to_string()).collect()
    };
    let mut imports: Vec<_> = all
        .into_iter()
        .filter_map(|(module, name, item)| {
            let ty = item.into_func()?.ty(&store);
            Some(Import {
                module: module.to_owned(),
                name: name.to_owned(),
                params: types(&mut ty.params()),
                results: types(&mut ty.results()),
            })
        })
        .collect();
    imports.sort();
    Ok(imports)
}

/// How far the guest that runs on this thread is in its turn: what it does until it waits or gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It has waited before, for any number of ticks.
    Fresh,
    Begun,
    GaveWay,
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::Begun) };
    /// The turn that the guest which runs on this thread has among those that compute.
    static HELD: Cell<Option<OwnedSemaphorePermit>> = const { Cell::new(None) };
}

/// Runs a guest, and keeps note of its turns. One that has waited would otherwise give way as soon as it runs, to
/// all that compute: the tick it was to give way at is over.
///
/// What it is given is pinned by the caller: a future holds what it is given by value twice, from before it was begun
/// and since.
async fn in_turns<T>(mut guest: Pin<&mut impl Future<Output = T>>) -> T {
    let (mut begins, mut held) = (Turn::Fresh, None);
    std::future::poll_fn(|context| {
        TURN.set(begins);
        HELD.set(held.take());
        let polled = guest.as_mut().poll(context);
        let turn = HELD.take();
        begins = match TURN.get() {
            // It keeps its turn while it is queued. One that waits, or has ended, gives it up.
            Turn::GaveWay => {
                held = turn;
                Turn::Begun
            }
            Turn::Fresh | Turn::Begun => Turn::Fresh,
        };
        polled
    })
    .await
}

/// Lets others run. A guest that has computed for a while also waits for its turn among its like.
///
/// It holds its turn while it stands in the queue and while it computes, until it gives way the next time or waits. So only as
/// many guests that compute are ready to run at once as there are turns, and everybody else (a guest with a message, and on a
/// runtime of one thread a session that keeps its lease) waits for those at most, however many compute.
async fn give_way(turns: Option<Arc<Semaphore>>) {
    if let Some(turns) = turns {
        // Whoever has waited longest has it now.
        drop(HELD.take());
        let mut turn = pin!(turns.acquire_owned());
        let turn = std::future::poll_fn(|context| {
            // Also when it is polled for another reason.
            TURN.set(Turn::GaveWay);
            turn.as_mut().poll(context)
        });
        // The semaphore is never closed.
        HELD.set(turn.await.ok());
        TURN.set(Turn::GaveWay);
    }
    // To the end of the queue: whoever is woken goes before it.
    tokio::task::yield_now().await;
}

async fn execute(
    module: &Module,
    native: &Native,
    store: &mut Store<State>,
    entry: &str,
    params: &[Param],
) -> wasmtime::Result<()> {
    let stack = {
        let begun = pin!(begin(native, store, entry, params));
        let (begun, stack) = RestingStack::of(begun).await;
        begun?;
        stack
    };
    handle(module, store, stack).await
}

async fn begin(
    native: &Native,
    store: &mut Store<State>,
    entry: &str,
    params: &[Param],
) -> wasmtime::Result<()> {
    let instance = native.pre.instantiate_async(&mut *store).await?;
    let memory = native.memory.and_then(|export| {
        let found = instance.get_module_export(&mut *store, &export);
        found.and_then(wasmtime::Extern::into_memory)
    });
    store.data_mut().instantiated(memory);
    call(instance, store, entry, params).await
}

/// Calls the guest's handler, if it has named one, with each message, until it says that it is done.
///
/// In between there is nothing on its stack. One that was just made, or has waited for long, gives the pages of
/// its stack back while it waits: it takes less than one that waits in a call.
async fn handle(
    module: &Module,
    store: &mut Store<State>,
    stack: Option<RestingStack>,
) -> wasmtime::Result<()> {
    let mut idles = true;
    let Some(mut handler) = store.data_mut().handler.take() else {
        return Ok(());
    };
    loop {
        let kind = {
            let mut next = pin!(store.data_mut().next_message());
            match poll!(next.as_mut()) {
                Poll::Ready(kind) => kind,
                Poll::Pending => {
                    if let Some(stack) = stack.filter(|_| idles) {
                        stack.give_pages_back();
                    }
                    let since = module.engine().ticks();
                    let kind = next.await;
                    idles = module.engine().ticks().wrapping_sub(since) >= LONG_TICKS;
                    kind
                }
            }
        };
        let kind = match kind {
            Some(kind) => kind,
            None => {
                let memory = store.data().memory();
                let asleep = memory.and_then(|memory| Asleep::fall(memory, &mut *store));
                let kind = store.data_mut().message_at_last().await;
                if let Some(asleep) = asleep {
                    asleep.wake(&mut *store);
                }
                kind
            }
        };
        let arguments = (kind, handler.function, handler.state);
        if handler.export.call_async(&mut *store, arguments).await? != 0 {
            return Ok(());
        }
        let state = store.data_mut();
        state.drop_message();
        // The one that it named last.
        if let Some(next) = state.handler.take() {
            handler = next;
        }
    }
}

/// A guest that hibernates: nobody looks at its memory until it is woken. Dropped without that, the memory is lost, as
/// it is with its process.
pub(crate) struct Asleep {
    memory: Memory,
    packed: Packed,
    _counted: Hibernating,
}

impl Asleep {
    /// Packs the memory of a guest that was asked to hibernate. None: it stays as it is.
    pub(crate) fn fall(memory: Memory, mut guest: impl AsContextMut<Data = State>) -> Option<Self> {
        let (bytes, state) = memory.data_and_store_mut(&mut guest);
        let packed = Packed::pack(bytes, || state.module().image())?;
        Some(Self {
            memory,
            packed,
            _counted: state.sleeps(),
        })
    }

    /// Gives it its memory back, as it was.
    pub(crate) fn wake(self, mut guest: impl AsContextMut<Data = State>) {
        let (bytes, state) = self.memory.data_and_store_mut(&mut guest);
        self.packed.unpack(bytes, state.module().image());
    }
}

async fn call(
    instance: Instance,
    store: &mut Store<State>,
    entry: &str,
    params: &[Param],
) -> wasmtime::Result<()> {
    if params.is_empty()
        && let Ok(function) = instance.get_typed_func::<(), ()>(&mut *store, entry)
    {
        return function.call_async(store, ()).await;
    }
    // What the SDK's spawns use.
    if let [Param::I32(a), Param::I64(b)] = *params
        && let Ok(function) = instance.get_typed_func::<(i32, i64), ()>(&mut *store, entry)
    {
        return function.call_async(store, (a, b)).await;
    }
    // Also reached with an entry that does not exist: Lunatic's spawn promises that the child starts and
    // then fails.
    let module = store.data().module().clone();
    module.check_entry(entry, params)?;
    let function = instance
        .get_func(&mut *store, entry)
        .expect("checked above");
    let params: Vec<Val> = params.iter().map(value).collect();
    function.call_async(store, &params, &mut []).await
}

fn value(param: &Param) -> Val {
    match *param {
        Param::I32(value) => Val::I32(value),
        Param::I64(value) => Val::I64(value),
        Param::V128(value) => Val::V128(value.into()),
    }
}

// ---- why it ended --------------------------------------------------------------------------------------

fn reason(error: &Error, state: &State) -> ExitReason {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return if exit.0 == 0 {
            ExitReason::Normal
        } else {
            ExitReason::Exit(exit.0)
        };
    }
    if let Some(missing) = error.downcast_ref::<EntryError>() {
        return ExitReason::NotStarted(missing.to_string());
    }
    if let Some(refused) = &state.limits.refused_at_start {
        return ExitReason::Limit(refused.clone());
    }
    let text = trap_text(error);
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => ExitReason::Limit("out of fuel".into()),
        // Guests answer a refused allocation by aborting.
        Some(Trap::UnreachableCodeReached) if state.limits.memory_refused => {
            let max = state.limits.memory_bytes_max;
            let text = format!("out of memory (limit {max} bytes): {text}");
            ExitReason::Limit(bounded(text))
        }
        _ => ExitReason::Trap(text),
    }
}

/// The cause, and the innermost functions it happened in.
pub(crate) fn trap_text(error: &Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        let frames = backtrace.frames();
        for (i, frame) in frames.iter().take(FRAMES_MAX).enumerate() {
            text.push_str(if i == 0 { "; in " } else { " < " });
            // Writing to a String cannot fail.
            let _ = match frame.func_name() {
                Some(name) => write!(text, "{}", short_name(name)),
                None => write!(text, "function {}", frame.func_index()),
            };
        }
        if frames.len() > FRAMES_MAX {
            text.push_str(" < …");
        }
    }
    bounded(text)
}

/// Without the hash that Rust appends, and not endless.
fn short_name(name: &str) -> &str {
    let name = match name.rsplit_once("::h") {
        Some((front, hash)) if hash.len() == 16 => front,
        _ => name,
    };
    let end = name.char_indices().nth(80).map_or(name.len(), |(at, _)| at);
    &name[..end]
}

// ---- limits --------------------------------------------------------------------------------------------

/// What the store may allocate: one instance, one memory, one table, each bounded.
#[derive(Debug)]
pub(crate) struct Limits {
    /// A slot until the memory is made in it; what is guarded as long as the memory is there.
    place: Place,
    memory_bytes_max: usize,
    memory_refused: bool,
    refused_at_start: Option<String>,
}

impl Limits {
    fn new(reservation: Reservation) -> Self {
        let Reservation {
            place,
            memory_bytes_max,
        } = reservation;
        let room = match &place {
            Place::Slot(slot) => slot.bytes(),
            Place::Anywhere | Place::Guarded { .. } => usize::MAX,
        };
        Self {
            place,
            memory_bytes_max: memory_bytes_max.min(room),
            memory_refused: false,
            refused_at_start: None,
        }
    }
}

impl State {
    /// Keeps why the instance could not be made. Later, the guest itself learns that it cannot grow.
    fn refuse(&mut self, why: String) {
        if !self.is_instantiated() {
            self.limits.refused_at_start = Some(why);
        }
    }
}

impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let slot = match self.limits.place {
            Place::Slot(_) if current == 0 => {
                std::mem::replace(&mut self.limits.place, Place::Anywhere)
            }
            _ => Place::Anywhere,
        };
        if desired > self.limits.memory_bytes_max {
            self.limits.memory_refused = true;
            let max = self.limits.memory_bytes_max;
            self.refuse(format!(
                "memory of {desired} bytes is above the limit of {max}"
            ));
            return Ok(false);
        }
        // The memory is made right after this call, on this thread.
        if let Place::Slot(slot) = slot {
            slot.offer();
        }
        self.note_memory(desired);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: Error) -> wasmtime::Result<()> {
        self.limits.memory_refused = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= TABLE_ELEMENTS_MAX;
        if !fits {
            let max = TABLE_ELEMENTS_MAX;
            self.refuse(format!(
                "table of {desired} elements is above the limit of {max}"
            ));
        }
        Ok(fits)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use tidelock_proto::{Environ, Pid};

    use super::*;
    use crate::{Environment, EnvironmentConfig, SpawnOptions};

    const MAIL: &str = r#"(module
        (import "tidelock" "try_send" (func $try_send (param i64 i64 i32 i32) (result i32)))
        (import "tidelock" "try_receive"
            (func $try_receive (param i32 i32 i32 i32 i32) (result i32)))
        (import "tidelock" "receive" (func $receive (param i32 i32 i64 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "sends")
            (drop (call $try_send (i64.const 0) (i64.const 1) (i32.const 0) (i32.const 8))))
        (func (export "polls")
            (drop (call $try_receive (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8)
                (i32.const 16))))
        (func (export "waits")
            (drop (call $receive (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 0)
                (i32.const 8) (i32.const 16)))))"#;

    /// Runs these functions in the name of a process that has computed through a few ticks.
    async fn after_ticks(module: &Module, context: Context, calls: &[(&str, u32)]) {
        let reservation = module.reserve(context.config()).unwrap();
        let guarded = reservation.is_guarded(module);
        let native = module.native(guarded, Whose::Operator).await.unwrap();
        let state = State::new(module.clone(), context, Limits::new(reservation));
        let mut store = Store::new(native.pre.module().engine(), state);
        store.limiter(|state| state);
        store.set_epoch_deadline(1 << 40);
        let instance = native.pre.instantiate_async(&mut store).await.unwrap();
        for (name, ticks) in calls {
            store.data_mut().busy_ticks = 7;
            let called = instance.get_typed_func::<(), ()>(&mut store, name);
            called.unwrap().call_async(&mut store, ()).await.unwrap();
            assert_eq!(store.data().busy_ticks, *ticks, "{name}");
        }
    }

    #[tokio::test]
    async fn a_guest_that_only_polls_computes_and_one_that_may_wait_does_not() {
        let env = Environment::new(EnvironmentConfig::default()).unwrap();
        let bytes = wat::parse_str(MAIL).unwrap();
        let module = Module::compile(env.engine(), bytes).await.unwrap();
        let options = SpawnOptions::default();
        let process = env.spawn_native("guest", options, |me| async move {
            let calls = [("sends", 7), ("polls", 7), ("waits", 0)];
            after_ticks(&module, me, &calls).await;
            ExitReason::Normal
        });
        assert_eq!(env.wait(process.unwrap()).await, ExitReason::Normal);
    }

    #[tokio::test]
    async fn code_for_a_process_that_no_process_asked_for_is_the_operators() {
        let env = Environment::new(EnvironmentConfig::default()).unwrap();
        let bytes = wat::parse_str(r#"(module (func (export "run")))"#).unwrap();
        let module = Module::compile(env.engine(), bytes).await.unwrap();
        let environ = Environ(7);
        // More than its share: nothing is compiled for its processes.
        let compiles = env.engine().compiles();
        let _full = compiles.count(Whose::Tenant(environ), 1 << 30);
        let config = Arc::new(ProcessConfig {
            fuel_max: Some(1),
            ..ProcessConfig::default()
        });
        let ended = async |parent| {
            let options = SpawnOptions {
                config: config.clone(),
                parent,
                environ,
                ..SpawnOptions::default()
            };
            let process = env.spawn_wasm(&module, "run", Vec::new(), options);
            env.wait(process.unwrap()).await
        };
        let of_a_process = ended(Pid::new(env.node(), 1)).await;
        assert!(
            matches!(&of_a_process, ExitReason::NotStarted(why) if why.contains("of this tenant")),
            "{of_a_process:?}"
        );
        assert_eq!(ended(None).await, ExitReason::Normal);
    }

    #[tokio::test]
    async fn ticks_that_pass_while_a_guest_waits_are_not_its_own() {
        let mut begun = Vec::new();
        let guest = std::future::poll_fn(|context| {
            begun.push(TURN.get());
            context.waker().wake_by_ref();
            match begun.len() {
                // It waits without having computed, and after it has; then it gives way; then it waits again.
                1 => {}
                2 => TURN.set(Turn::Begun),
                3 => TURN.set(Turn::GaveWay),
                4 => {}
                _ => return Poll::Ready(()),
            }
            Poll::Pending
        });
        in_turns(pin!(guest)).await;
        use Turn::{Begun, Fresh};
        assert_eq!(begun, [Fresh, Fresh, Fresh, Begun, Fresh]);
    }

    #[tokio::test]
    async fn only_so_many_that_compute_stand_in_the_queue() {
        const TURNS: usize = 2;
        const ROUNDS: usize = 50;
        let turns = Arc::new(Semaphore::new(TURNS));
        let slices = Arc::new(AtomicUsize::new(0));
        let all: Vec<_> = (0..20 * TURNS)
            .map(|_| {
                let (turns, slices) = (turns.clone(), slices.clone());
                tokio::spawn(async move {
                    let guest = async {
                        for _ in 0..ROUNDS {
                            TURN.set(Turn::GaveWay);
                            give_way(Some(turns.clone())).await;
                            slices.fetch_add(1, Ordering::Relaxed);
                        }
                    };
                    in_turns(pin!(guest)).await;
                })
            })
            .collect();
        // One that is always ready waits for as many slices as there are turns, not for everybody's.
        let (mut seen, mut most) = (0, 0);
        while !all.iter().all(tokio::task::JoinHandle::is_finished) {
            tokio::task::yield_now().await;
            let now = slices.load(Ordering::Relaxed);
            most = most.max(now - seen);
            seen = now;
        }
        assert_eq!(seen, 20 * TURNS * ROUNDS, "everybody has its turn");
        assert!((1..=TURNS).contains(&most), "{most}");
        assert_eq!(turns.available_permits(), TURNS, "nobody kept one");
    }
}
