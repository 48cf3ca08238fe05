//! `lunatic::message`: the scratch message, sending, receiving by tag.
//!
//! ```text
//! create_data ─▶ ┌──────────────┐ ─send─▶ mailbox of another process
//! write_data  ─▶ │ scratch slot │
//! read_data   ◀─ └──────────────┘ ◀─receive── own mailbox
//! ```

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tidelock_proto::Pid;
use tokio::time::timeout_at;

use super::networking::{self, Kind, TcpStream, TlsStream, UdpSocket};
use super::state::{Body, Data, Held};
use super::{Call, Caller, Linker, Result, State, TIMED_OUT, deadline, sync, waits};
use crate::wasm::{Asleep, give_unused_stack_back};
use crate::{Filter, Message, Module, Received, Resource, SendError, TimedOut};

/// Bytes set aside for a message whatever the guest hints.
const HINT_BYTES_MAX: u64 = 64 << 10;
/// Resources of one message; a push beyond it traps.
const RESOURCES_MAX: usize = 256;
/// Tags one `receive` may wait for.
const TAGS_MAX: u32 = 4096;

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::message";
        "create_data" => create_data(tag: i64, capacity: u64);
        "write_data" => write_data(ptr: u32, len: u32);
        "read_data" => read_data(ptr: u32, len: u32);
        "seek_data" => seek_data(position: u64);
        "get_tag" => get_tag();
        "get_process_id" => get_process_id();
        "data_size" => data_size();
        "push_module" => push_module(id: u64);
        "take_module" => take_module(index: u64);
        "push_tcp_stream" => push_tcp_stream(id: u64);
        "take_tcp_stream" => take_tcp_stream(index: u64);
        "push_tls_stream" => push_tls_stream(id: u64);
        "take_tls_stream" => take_tls_stream(index: u64);
        "push_udp_socket" => push_udp_socket(id: u64);
        "take_udp_socket" => take_udp_socket(index: u64);
    }
    waits! { linker, "lunatic::message";
        "send" => send(process: u64);
        "send_receive_skip_search" => send_receive_skip_search(process: u64, tag: i64, timeout: u64);
        "receive" => receive(tags_ptr: u32, tags_len: u32, timeout: u64);
    }
    Ok(())
}

/// On the interface, tag 0 is no tag.
pub(super) fn tag(raw: i64) -> Option<i64> {
    (raw != 0).then_some(raw)
}

pub(super) const NO_DATA: &str = "there is no data message in the scratch slot";

fn data<'a>(call: &'a mut Call<'_>) -> Result<&'a mut Data> {
    if !matches!(call.state().held, Some(Held::Data(_))) {
        return Err(call.trap(NO_DATA));
    }
    match &mut call.state().held {
        Some(Held::Data(data)) => Ok(data),
        _ => unreachable!("checked above"),
    }
}

fn create_data(mut call: Call<'_>, raw: i64, capacity: u64) -> Result<()> {
    let hint = capacity.min(HINT_BYTES_MAX) as usize;
    call.state().held = Some(Held::Data(Data {
        tag: tag(raw),
        body: Body::Own(Vec::with_capacity(hint)),
        read: 0,
        resources: Vec::new(),
    }));
    Ok(())
}

fn write_data(mut call: Call<'_>, ptr: u32, len: u32) -> Result<u32> {
    let (memory, state) = call.parts()?;
    let Some(Held::Data(data)) = &mut state.held else {
        return Err(call.trap(NO_DATA));
    };
    let Some(bytes) = memory.get(ptr as usize..ptr as usize + len as usize) else {
        return Err(call.outside("ptr", ptr, u64::from(len)));
    };
    let body = data.body.as_mut();
    let max = state.message_bytes_max;
    if body.len() + bytes.len() > max {
        return Err(call.trap(format_args!("a message has at most {max} bytes")));
    }
    body.extend_from_slice(bytes);
    Ok(len)
}

fn read_data(mut call: Call<'_>, ptr: u32, len: u32) -> Result<u32> {
    let (memory, state) = call.parts()?;
    let Some(Held::Data(data)) = &mut state.held else {
        return Err(call.trap(NO_DATA));
    };
    let Some(rest) = data.body.as_slice().get(data.read..) else {
        return Err(call.trap("the read position is behind the end"));
    };
    let bytes = &rest[..rest.len().min(len as usize)];
    let Some(place) = memory.get_mut(ptr as usize..ptr as usize + bytes.len()) else {
        return Err(call.outside("ptr", ptr, u64::from(len)));
    };
    place.copy_from_slice(bytes);
    data.read += bytes.len();
    Ok(bytes.len() as u32)
}

fn seek_data(mut call: Call<'_>, position: u64) -> Result<()> {
    data(&mut call)?.read = usize::try_from(position).unwrap_or(usize::MAX);
    Ok(())
}

fn get_tag(mut call: Call<'_>) -> Result<i64> {
    let tag = match &call.state().held {
        Some(Held::Data(data)) => data.tag,
        Some(Held::LinkDied { tag, .. }) => *tag,
        Some(Held::Down { .. } | Held::NodeDown { .. }) => None,
        None => return Err(call.trap("the scratch slot is empty")),
    };
    Ok(tag.unwrap_or(0))
}

fn get_process_id(mut call: Call<'_>) -> Result<u64> {
    match &call.state().held {
        Some(Held::Down { pid, .. }) => Ok(pid.raw()),
        Some(_) => Ok(0),
        None => Err(call.trap("the scratch slot is empty")),
    }
}

fn data_size(mut call: Call<'_>) -> Result<u64> {
    Ok(data(&mut call)?.body.as_slice().len() as u64)
}

// ---- resources -----------------------------------------------------------------------------------------

/// A module is shared: the sender keeps it.
fn push_module(mut call: Call<'_>, id: u64) -> Result<u64> {
    let Some(module) = call.state().modules.get(id).cloned() else {
        return Err(call.trap(format_args!("no module {id}")));
    };
    check_room(&mut call)?;
    attach(&mut call, Arc::new(module))
}

fn take_module(mut call: Call<'_>, index: u64) -> Result<u64> {
    let module = detach::<Module>(&mut call, index, "module")?;
    call.state()
        .modules
        .insert(Module::clone(&module))
        .map_err(|full| call.trap(full))
}

/// A socket moves: its id is gone, and it is closed if nobody ever takes it out of the message.
fn push<T: Kind>(mut call: Call<'_>, id: u64) -> Result<u64> {
    networking::find::<T>(&mut call, id)?;
    check_room(&mut call)?;
    let socket = networking::remove::<T>(&mut call, id)?;
    attach(&mut call, socket)
}

fn take_socket<T: Kind>(mut call: Call<'_>, index: u64) -> Result<u64> {
    let socket = detach::<T>(&mut call, index, T::NAME)?;
    networking::keep(&mut call, socket)
}

fn push_tcp_stream(call: Call<'_>, id: u64) -> Result<u64> {
    push::<TcpStream>(call, id)
}

fn take_tcp_stream(call: Call<'_>, index: u64) -> Result<u64> {
    take_socket::<TcpStream>(call, index)
}

fn push_tls_stream(call: Call<'_>, id: u64) -> Result<u64> {
    push::<TlsStream>(call, id)
}

fn take_tls_stream(call: Call<'_>, index: u64) -> Result<u64> {
    take_socket::<TlsStream>(call, index)
}

fn push_udp_socket(call: Call<'_>, id: u64) -> Result<u64> {
    push::<UdpSocket>(call, id)
}

fn take_udp_socket(call: Call<'_>, index: u64) -> Result<u64> {
    take_socket::<UdpSocket>(call, index)
}

/// Traps unless there is a message that takes one more resource.
fn check_room(call: &mut Call<'_>) -> Result<()> {
    if data(call)?.resources.len() == RESOURCES_MAX {
        return Err(call.trap(format_args!(
            "a message has at most {RESOURCES_MAX} resources"
        )));
    }
    Ok(())
}

fn attach(call: &mut Call<'_>, resource: Resource) -> Result<u64> {
    let resources = &mut data(call)?.resources;
    resources.push(Some(resource));
    Ok(resources.len() as u64 - 1)
}

/// Takes a resource of this kind out of the message; one of another kind stays.
fn detach<T: Send + Sync + 'static>(call: &mut Call<'_>, index: u64, kind: &str) -> Result<Arc<T>> {
    let resources = &mut data(call)?.resources;
    let place = usize::try_from(index)
        .ok()
        .and_then(|index| resources.get_mut(index));
    let found = place.and_then(|place| match place.take()?.downcast::<T>() {
        Ok(found) => Some(found),
        Err(other) => {
            *place = Some(other);
            None
        }
    });
    found.ok_or_else(|| call.trap(format_args!("no {kind} at index {index} of the message")))
}

// ---- sending and receiving -----------------------------------------------------------------------------

/// Takes the message out of the slot.
pub(super) fn take(call: &mut Call<'_>) -> Result<Message> {
    match call.state().held.take() {
        Some(Held::Data(data)) => Ok(Message {
            tag: data.tag,
            data: data.body.into_bytes(),
            resources: data.resources.into_iter().flatten().collect(),
        }),
        other => {
            call.state().held = other;
            Err(call.trap(NO_DATA))
        }
    }
}

/// Sends, waiting while the way to a remote receiver is congested. False: its node cannot be reached. A
/// receiver that is gone is no error; a message that cannot leave this node at all is one.
pub(super) async fn deliver(call: &mut Call<'_>, process: u64, message: Message) -> Result<bool> {
    let Some(to) = Pid::from_raw(process) else {
        return Ok(true);
    };
    let context = &mut call.state().context;
    let Err(message) = context.try_send(to, message) else {
        return Ok(true);
    };
    match context.send(to, message).await {
        Ok(()) => Ok(true),
        Err(SendError::Unreachable { .. }) => Ok(false),
        Err(error) => Err(call.trap(error)),
    }
}

async fn send(mut call: Call<'_>, process: u64) -> Result<u32> {
    let message = take(&mut call)?;
    deliver(&mut call, process, message).await?;
    Ok(0)
}

pub(super) async fn send_receive_skip_search(
    mut call: Call<'_>,
    process: u64,
    tag: i64,
    timeout: u64,
) -> Result<u32> {
    let message = take(&mut call)?;
    let reply = ask(&mut call, process, message, tag, timeout).await?;
    Ok(reply.map_or(TIMED_OUT, |reply| hold(call.state(), reply)))
}

/// Sends, and waits for a message with this tag that comes afterwards.
pub(super) async fn ask(
    call: &mut Call<'_>,
    process: u64,
    message: Message,
    tag: i64,
    timeout: u64,
) -> Result<Option<Received>> {
    let deadline = deadline(timeout);
    let mark = call.state().context.mark();
    let sent = deliver(call, process, message);
    match deadline {
        None => sent.await?,
        // A congested way may take longer than the caller can wait: then nothing was sent.
        Some(deadline) => match timeout_at(deadline, sent).await {
            Ok(sent) => sent?,
            Err(_) => return Ok(None),
        },
    };
    Ok(next(call, Filter::Since(tag, mark), timeout, deadline).await)
}

async fn receive(mut call: Call<'_>, tags_ptr: u32, tags_len: u32, timeout: u64) -> Result<u32> {
    let filter = filter(&mut call, tags_ptr, tags_len)?;
    wait(&mut call, filter, timeout, deadline(timeout)).await
}

/// What a receive with these tags accepts.
pub(super) fn filter(call: &mut Call<'_>, tags_ptr: u32, tags_len: u32) -> Result<Filter> {
    match tags_len {
        0 => Ok(Filter::Any),
        1..=TAGS_MAX => {
            let bytes = call.bytes("tags_ptr", tags_ptr, tags_len * 8)?;
            let (tags, _) = bytes.as_chunks::<8>();
            Ok(match tags {
                [tag] => Filter::Tag(i64::from_le_bytes(*tag)),
                tags => Filter::Tags(tags.iter().map(|tag| i64::from_le_bytes(*tag)).collect()),
            })
        }
        _ => Err(call.trap(format_args!("tags_len: more than {TAGS_MAX} tags"))),
    }
}

/// Puts the next message that fits into the slot. On a timeout the slot stays as it is.
async fn wait(
    call: &mut Call<'_>,
    filter: Filter,
    timeout: u64,
    deadline: Option<tokio::time::Instant>,
) -> Result<u32> {
    let received = next(call, filter, timeout, deadline).await;
    Ok(received.map_or(TIMED_OUT, |received| hold(call.state(), received)))
}

/// The next message that fits, at once if it is there. A guest that waits for long hibernates: its memory is not to be
/// looked at until this returns.
pub(super) fn next(
    call: &mut Call<'_>,
    mut filter: Filter,
    timeout: u64,
    deadline: Option<tokio::time::Instant>,
) -> impl Future<Output = Option<Received>> {
    filter.bring_in_order();
    // Every guest that waits keeps this, and an `async fn` would hold twice what it is given.
    async move {
        // Who waits without a limit looks first, too.
        if deadline.is_some() || timeout == 0 {
            match call.state().context.receive_step(&filter) {
                Poll::Ready(Some(received)) => return Some(received),
                Poll::Ready(None) if timeout == 0 => return None,
                Poll::Pending if timeout == 0 => {
                    return Box::pin(look(call.state(), &filter)).await;
                }
                // It goes on looking, if need be.
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        let context = &mut call.state().context;
        match context.receive_or_idle(&filter, deadline).await {
            Ok(None) => hibernating(call, filter, deadline).await,
            Ok(received) => received,
            Err(TimedOut) => None,
        }
    }
}

/// [`hibernate`] in a box, which is made in a frame of its own: calls run on the stack of the guest, and one that has
/// waited for long has nothing of that in a cache.
#[inline(never)]
fn hibernating(
    call: &mut Call<'_>,
    filter: Filter,
    deadline: Option<tokio::time::Instant>,
) -> Pin<Box<impl Future<Output = Option<Received>>>> {
    Box::pin(hibernate(call, filter, deadline))
}

async fn hibernate(
    call: &mut Call<'_>,
    filter: Filter,
    deadline: Option<tokio::time::Instant>,
) -> Option<Received> {
    // A guest without a memory may wait, too.
    let memory = call.memory();
    let asleep = memory.and_then(|memory| Asleep::fall(memory, &mut call.caller));
    let received = {
        let mut wait = pin!(call.state().context.receive(filter, deadline));
        let mut begun = false;
        std::future::poll_fn(|poller| {
            let received = wait.as_mut().poll(poller);
            if received.is_pending() && !std::mem::replace(&mut begun, true) {
                give_unused_stack_back();
            }
            received
        })
        .await
    };
    if let Some(asleep) = asleep {
        asleep.wake(&mut call.caller);
    }
    received
}

/// Looks through a long mailbox in steps; others run in between.
async fn look(state: &mut State, filter: &Filter) -> Option<Received> {
    loop {
        tokio::task::yield_now().await;
        if let Poll::Ready(received) = state.context.receive_step(filter) {
            return received;
        }
    }
}

impl State {
    /// Waits for the next message, whatever it is, and puts it into the slot; the code of its kind. None: it has waited for
    /// long, and goes on with [`State::message_at_last`].
    pub(crate) async fn next_message(&mut self) -> Option<u32> {
        self.busy_ticks = 0;
        // Ready at once if something is there.
        let received = self.context.receive_or_idle(&Filter::Any, None).await;
        received.ok().flatten().map(|received| hold(self, received))
    }

    /// As [`State::next_message`], however long it takes.
    pub(crate) async fn message_at_last(&mut self) -> u32 {
        loop {
            if let Some(received) = self.context.receive(Filter::Any, None).await {
                return hold(self, received);
            }
        }
    }

    /// Empties the slot.
    pub(crate) fn drop_message(&mut self) {
        self.held = None;
    }
}

/// Puts a received message into the slot; the code of its kind.
pub(super) fn hold(state: &mut State, received: Received) -> u32 {
    let (held, kind) = match received {
        Received::Message(Message {
            tag,
            data,
            resources,
        }) => {
            let resources = resources.into_iter().map(Some).collect();
            let data = Data {
                tag,
                body: Body::Shared(data),
                read: 0,
                resources,
            };
            (Held::Data(data), 0)
        }
        Received::LinkDied { pid, tag, reason } => (Held::LinkDied { pid, tag, reason }, 1),
        Received::Down {
            pid,
            reference,
            reason,
        } => (
            Held::Down {
                pid,
                reference,
                reason,
            },
            2,
        ),
        Received::NodeDown {
            node,
            reference,
            reason,
        } => (
            Held::NodeDown {
                node,
                reference,
                reason,
            },
            3,
        ),
    };
    state.held = Some(held);
    kind
}
