//! The coordinator: deals chunks to workers, adds up what comes back, replaces the lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tidelock_guest::{
    LinkDied, NodeId, Pid, Received, Spawn, SpawnError, die_when_link_dies, me, node_id, nodes,
    receive, send,
};

use crate::arguments::Options;
use crate::count::Counts;
use crate::report::{self, Lost};
use crate::text::Text;
use crate::{wire, worker};

/// The tag of the links to workers.
const WORKER: i64 = 100;

/// How long to wait for the notices of a lost node's other workers after the last answer.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no result.
pub(crate) enum Failure {
    /// Held the work back for a loss that did not come.
    NobodyLost,
    /// Anything else, in words.
    Other(String),
}

impl From<String> for Failure {
    fn from(fault: String) -> Self {
        Self::Other(fault)
    }
}

/// Counts what `options` name and reports the result.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let began = Instant::now();
    // The end of a worker is news here, not the end.
    die_when_link_dies(false);

    let (text, total_bytes) = Text::new(&options.files, options.chunk)?;
    let here = node_id();
    let mut places: Vec<NodeId> = nodes().into_iter().filter(|node| *node != here).collect();
    places.sort();
    report::started(me(), &places, options.files.len(), total_bytes);
    if places.is_empty() {
        places.push(here);
    }

    let mut coordinator = Coordinator {
        workers: BTreeMap::new(),
        doomed: BTreeMap::new(),
        text: Some(text),
        again: VecDeque::new(),
        next_number: 0,
        dealt_bytes: 0,
        hold: match options.hold_at {
            Some(percent) => Hold::Ahead {
                percent,
                bytes: total_bytes * percent / 100,
            },
            None => Hold::Over,
        },
        window: options.window,
        counts: Counts::new(),
        done_bytes: 0,
        total_bytes,
        told_bytes: 0,
        resent: 0,
        lost: Vec::new(),
        lost_nodes: BTreeSet::new(),
    };
    for _ in 0..options.workers {
        for place in &places {
            let pid = coordinator.spawn_worker(Some(*place))?;
            report::spawned(pid);
        }
    }

    while !coordinator.is_done() {
        coordinator.deal()?;
        let limit = coordinator.begin_hold(options.hold_timeout)?;
        match receive(&[], limit) {
            Received::Data(data) if data.tag == wire::ANSWER => {
                coordinator.answered(&data.bytes)?
            }
            Received::LinkDied(died) => coordinator.worker_lost(died)?,
            Received::Timeout => return Err(Failure::NobodyLost),
            Received::Data(_) | Received::Down(_) | Received::NodeDown(_) => {}
        }
    }
    coordinator.finish()?;
    report::result(
        &coordinator.counts,
        coordinator.next_number,
        coordinator.resent,
        &coordinator.lost,
        began.elapsed().as_millis(),
    );
    Ok(())
}

/// A part of the text that has a number. The text is kept until the answer is there.
struct Chunk {
    number: u64,
    text: Vec<u8>,
}

/// Whether the work is to be held back until a worker is lost.
enum Hold {
    /// At this many bytes.
    Ahead { percent: u64, bytes: u64 },
    /// Until the time given; workers keep their answers.
    Now { until: Instant },
    /// Not, or no more.
    Over,
}

struct Coordinator {
    /// The living, each with the chunks it has not answered.
    workers: BTreeMap<Pid, Vec<Chunk>>,
    /// Workers of lost nodes whose own notice is still to come, with how many chunks they had.
    /// Nothing is sent to them: that would wait for a node that does not answer.
    doomed: BTreeMap<Pid, usize>,
    /// What was not read yet. `None` at the end.
    text: Option<Text>,
    /// Chunks of lost workers, to be dealt again.
    again: VecDeque<Chunk>,
    /// The number of the next chunk; so many were read.
    next_number: u64,
    dealt_bytes: u64,
    hold: Hold,
    window: usize,
    counts: Counts,
    done_bytes: u64,
    total_bytes: u64,
    /// `done_bytes` when progress was last told.
    told_bytes: u64,
    resent: u64,
    lost: Vec<Lost>,
    lost_nodes: BTreeSet<NodeId>,
}

impl Coordinator {
    fn is_done(&self) -> bool {
        self.text.is_none() && self.again.is_empty() && self.outstanding() == 0
    }

    fn outstanding(&self) -> usize {
        self.workers.values().map(Vec::len).sum()
    }

    /// The workers whose node is not known to be lost.
    ///
    /// The notices of one node's workers come one after the other. Between them, a message to
    /// the next one would wait for a node that does not answer.
    fn reachable(&self) -> impl Iterator<Item = Pid> {
        self.workers
            .keys()
            .copied()
            .filter(|pid| !self.lost_nodes.contains(&pid.node()))
    }

    /// Fills the windows of all workers, the emptiest first.
    fn deal(&mut self) -> Result<(), Failure> {
        loop {
            if let Hold::Ahead { bytes, .. } = self.hold
                && self.dealt_bytes >= bytes
                && self.again.is_empty()
            {
                return Ok(());
            }
            let Some((&pid, chunks)) = self
                .workers
                .iter_mut()
                .filter(|(pid, chunks)| {
                    chunks.len() < self.window && !self.lost_nodes.contains(&pid.node())
                })
                .min_by_key(|(_, chunks)| chunks.len())
            else {
                return Ok(());
            };
            let chunk = match self.again.pop_front() {
                Some(chunk) => {
                    self.resent += 1;
                    chunk
                }
                None => match self.text.as_mut().map(Text::next_chunk).transpose()? {
                    Some(Some(text)) => {
                        self.dealt_bytes += text.len() as u64;
                        self.next_number += 1;
                        Chunk {
                            number: self.next_number - 1,
                            text,
                        }
                    }
                    Some(None) => {
                        self.text = None;
                        continue;
                    }
                    None => return Ok(()),
                },
            };
            send(pid, wire::COUNT, &wire::chunk(chunk.number, &chunk.text));
            chunks.push(chunk);
        }
    }

    /// Begins to hold when it is time, and says how long the next message may take.
    ///
    /// Holding starts at a point where every chunk is answered. Then the windows are filled
    /// once more, and those answers are kept back by the workers: whoever is lost now is
    /// lost with work in hand.
    fn begin_hold(&mut self, timeout: Duration) -> Result<Option<Duration>, Failure> {
        if let Hold::Ahead { percent, bytes } = self.hold
            && self.dealt_bytes >= bytes
            && self.outstanding() == 0
            && self.again.is_empty()
        {
            for pid in self.reachable() {
                send(pid, wire::HOLD, &[]);
            }
            self.hold = Hold::Now {
                until: Instant::now() + timeout,
            };
            self.deal()?;
            report::holding(
                percent,
                self.done_bytes,
                self.total_bytes,
                self.outstanding(),
            );
        }
        Ok(match self.hold {
            Hold::Now { until } => Some(until.saturating_duration_since(Instant::now())),
            Hold::Ahead { .. } | Hold::Over => None,
        })
    }

    /// Adds up an answer, if it answers something that is outstanding.
    fn answered(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let garbled = || Failure::Other("an answer that is none".to_owned());
        let (pid, number, counts) = wire::read_answer(bytes).ok_or_else(garbled)?;
        let Some(chunks) = Pid::from_raw(pid).and_then(|pid| self.workers.get_mut(&pid)) else {
            return Ok(());
        };
        let Some(at) = chunks.iter().position(|chunk| chunk.number == number) else {
            return Ok(());
        };
        self.done_bytes += chunks.remove(at).text.len() as u64;
        wire::add_answer(&mut self.counts, counts).ok_or_else(garbled)?;

        if self.done_bytes == self.total_bytes
            || (self.done_bytes - self.told_bytes) * 50 >= self.total_bytes
        {
            self.told_bytes = self.done_bytes;
            report::progress(self.done_bytes, self.total_bytes);
        }
        Ok(())
    }

    /// Notes the end of a worker, takes its chunks back and replaces it.
    fn worker_lost(&mut self, died: LinkDied) -> Result<(), Failure> {
        if died.tag != WORKER {
            return Ok(());
        }
        if died.reason.is_node_down() {
            self.node_lost(died.pid.node());
        }
        if let Some(before) = self.lost.iter_mut().find(|lost| lost.pid == died.pid) {
            before.notices += 1;
            report::lost(before, 0);
            return Ok(());
        }
        let outstanding = match self.doomed.remove(&died.pid) {
            Some(outstanding) => outstanding,
            None => self.take_back(died.pid),
        };
        let lost = Lost {
            pid: died.pid,
            reason: died.reason,
            notices: 1,
        };
        report::lost(&lost, outstanding);
        self.lost.push(lost);

        // Waited for, or come early: either way there is nothing more to wait for.
        if let Hold::Now { .. } = std::mem::replace(&mut self.hold, Hold::Over) {
            for pid in self.reachable() {
                send(pid, wire::RELEASE, &[]);
            }
        }
        let pid = self.spawn_worker(None)?;
        report::respawned(pid, died.pid);
        Ok(())
    }

    /// Takes back the chunks of everyone who was there. The notices come one by one.
    fn node_lost(&mut self, node: NodeId) {
        self.lost_nodes.insert(node);
        let there: Vec<Pid> = self
            .workers
            .keys()
            .copied()
            .filter(|pid| pid.node() == node)
            .collect();
        for pid in there {
            let outstanding = self.take_back(pid);
            self.doomed.insert(pid, outstanding);
        }
    }

    /// Strikes a worker out; its chunks will be dealt again. Says how many.
    fn take_back(&mut self, pid: Pid) -> usize {
        let chunks = self.workers.remove(&pid).unwrap_or_default();
        let outstanding = chunks.len();
        self.again.extend(chunks);
        outstanding
    }

    /// Spawns a worker on the node asked for, or on the live one with the fewest.
    ///
    /// A node that cannot take one is passed over; this node is the last resort.
    fn spawn_worker(&mut self, place: Option<NodeId>) -> Result<Pid, Failure> {
        let here = node_id();
        let mut candidates: Vec<NodeId> = nodes()
            .into_iter()
            .filter(|node| *node != here && !self.lost_nodes.contains(node))
            .collect();
        candidates.sort_by_key(|node| {
            let busy = self
                .workers
                .keys()
                .filter(|pid| pid.node() == *node)
                .count();
            (Some(*node) != place, busy, *node)
        });
        candidates.push(here);

        let mut last = None;
        for node in candidates {
            match Spawn::new()
                .on(node)
                .linked(WORKER)
                .start(worker::run, me().raw())
            {
                Ok(pid) => {
                    self.workers.insert(pid, Vec::new());
                    return Ok(pid);
                }
                Err(error @ SpawnError::NotPermitted(_)) => {
                    return Err(Failure::Other(format!("{node}: {error}")));
                }
                Err(error) => last = Some(format!("{node}: {error}")),
            }
        }
        Err(Failure::Other(last.expect("this node was tried")))
    }

    /// Collects the notices still under way, then lets the workers go.
    ///
    /// Everyone on a lost node is lost: the notices of those that had nothing outstanding
    /// may come after the last answer.
    fn finish(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + NOTICE_TIMEOUT;
        loop {
            let missing = !self.doomed.is_empty();
            let limit = match missing {
                true => until.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            match receive(&[], Some(limit)) {
                Received::LinkDied(died) => self.worker_lost(died)?,
                Received::Timeout if missing => {
                    return Err(Failure::Other(
                        "a worker of a lost node was never reported".to_owned(),
                    ));
                }
                Received::Timeout => break,
                Received::Data(_) | Received::Down(_) | Received::NodeDown(_) => {}
            }
        }
        for pid in self.reachable() {
            send(pid, wire::STOP, &[]);
        }
        Ok(())
    }
}
