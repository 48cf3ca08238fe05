//! The last events and lines of output, for those who ask later.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use tidelock::{Environment, Happening, Pid};
use tidelock_control::api::{Event, EventKind, LogLine, Stream};
use tokio::sync::{
    broadcast::error::{RecvError, TryRecvError},
    watch,
};

/// Of so many processes that were started last are the lines kept apart, whether they live or not; those of an older one come to all
/// others' when there is one more.
const APART_MAX: usize = 64;

/// So many events come to the others at once; meanwhile nobody reads them.
const TOGETHER_MAX: usize = 256;

/// How long events gather before the next look at them.
const EVENTS_PAUSE: Duration = Duration::from_millis(5);

/// What one node remembers. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    node: String,
    pub(super) events: Kept<Noted>,
    pub(super) lines: Kept<LogLine>,
    /// Lines of the processes that asked for it.
    pub(super) apart: Kept<LogLine>,
    /// Those processes, in the order they were started.
    asked: Arc<Mutex<VecDeque<Pid>>>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({})", self.node)
    }
}

impl Journal {
    /// Listens to `environment` from now on and keeps that many events and lines.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn keep(environment: &Environment, events_max: usize, lines_max: usize) -> Self {
        let journal = Self {
            node: environment.node().to_string(),
            events: Kept::new(events_max),
            lines: Kept::new(lines_max),
            apart: Kept::new(lines_max),
            asked: Arc::default(),
        };
        tokio::spawn(journal.clone().keep_events(environment.events()));
        tokio::spawn(journal.clone().keep_lines(environment.output()));
        journal
    }

    /// Adds an event that no process causes: a session, a drain.
    pub fn record(&self, kind: EventKind, peer: Option<String>, reason: Option<String>) {
        self.events.extend([self.of_node(kind, peer, reason)]);
    }

    fn of_node(&self, kind: EventKind, peer: Option<String>, reason: Option<String>) -> Noted {
        Noted::Node(Box::new(Event {
            peer,
            reason,
            ..self.empty(Timestamp::now(), kind)
        }))
    }

    fn empty(&self, time: Timestamp, kind: EventKind) -> Event {
        Event {
            time,
            node: self.node.clone(),
            kind,
            pid: None,
            peer: None,
            reason: None,
            module: None,
            entry: None,
            detail: None,
        }
    }

    /// Starts a process whose lines are kept apart, from its first one on.
    pub(super) fn start_apart<E>(&self, start: impl FnOnce() -> Result<Pid, E>) -> Result<Pid, E> {
        // None of its lines is looked at before it is among those that asked.
        let mut asked = self.asked();
        let pid = start()?;
        if asked.len() == APART_MAX {
            asked.pop_front();
        }
        asked.push_back(pid);
        Ok(pid)
    }

    fn asked(&self) -> MutexGuard<'_, VecDeque<Pid>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines_of(&self, pid: Pid) -> &Kept<LogLine> {
        match self.asked().contains(&pid) {
            true => &self.apart,
            false => &self.lines,
        }
    }

    async fn keep_events(self, mut from: tokio::sync::broadcast::Receiver<tidelock::Event>) {
        let mut noted = Vec::new();
        loop {
            // How many there are is not asked: that takes the lock at which all meet who cause one.
            let next = match from.try_recv() {
                Ok(event) => Ok(event),
                Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
                Err(TryRecvError::Empty) => {
                    if !noted.is_empty() {
                        self.events.extend(noted.drain(..));
                        // Else whoever causes an event would wake this task, once for each.
                        tokio::time::sleep(EVENTS_PAUSE).await;
                    }
                    from.recv().await
                }
            };
            match next {
                Ok(event) => note(event, &mut noted),
                Err(RecvError::Lagged(missed)) => {
                    let missed = format!("{missed} events came too fast to be kept");
                    noted.push(self.of_node(EventKind::Log, None, Some(missed)));
                }
                Err(RecvError::Closed) => {
                    self.events.extend(noted);
                    return;
                }
            }
            if noted.len() >= TOGETHER_MAX {
                self.events.extend(noted.drain(..));
                tokio::task::yield_now().await;
            }
        }
    }

    async fn keep_lines(self, mut from: tokio::sync::broadcast::Receiver<tidelock::OutputLine>) {
        loop {
            match from.recv().await {
                Ok(line) => self.lines_of(line.pid).extend([LogLine {
                    time: Timestamp::now(),
                    pid: line.pid.to_string(),
                    stream: match line.stream {
                        tidelock::Stream::Stdout => Stream::Stdout,
                        tidelock::Stream::Stderr => Stream::Stderr,
                    },
                    line: String::from_utf8_lossy(&line.line).into_owned(),
                }]),
                Err(RecvError::Lagged(missed)) => {
                    let missed = format!("{missed} lines of output came too fast to be kept");
                    self.record(EventKind::Log, None, Some(missed));
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// An event as it is told.
    pub(super) fn told(&self, noted: &Noted) -> Event {
        let event = match noted {
            Noted::Node(event) => return Event::clone(event),
            Noted::Linked { at, parent, child } => {
                return Event {
                    pid: parent.map(|parent| parent.to_string()),
                    peer: Some(child.to_string()),
                    ..self.empty(time(*at), EventKind::Linked)
                };
            }
            Noted::Process(event) => event,
        };
        let mut told = Event {
            pid: Some(event.pid.to_string()),
            ..self.empty(time(event.at), EventKind::Other)
        };
        match &event.what {
            Happening::Spawned {
                name,
                module,
                parent,
                linked: _,
            } => {
                told.kind = EventKind::Spawned;
                told.peer = parent.map(|parent| parent.to_string());
                told.entry = Some(name.to_string());
                told.module = module.map(|module| module.to_string());
            }
            Happening::Linked { peer } => {
                told.kind = EventKind::Linked;
                told.peer = Some(peer.to_string());
            }
            Happening::Ended {
                reason,
                name,
                module,
            } => {
                told.kind = EventKind::Ended;
                told.reason = Some(reason.to_string());
                told.entry = Some(name.to_string());
                told.module = module.map(|module| module.to_string());
            }
            Happening::Said { text } => {
                told.kind = EventKind::Log;
                told.detail = Some(text.clone());
            }
            _ => {}
        }
        told
    }

    /// How a process began and how it ended, if that is still kept.
    pub(super) fn life_of(&self, pid: Pid) -> (Option<Event>, Option<Event>) {
        let (mut began, mut ended) = (None, None);
        for noted in self.events.since(0, usize::MAX).1 {
            if let Noted::Process(event) = &noted
                && event.pid == pid
            {
                match event.what {
                    Happening::Spawned { .. } => began = Some(self.told(&noted)),
                    Happening::Ended { .. } => ended = Some(self.told(&noted)),
                    _ => {}
                }
            }
        }
        (began, ended)
    }
}

/// An event as it is kept. It is written out for whoever asks: most are never asked for.
#[derive(Clone)]
pub(super) enum Noted {
    /// Of a process.
    Process(tidelock::Event),
    /// The link that a process was spawned with. Its parent asked for it, by its spawn.
    Linked {
        at: SystemTime,
        parent: Option<Pid>,
        child: Pid,
    },
    /// Of the node.
    Node(Box<Event>),
}

fn note(event: tidelock::Event, noted: &mut Vec<Noted>) {
    let linked = match event.what {
        Happening::Spawned {
            parent,
            linked: true,
            ..
        } => Some(Noted::Linked {
            at: event.at,
            parent,
            child: event.pid,
        }),
        _ => None,
    };
    noted.push(Noted::Process(event));
    noted.extend(linked);
}

/// A time as the API has it.
pub(super) fn time(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_else(|_| Timestamp::now())
}

/// The last so many of something, numbered.
pub struct Kept<T>(Arc<Ring<T>>);

struct Ring<T> {
    max: usize,
    inner: Mutex<Inner<T>>,
    /// The number that the next one gets.
    next: watch::Sender<u64>,
}

struct Inner<T> {
    first: u64,
    items: VecDeque<T>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Kept<T> {
    /// Keeps `max` of them, at least one.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let inner = Mutex::new(Inner {
            first: 0,
            items: VecDeque::new(),
        });
        Self(Arc::new(Ring {
            max: max.max(1),
            inner,
            next: watch::channel(0).0,
        }))
    }

    /// Adds these; the oldest make room.
    pub fn extend(&self, items: impl IntoIterator<Item = T>) {
        let next = {
            let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
            for item in items {
                if inner.items.len() == self.0.max {
                    inner.items.pop_front();
                    inner.first += 1;
                }
                inner.items.push_back(item);
            }
            inner.first + inner.items.len() as u64
        };
        self.0.next.send_modify(|seen| *seen = next.max(*seen));
    }

    /// What is kept from number `from` on, at most `limit` of them: how many before it are gone, the
    /// items, and the number to ask for next.
    pub fn since(&self, from: u64, limit: usize) -> (u64, Vec<T>, u64) {
        let inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let start = from.max(inner.first);
        let skip = usize::try_from(start - inner.first).unwrap_or(usize::MAX);
        let items: Vec<T> = inner.items.iter().skip(skip).take(limit).cloned().collect();
        let next = start + items.len() as u64;
        (start - from, items, next)
    }

    /// Waits until number `from` is there.
    pub async fn wait(&self, from: u64) {
        let mut next = self.0.next.subscribe();
        // The sender lives as long as we do.
        let _ = next.wait_for(|next| *next > from).await;
    }
}

#[cfg(test)]
mod tests {
    use tidelock::{EnvironmentConfig, ExitReason, SpawnOptions};

    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_room_and_is_counted() {
        let kept = Kept::new(3);
        for number in 0..5 {
            kept.extend([number]);
        }
        assert_eq!(kept.since(0, 10), (2, vec![2, 3, 4], 5));
        assert_eq!(kept.since(0, 1), (2, vec![2], 3));
        assert_eq!(kept.since(5, 10), (0, vec![], 5));
        kept.wait(4).await;
        let later = kept.clone();
        let waiting = tokio::spawn(async move {
            later.wait(5).await;
            later.since(5, 10).1
        });
        kept.extend([5]);
        assert_eq!(waiting.await.unwrap(), [5]);
    }
    #[tokio::test]
    async fn lines_are_kept_apart_for_whoever_asks() {
        let environment = Environment::new(EnvironmentConfig::default()).unwrap();
        let journal = Journal::keep(&environment, 10, 10);
        let start = || {
            environment.spawn_native("one", SpawnOptions::default(), |_| async {
                ExitReason::Normal
            })
        };
        let first = journal.start_apart(start).unwrap();
        let is_apart = |pid| Arc::ptr_eq(&journal.lines_of(pid).0, &journal.apart.0);
        assert!(is_apart(first) && !is_apart(start().unwrap()));
        for _ in 0..APART_MAX {
            let pid = journal.start_apart(start).unwrap();
            assert!(is_apart(pid));
        }
        assert!(!is_apart(first), "the first one made room");
    }

    #[tokio::test]
    async fn events_that_come_together_are_all_kept_in_their_order() {
        let environment = Environment::new(EnvironmentConfig::default()).unwrap();
        let count = 2 * TOGETHER_MAX + 1;
        let journal = Journal::keep(&environment, 2 * count, 10);
        let spawn = || {
            let options = SpawnOptions::default();
            environment.spawn_native("one", options, |_| async { ExitReason::Normal })
        };
        let pids: Vec<Pid> = (0..count).map(|_| spawn().unwrap()).collect();
        journal.events.wait(2 * count as u64 - 1).await;
        let (gone, noted, _) = journal.events.since(0, usize::MAX);
        let began = noted.iter().filter_map(|noted| match noted {
            Noted::Process(event) => match event.what {
                Happening::Spawned { .. } => Some(event.pid),
                _ => None,
            },
            _ => None,
        });
        assert!(gone == 0 && began.eq(pids));
    }

    #[tokio::test]
    async fn an_event_says_what_it_is_about() {
        let environment = Environment::new(EnvironmentConfig::default()).unwrap();
        let journal = Journal::keep(&environment, 10, 10);
        let options = SpawnOptions::default();
        let parent = environment.spawn_native("parent", options, |mut me| async move {
            let child = me.spawn_native_link("child", None, |_| async { ExitReason::Normal });
            child.unwrap();
            ExitReason::Exit(3)
        });
        let parent = parent.unwrap().to_string();
        // Two that were spawned and have ended, and their link.
        journal.events.wait(4).await;
        let (_, noted, _) = journal.events.since(0, 10);
        let events: Vec<Event> = noted.iter().map(|noted| journal.told(noted)).collect();
        let ended = |pid: &str| {
            let mut ended = events.iter().filter(|event| event.kind == EventKind::Ended);
            let event = ended
                .find(|event| event.pid.as_deref() == Some(pid))
                .unwrap();
            event.entry.clone().unwrap()
        };
        assert_eq!(ended(&parent), "parent");
        let linked = events.iter().find(|event| event.kind == EventKind::Linked);
        let linked = linked.unwrap();
        assert_eq!(linked.pid.as_ref(), Some(&parent));
        assert_eq!(ended(linked.peer.as_ref().unwrap()), "child");
    }
}
