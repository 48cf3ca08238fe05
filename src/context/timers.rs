//! Timers of a process: messages that are sent later, unless they are taken back before.
//!
//! A timer that was set outlives its process. How many there may be, and with how much in them, is bounded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tidelock_proto::{ExitReason, Pid};
use tokio::task::AbortHandle;

use super::Context;
use crate::SendError;
use crate::mailbox::Message;
use crate::timers::{Place, message_bytes};

/// Timers from which on those that have fired are swept out.
const SWEPT_MIN: usize = 64;

/// The timers of one process.
pub(super) struct Timers {
    set: HashMap<u64, Timer>,
    /// At how many the finished ones are swept out next.
    swept_at: usize,
    next: u64,
    /// Bytes of those that have not fired. Each of them holds it, too, so its holders tell how many there are.
    held: Arc<AtomicUsize>,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            set: HashMap::new(),
            swept_at: SWEPT_MIN,
            next: 0,
            held: Arc::default(),
        }
    }
}

/// A timer that was set. Whoever takes the message out first, to send it or to have it back, has it alone.
struct Timer {
    unsent: Weak<Mutex<Option<Unsent>>>,
    task: AbortHandle,
}

/// What a timer sends, and its place among the timers of its process and of the environment until it is sent.
struct Unsent {
    message: Message,
    _place: Place,
}

fn take_out(unsent: &Mutex<Option<Unsent>>) -> Option<Unsent> {
    unsent.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Context {
    /// Sends a message later. The timer outlives this process.
    ///
    /// One more timer than [`Limits`](crate::Limits) allow is not set: this process ends.
    pub fn send_after(&mut self, to: Pid, message: Message, delay: Duration) -> u64 {
        let timer = self.fired_timer();
        let unsent = match self.unsent(message) {
            Ok(unsent) => Arc::new(Mutex::new(Some(unsent))),
            Err(why) => {
                self.shared.condemn(ExitReason::Limit(why));
                return timer;
            }
        };
        let timers = self.timers.get_or_insert_default();
        if timers.set.len() >= timers.swept_at {
            let set = &mut timers.set;
            set.retain(|_, timer| timer.unsent.strong_count() > 0);
            timers.swept_at = (timers.set.len() * 2).max(SWEPT_MIN);
        }
        let (env, environ, from) = (
            self.shared.env.clone(),
            self.shared.about.environ,
            self.shared.pid,
        );
        let kept = Arc::downgrade(&unsent);
        let task = self.shared.env.scheduler().runtime().spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(unsent) = take_out(&unsent) {
                let sent = env.send_as(environ, from, to, unsent.message);
                // A node that cannot be reached is silence, as a process that is gone.
                let _: Result<(), SendError> = sent.await;
            }
        });
        let set = Timer {
            unsent: kept,
            task: task.abort_handle(),
        };
        timers.set.insert(timer, set);
        timer
    }

    /// The number of a timer that has fired, since its message is for nobody.
    pub(crate) fn fired_timer(&mut self) -> u64 {
        let timers = self.timers.get_or_insert_default();
        let timer = timers.next;
        timers.next += 1;
        timer
    }

    /// A message for a timer, with its room; without any, the bound that is reached.
    fn unsent(&mut self, message: Message) -> Result<Unsent, String> {
        let env = &self.shared.env;
        let own = &self.timers.get_or_insert_default().held;
        let bytes = message_bytes(&message);
        let full = |max: usize, what: &str| {
            Err(format!(
                "{max} {what}: cancel some, or wait until they fire"
            ))
        };
        let (max, bytes_max) = (env.limits().timers_max, env.limits().timers_bytes_max);
        // One of the holders is this process.
        if Arc::strong_count(own) > max {
            return full(max, "timers under way (timers_max)");
        }
        if own.load(Ordering::Relaxed) + bytes > bytes_max {
            return full(bytes_max, "bytes of timers under way (timers_bytes_max)");
        }
        let environ = self.shared.about.environ;
        let place = env.timer_room().take(environ, own, bytes)?;
        Ok(Unsent {
            message,
            _place: place,
        })
    }

    /// Takes a timer back; `false` if there is none, or it has fired. Its message is sent if and only if it has.
    pub fn cancel_timer(&mut self, timer: u64) -> bool {
        let timers = self.timers.as_mut();
        let set = timers.and_then(|timers| timers.set.remove(&timer));
        let Some(Timer { unsent, task }) = set else {
            return false;
        };
        let unsent = unsent.upgrade();
        let taken = unsent.and_then(|unsent| take_out(&unsent));
        if taken.is_some() {
            task.abort();
        }
        taken.is_some()
    }
}
