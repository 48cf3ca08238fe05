//! What nodes send line by line: all that is there, or each line as it comes; of one node or of many.
//!
//! A node that is asked again begins anew. So its lines are counted: what was read before is not handed over twice,
//! and what the node had no longer is told.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{join_all, try_join},
    stream::FuturesUnordered,
};
use jiff::Timestamp;
use reqwest::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tidelock_control::api::NodeInfo;
use tokio::sync::mpsc;

use super::{
    Cluster, merge,
    request::{Whom, cause, checked},
};
use crate::cli::{
    failure::{Failure, Outcome, plain},
    output::{Output, Tone},
};

/// How often control is asked for new nodes while lines are followed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A line of a stream may be so long, and no longer.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Lines of several nodes on their way to the one printer.
const LINES_WAITING_MAX: usize = 256;

/// A line that a node sends.
#[derive(Debug)]
pub(crate) enum Line<T> {
    Item(T),
    /// The node had no longer what stood here.
    Missed(Missed),
}

/// How many lines a node had no longer when it was to send them.
#[derive(Debug, Serialize)]
pub(crate) struct Missed {
    node: String,
    missed: u64,
}

/// [`Missed`], as the node sends it.
#[derive(Deserialize)]
struct Gap {
    missed: u64,
}

/// How far the lines of one node were read. It numbers them for as long as it runs.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The number of the first line that was not handed over.
    next: u64,
    /// Whether it was said that there are no more, and nothing has come since.
    lost: bool,
}

impl Place {
    /// What is new of the line whose number is `at`; moves both behind it. What was no line for us has a number, too.
    fn news<T>(&mut self, at: &mut u64, line: Option<Line<T>>) -> Option<Line<T>> {
        let numbers = match &line {
            Some(Line::Missed(gap)) => gap.missed,
            Some(Line::Item(_)) | None => 1,
        };
        *at = at.saturating_add(numbers);
        let new = at.saturating_sub(self.next);
        self.next = self.next.max(*at);
        match line {
            _ if new == 0 => None,
            Some(Line::Missed(gap)) => Some(Line::Missed(Missed {
                missed: gap.missed.min(new),
                ..gap
            })),
            other => other,
        }
    }
}

impl Missed {
    /// Says it where the lines would stand. It is data: whoever reads these lines relies on having all of them.
    pub(crate) fn print(&self, out: &Output) -> Outcome {
        // Only ids were asked for.
        if out.quiet {
            return Ok(());
        }
        out.item(self, "", &out.tone(Tone::Warn, &self.to_string()))
    }
}

impl std::fmt::Display for Missed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, missed } = self;
        match missed {
            1 => write!(f, "{node}: 1 line is missing here"),
            _ => write!(f, "{node}: {missed} lines are missing here"),
        }
    }
}

impl<T> Line<T> {
    /// Reads one. A kind of line that a newer node sends is none for us.
    fn parse(node: &str, line: &[u8]) -> Option<Self>
    where
        T: DeserializeOwned,
    {
        if let Ok(item) = serde_json::from_slice(line) {
            return Some(Self::Item(item));
        }
        let Gap { missed } = serde_json::from_slice(line).ok()?;
        let node = node.to_owned();
        Some(Self::Missed(Missed { node, missed }))
    }

    /// Puts lines of several nodes in the order of their times. What is missing stands before the line that
    /// it stood before.
    pub(crate) fn in_order(lines: Vec<Self>, time: impl Fn(&T) -> Timestamp) -> Vec<Self> {
        let mut next = Timestamp::MAX;
        let mut timed = Vec::with_capacity(lines.len());
        for line in lines.into_iter().rev() {
            if let Self::Item(item) = &line {
                next = time(item);
            }
            timed.push((next, line));
        }
        timed.reverse();
        timed.sort_by_key(|(time, _)| *time);
        timed.into_iter().map(|(_, line)| line).collect()
    }
}

impl Cluster {
    /// As [`Cluster::of_all`], for a list that comes line by line.
    pub(crate) async fn lines_of_all<T: DeserializeOwned>(
        &self,
        nodes: &[NodeInfo],
        path: &str,
    ) -> Outcome<Vec<Line<T>>> {
        let lists = nodes
            .iter()
            .map(|node| self.lines(&node.id, node.admin_addr, path));
        merge(nodes, join_all(lists).await, &self.out)
    }

    /// All lines that one node has now.
    pub(crate) async fn lines<T: DeserializeOwned>(
        &self,
        node: &str,
        admin: SocketAddr,
        path: &str,
    ) -> Outcome<Vec<Line<T>>> {
        let mut lines = Vec::new();
        let take = |line| {
            lines.push(line);
            Ok(())
        };
        self.follow_one(node, admin, path, take).await?;
        Ok(lines)
    }

    /// Hands over the lines of one node as they come; ends with them, or when one is not taken.
    pub(crate) async fn follow_one<T: DeserializeOwned>(
        &self,
        node: &str,
        admin: SocketAddr,
        path: &str,
        mut take: impl FnMut(Line<T>) -> Outcome,
    ) -> Outcome {
        let (sender, mut receiver) = mpsc::channel(LINES_WAITING_MAX);
        let mut place = Place::default();
        let reading = self.read_lines(node, admin, path, sender, &mut place);
        let taking = async {
            while let Some(line) = receiver.recv().await {
                take(line)?;
            }
            Ok::<(), Failure>(())
        };
        try_join(reading, taking).await.map(|_| ())
    }

    /// Hands over the lines of the node that was named, or of all that are there, as they come; also those of nodes
    /// that join, or start again under that name, later. A node whose lines ended is asked again as long as it is
    /// listed, and goes on where it was. Ends when a node's lines end that was named by its id, and when neither
    /// control nor a node is left to listen to.
    pub(crate) async fn follow<T: DeserializeOwned>(
        &self,
        on: Option<&str>,
        path: &str,
        mut take: impl FnMut(Line<T>) -> Outcome,
    ) -> Outcome {
        let mut there = self.chosen(on).await?;
        if let [node] = &there[..]
            && on.is_some_and(|on| on == node.id)
        {
            return self.follow_one(&node.id, node.admin_addr, path, take).await;
        }
        let (sender, mut receiver) = mpsc::channel(LINES_WAITING_MAX);
        let mut readers = FuturesUnordered::new();
        let mut reading = BTreeSet::new();
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        let mut wanted = there.clone();
        let looking = self.look_again(on);
        tokio::pin!(looking);
        loop {
            for node in wanted.drain(..) {
                if reading.insert(node.id.clone()) {
                    let place = places.remove(&node.id).unwrap_or_default();
                    readers.push(self.read_of(node, path, sender.clone(), place));
                }
            }
            tokio::select! {
                biased;
                Some(line) = receiver.recv() => take(line)?,
                Some((node, mut place, read)) = readers.next() => {
                    // What it has sent before its end.
                    while let Ok(line) = receiver.try_recv() {
                        take(line)?;
                    }
                    if !place.lost {
                        let why = match read {
                            Err(Failure::Letter(letter)) => format!(": {}", letter.message),
                            _ => String::new(),
                        };
                        self.out.say(format_args!("no more lines from {node}{why}"));
                        place.lost = true;
                    }
                    reading.remove(&node);
                    places.insert(node, place);
                }
                listed = &mut looking => {
                    looking.set(self.look_again(on));
                    match listed {
                        Ok(nodes) => there = nodes,
                        Err(failure) if readers.is_empty() => return Err(failure),
                        // Control is asked again; what is followed does not depend on it.
                        Err(_) => {}
                    }
                    wanted.clone_from(&there);
                }
            }
        }
    }

    /// After a while, the nodes that are there, or the one that has this name.
    async fn look_again(&self, name: Option<&str>) -> Outcome<Vec<NodeInfo>> {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut nodes = self.listed().await?;
        nodes.retain(|node| node.state.is_present() && name.is_none_or(|name| name == node.name));
        Ok(nodes)
    }

    /// Reads the lines of one node from a place on; its id, how far that went, and how it ended.
    async fn read_of<T: DeserializeOwned>(
        &self,
        node: NodeInfo,
        path: &str,
        to: mpsc::Sender<Line<T>>,
        mut place: Place,
    ) -> (String, Place, Outcome) {
        // Another one may answer where it was, and its lines have numbers of their own.
        let read = if place.lost && !self.answers(&node).await {
            Ok(())
        } else {
            self.read_lines(&node.id, node.admin_addr, path, to, &mut place)
                .await
        };
        (node.id, place, read)
    }

    async fn read_lines<T: DeserializeOwned>(
        &self,
        node: &str,
        admin: SocketAddr,
        path: &str,
        to: mpsc::Sender<Line<T>>,
        place: &mut Place,
    ) -> Outcome {
        let response = checked(Whom::Node, self.to_node(Method::GET, admin, path)).await?;
        let mut at = 0;
        let mut body = response.bytes_stream();
        let mut rest = Vec::new();
        while let Some(part) = body.next().await {
            let part: Bytes = part.map_err(|error| {
                Failure::new("E0012", format!("{node}: the connection was lost"))
                    .detail(cause(&plain(&error)))
                    .next("tidelock nodes", "who is there, as control knows it")
            })?;
            place.lost = false;
            rest.extend_from_slice(&part);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
                if rest.len() > LINE_BYTES_MAX {
                    return Err(Failure::new(
                        "E0001",
                        format!("{node}: a line without an end"),
                    ));
                }
                continue;
            };
            for line in rest[..end].split(|byte| *byte == b'\n') {
                if let Some(line) = place.news(&mut at, Line::parse(node, line))
                    && to.send(line).await.is_err()
                {
                    return Ok(());
                }
            }
            rest.drain(..=end);
        }
        Ok(())
    }
}
