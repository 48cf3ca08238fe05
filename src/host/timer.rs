//! `lunatic::timer`: sending the scratch message later.

use std::time::Duration;

use tidelock_proto::Pid;

use super::{Call, Caller, Linker, Result, message, sync};

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::timer";
        "send_after" => send_after(process: u64, delay: u64);
        "cancel_timer" => cancel_timer(timer: u64);
    }
    Ok(())
}

/// The timer outlives its sender. That of nobody has fired already.
fn send_after(mut call: Call<'_>, process: u64, delay: u64) -> Result<u64> {
    let message = message::take(&mut call)?;
    let delay = Duration::from_millis(delay);
    let context = &mut call.state().context;
    Ok(match Pid::from_raw(process) {
        Some(to) => context.send_after(to, message, delay),
        None => context.fired_timer(),
    })
}

fn cancel_timer(mut call: Call<'_>, timer: u64) -> Result<u32> {
    Ok(u32::from(call.state().context.cancel_timer(timer)))
}
