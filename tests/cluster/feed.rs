//! Lines as they come from daemons and guests, kept with their time of arrival.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::PATIENCE;

/// A line, and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub(crate) fn text(&self, key: &str) -> String {
        let json = self.json();
        json[key]
            .as_str()
            .unwrap_or_else(|| panic!("no text {key}: {json}"))
            .to_owned()
    }

    pub(crate) fn number(&self, key: &str) -> i64 {
        let json = self.json();
        json[key]
            .as_i64()
            .unwrap_or_else(|| panic!("no number {key}: {json}"))
    }

    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        let json = self.json();
        let list = json[key]
            .as_array()
            .unwrap_or_else(|| panic!("no list {key}: {json}"));
        list.iter()
            .map(|item| item.as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// Lines as they come, kept.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<(Mutex<Kept>, Condvar)>);

#[derive(Default)]
struct Kept {
    lines: Vec<Seen>,
    over: bool,
}

impl Feed {
    pub(crate) fn follow(&self, from: impl Read + Send + 'static) {
        let feed = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n') {
                match line {
                    Ok(line) => feed.push(String::from_utf8_lossy(&line).into_owned()),
                    Err(_) => break,
                }
            }
            feed.close();
        });
    }

    pub(crate) fn push(&self, text: String) {
        let at = Instant::now();
        self.lock().lines.push(Seen { at, text });
        self.0.1.notify_all();
    }

    pub(crate) fn close(&self) {
        self.lock().over = true;
        self.0.1.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops all lines up to now.
    pub(crate) fn forget(&self) {
        self.lock().lines.clear();
    }

    /// How many lines there are; for [`Feed::wait_from`].
    pub(crate) fn len(&self) -> usize {
        self.lock().lines.len()
    }

    /// All lines up to now.
    pub(crate) fn all(&self) -> Vec<Seen> {
        self.lock().lines.clone()
    }

    /// Looks at every line, old and new, until one fits. `None`: they ended, or it took too long.
    pub(crate) fn wait(&self, fits: impl FnMut(&Seen) -> bool) -> Option<Seen> {
        self.wait_from(0, fits)
    }

    /// As [`Feed::wait`], from a line on.
    pub(crate) fn wait_from(&self, first: usize, fits: impl FnMut(&Seen) -> bool) -> Option<Seen> {
        self.wait_within(first, PATIENCE, fits)
    }

    /// As [`Feed::wait_from`], for a time of one's own.
    pub(crate) fn wait_within(
        &self,
        first: usize,
        patience: Duration,
        mut fits: impl FnMut(&Seen) -> bool,
    ) -> Option<Seen> {
        let deadline = Instant::now() + patience;
        let mut next = first;
        let mut kept = self.lock();
        loop {
            while let Some(line) = kept.lines.get(next) {
                if fits(line) {
                    return Some(line.clone());
                }
                next += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if kept.over || left.is_zero() {
                return None;
            }
            let waited = self.0.1.wait_timeout(kept, left);
            kept = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
