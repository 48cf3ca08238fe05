//! Room for what timers hold until they fire, so that no tenant takes that of another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidelock_proto::Environ;

use crate::registry::SHARE;
use crate::{Limits, MAILBOX_ENTRY_BYTES, Message, Resource};

/// What a message counts while a timer holds it. The timers themselves are counted, too.
pub(crate) fn message_bytes(message: &Message) -> usize {
    let each = MAILBOX_ENTRY_BYTES + size_of::<Resource>();
    message.data.len() + message.resources.len() * each
}

/// Room for the timers of all processes, those that have ended among them.
///
/// The default tenant may take all of it. All others together may take as much, and each of those a tenth.
#[derive(Debug)]
pub(crate) struct Room {
    max: Amount,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    default: Amount,
    /// By all others together, and by each that has any.
    others: Amount,
    by_other: HashMap<Environ, Amount>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    timers: usize,
    bytes: usize,
}

impl Amount {
    fn one(bytes: usize) -> Self {
        Amount { timers: 1, bytes }
    }

    /// Both together, or what there is too much of.
    fn plus(self, more: Amount, max: Amount) -> Result<Amount, String> {
        let full = |max: usize, what: &str| {
            Err(format!(
                "{max} {what} are under way: set fewer, or wait until they fire"
            ))
        };
        let sum = Amount {
            timers: self.timers + more.timers,
            bytes: self.bytes + more.bytes,
        };
        if sum.timers > max.timers {
            return full(max.timers, "timers (all_timers_max)");
        }
        if sum.bytes > max.bytes {
            return full(max.bytes, "bytes of timers (all_timers_bytes_max)");
        }
        Ok(sum)
    }

    fn take_away(&mut self, less: Amount) {
        self.timers -= less.timers;
        self.bytes -= less.bytes;
    }
}

impl Room {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Room {
            max: Amount {
                timers: limits.all_timers_max,
                bytes: limits.all_timers_bytes_max,
            },
            taken: Mutex::default(),
        })
    }

    /// A place for one more timer of this tenant, which also adds its bytes to its process's `own`; without any, the
    /// bound that is reached.
    pub(crate) fn take(
        self: &Arc<Self>,
        environ: Environ,
        own: &Arc<AtomicUsize>,
        bytes: usize,
    ) -> Result<Place, String> {
        let one = Amount::one(bytes);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if environ == Environ::default() {
            taken.default = taken.default.plus(one, self.max)?;
        } else {
            let share = Amount {
                timers: self.max.timers.div_ceil(SHARE),
                bytes: self.max.bytes.div_ceil(SHARE),
            };
            let tenant = taken.by_other.get(&environ).copied().unwrap_or_default();
            let tenant = tenant.plus(one, share)?;
            taken.others = taken.others.plus(one, self.max)?;
            taken.by_other.insert(environ, tenant);
        }
        own.fetch_add(bytes, Ordering::Relaxed);
        Ok(Place {
            room: self.clone(),
            environ,
            own: own.clone(),
            bytes,
        })
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
        let one = Amount::one(self.bytes);
        self.own.fetch_sub(self.bytes, Ordering::Relaxed);
        let taken = &self.room.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if self.environ == Environ::default() {
            taken.default.take_away(one);
            return;
        }
        taken.others.take_away(one);
        if let Some(tenant) = taken.by_other.get_mut(&self.environ) {
            tenant.take_away(one);
            if tenant.timers == 0 {
                taken.by_other.remove(&self.environ);
            }
        }
    }
}
