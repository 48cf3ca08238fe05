//! Room for what timers hold until they fire, so that no tenant takes that of another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidelock_proto::Environ;

use crate::shares::{Full, Shares};
use crate::{Limits, MAILBOX_ENTRY_BYTES, Message, Resource};

/// What a message counts while a timer holds it. The timers themselves are counted, too.
pub(crate) fn message_bytes(message: &Message) -> usize {
    let each = MAILBOX_ENTRY_BYTES + size_of::<Resource>();
    message.data.len() + message.resources.len() * each
}

/// Room for the timers of all processes, those that have ended among them, [shared](Shares) by tenants.
#[derive(Debug)]
pub(crate) struct Room(Mutex<Taken>);

#[derive(Debug)]
struct Taken {
    timers: Shares,
    bytes: Shares,
}

impl Room {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Room(Mutex::new(Taken {
            timers: Shares::new(limits.all_timers_max),
            bytes: Shares::new(limits.all_timers_bytes_max),
        })))
    }

    /// A place for one more timer of this tenant, which also adds its bytes to its process's `own`; without any, the
    /// bound that is reached.
    pub(crate) fn take(
        self: &Arc<Self>,
        environ: Environ,
        own: &Arc<AtomicUsize>,
        bytes: usize,
    ) -> Result<Place, String> {
        let full = |full: Full, what: &str| {
            let max = full.max();
            format!("{max} {what} are under way: set fewer, or wait until they fire")
        };
        let mut taken = self.taken();
        let timer = taken.timers.take(environ, 1);
        timer.map_err(|reached| full(reached, "timers (all_timers_max)"))?;
        if let Err(reached) = taken.bytes.take(environ, bytes) {
            taken.timers.give_back(environ, 1);
            return Err(full(reached, "bytes of timers (all_timers_bytes_max)"));
        }
        own.fetch_add(bytes, Ordering::Relaxed);
        Ok(Place {
            room: self.clone(),
            environ,
            own: own.clone(),
            bytes,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one timer takes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Room>,
    environ: Environ,
    own: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.own.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut taken = self.room.taken();
        taken.timers.give_back(self.environ, 1);
        taken.bytes.give_back(self.environ, self.bytes);
    }
}
