//! `tidelock`: sending and receiving in one call each, for messages of bytes.
//!
//! ```text
//! guest's bytes ──try_send──▶ mailbox, or the lane to another node
//! guest's bytes ◀──receive─── own mailbox;  the slot, if they have no room
//! ```

use std::future::Future;
use std::ops::Range;
use std::task::Poll;

use bytes::Bytes;
use tidelock_proto::Pid;

use super::message::{NO_DATA, ask, filter, hold, next, tag};
use super::state::Held;
use super::{
    Call, Caller, Linker, Result, State, TIMED_OUT, TOO_MANY, deadline, outside, sync, trap_in,
    waits,
};
use crate::{Message, Received};

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "tidelock";
        "try_send" => try_send(process: u64, tag: i64, ptr: u32, len: u32);
        "try_receive" => try_receive(tags_ptr: u32, tags_len: u32, ptr: u32, len: u32, found_ptr: u32);
        "take_data" => take_data(ptr: u32, len: u32, found_ptr: u32);
    }
    waits! { linker, "tidelock";
        "receive" => receive(
            tags_ptr: u32, tags_len: u32, timeout: u64, ptr: u32, len: u32, found_ptr: u32
        );
        "request" => request(
            process: u64, tag: i64, ptr: u32, len: u32, reply_tag: i64, timeout: u64,
            reply_ptr: u32, reply_len: u32, found_ptr: u32
        );
    }
    Ok(())
}

/// `create_data`, `write_data` and `send` in one, which never waits and leaves the slot alone. 1: nothing was
/// sent; it would have to wait, or fails, or is too long for the lane.
fn try_send(mut call: Call<'_>, process: u64, raw: i64, ptr: u32, len: u32) -> Result<u32> {
    let (bytes, state) = outgoing(&mut call, ptr, len)?;
    let Some(to) = Pid::from_raw(process) else {
        return Ok(0);
    };
    let sent = state.context.try_send_bytes(to, tag(raw), bytes);
    Ok(u32::from(!sent))
}

/// The bytes of a message to be sent, and the state beside them.
fn outgoing<'a>(call: &'a mut Call<'_>, ptr: u32, len: u32) -> Result<(&'a [u8], &'a mut State)> {
    let name = call.name;
    let (memory, state) = call.parts()?;
    let Some(bytes) = memory.get(ptr as usize..ptr as usize + len as usize) else {
        return Err(outside(name, "ptr", ptr, u64::from(len)));
    };
    let max = state.message_bytes_max;
    if bytes.len() > max {
        let text = format_args!("a message has at most {max} bytes");
        return Err(trap_in(name, text));
    }
    Ok((bytes, state))
}

/// `try_send` and `receive` of the answer in one, which waits: sends, and receives the first message with
/// `reply_tag` that comes afterwards.
#[expect(clippy::too_many_arguments, reason = "the interface has them")]
async fn request(
    mut call: Call<'_>,
    process: u64,
    raw: i64,
    ptr: u32,
    len: u32,
    reply_tag: i64,
    timeout: u64,
    reply_ptr: u32,
    reply_len: u32,
    found_ptr: u32,
) -> Result<u32> {
    let place = Place::new(&mut call, ("reply_ptr", reply_ptr, reply_len), found_ptr)?;
    let (bytes, _) = outgoing(&mut call, ptr, len)?;
    let message = Message::new(tag(raw), Bytes::copy_from_slice(bytes));
    let reply = ask(&mut call, process, message, reply_tag, timeout).await?;
    give(&mut call, reply, place)
}

/// Where a guest wants a received message: inside of its memory, which never shrinks.
struct Place {
    bytes: Range<usize>,
    found: usize,
}

/// Bytes of a tag and a size.
const FOUND_BYTES: usize = 16;

impl Place {
    /// Checks it before anything is received, since what was received must not be lost.
    fn new(call: &mut Call<'_>, to: (&str, u32, u32), found_ptr: u32) -> Result<Self> {
        let (arg, ptr, len) = to;
        let size = call.parts()?.0.len();
        let place = Self {
            bytes: ptr as usize..ptr as usize + len as usize,
            found: found_ptr as usize,
        };
        if place.bytes.end > size {
            return Err(call.outside(arg, ptr, u64::from(len)));
        }
        if place.found + FOUND_BYTES > size {
            return Err(call.outside("found_ptr", found_ptr, FOUND_BYTES as u64));
        }
        Ok(place)
    }

    /// Writes the tag and the size, and the bytes if all of them have room: whether they had.
    fn put(self, memory: &mut [u8], tag: Option<i64>, bytes: &[u8]) -> bool {
        let found = &mut memory[self.found..self.found + FOUND_BYTES];
        found[..8].copy_from_slice(&tag.unwrap_or(0).to_le_bytes());
        found[8..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        let fits = bytes.len() <= self.bytes.len();
        if fits {
            memory[self.bytes][..bytes.len()].copy_from_slice(bytes);
        }
        fits
    }
}

/// Copies what was received, if anything was, to its place. What the place cannot take is in the slot, which is
/// empty otherwise.
fn give(call: &mut Call<'_>, received: Option<Received>, place: Place) -> Result<u32> {
    let Some(received) = received else {
        return Ok(TIMED_OUT);
    };
    let (memory, state) = call.parts()?;
    if let Received::Message(message) = &received
        && place.put(memory, message.tag, &message.data)
        && message.resources.is_empty()
    {
        state.held = None;
        return Ok(0);
    }
    Ok(hold(state, received))
}

/// Receives what is there, in one call that never waits: a guest that only polls computes.
fn try_receive(
    mut call: Call<'_>,
    tags_ptr: u32,
    tags_len: u32,
    ptr: u32,
    len: u32,
    found_ptr: u32,
) -> Result<u32> {
    let place = Place::new(&mut call, ("ptr", ptr, len), found_ptr)?;
    let filter = filter(&mut call, tags_ptr, tags_len)?;
    match call.state().context.receive_step(&filter) {
        Poll::Ready(received) => give(&mut call, received, place),
        Poll::Pending => Ok(TOO_MANY),
    }
}

/// As [`try_receive`], waiting.
fn receive(
    mut call: Call<'_>,
    tags_ptr: u32,
    tags_len: u32,
    timeout: u64,
    ptr: u32,
    len: u32,
    found_ptr: u32,
) -> impl Future<Output = Result<u32>> {
    let place = Place::new(&mut call, ("ptr", ptr, len), found_ptr);
    let wanted = place.and_then(|place| Ok((place, filter(&mut call, tags_ptr, tags_len)?)));
    // What is looked at once is not kept while the guest waits.
    async move {
        let (place, filter) = wanted?;
        let received = next(&mut call, filter, timeout, deadline(timeout)).await;
        give(&mut call, received, place)
    }
}

/// Moves the message in the slot to its place, as if it had been received there.
fn take_data(mut call: Call<'_>, ptr: u32, len: u32, found_ptr: u32) -> Result<()> {
    let place = Place::new(&mut call, ("ptr", ptr, len), found_ptr)?;
    let (memory, state) = call.parts()?;
    let Some(Held::Data(data)) = &state.held else {
        return Err(call.trap(NO_DATA));
    };
    if place.put(memory, data.tag, data.body.as_slice()) && data.resources.is_empty() {
        state.held = None;
    }
    Ok(())
}
