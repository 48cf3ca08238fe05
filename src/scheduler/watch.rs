//! Threads that are held up: what waits behind them is handed to others.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use super::{Queues, run};

/// How often the watch looks at what the threads do, and how often while all of them are idle.
const LOOK: Duration = Duration::from_millis(2);
const IDLE_LOOK: Duration = Duration::from_millis(20);
/// Spare threads at once. Tasks wait beyond that.
const SPARES_MAX: usize = 64;

/// Looks after threads that are held up, as long as the scheduler is there.
pub(super) fn look(runtime: &Handle, watched: &Weak<Queues>) {
    let mut seen = Vec::new();
    loop {
        let Some(queues) = watched.upgrade().filter(|queues| !queues.is_closed()) else {
            return;
        };
        let pulses = queues
            .places
            .iter()
            .map(|place| place.pulse.load(Ordering::Relaxed));
        let last = std::mem::replace(&mut seen, pulses.collect());
        let held_up = last.iter().zip(&seen).zip(&queues.places);
        let held_up = held_up.filter(|((last, now), _)| last == now && *now % 2 == 1);
        let mut count = 0;
        for (_, place) in held_up {
            count += 1;
            let next = place.next().take();
            if let Some(next) = next {
                queues.inject(next);
            }
        }
        if count == seen.len() && queues.has_more() {
            spare(runtime, &queues);
        }
        let looks = queues.computing.load(Ordering::Relaxed);
        queues
            .computing
            .store(looks.saturating_sub(1), Ordering::Relaxed);
        let is_idle = queues.parked.load(Ordering::Relaxed) == seen.len();
        drop(queues);
        std::thread::sleep(if is_idle { IDLE_LOOK } else { LOOK });
    }
}

/// Starts a thread that runs what waits, until nothing does.
fn spare(runtime: &Handle, queues: &Arc<Queues>) {
    if queues.spares.fetch_add(1, Ordering::Relaxed) >= SPARES_MAX {
        queues.spares.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let (runtime, helped) = (runtime.clone(), queues.clone());
    let thread = std::thread::Builder::new().name("tidelock-spare".into());
    let started = thread.spawn(move || {
        let _entered = runtime.enter();
        while let Some(runnable) = helped.steal() {
            run(runnable);
        }
        helped.spares.fetch_sub(1, Ordering::Relaxed);
    });
    if let Err(error) = started {
        queues.spares.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!("no spare thread can be started: {error}");
    }
}
