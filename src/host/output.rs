//! What guests print: whole lines, bounded in length and in rate.
//!
//! A line longer than [`LINE_BYTES_MAX`] is passed on in pieces. A process that prints more than
//! [`RATE_BYTES`] per second loses lines, and the next line that gets through says how many; its neighbours
//! lose nothing. Whoever asked for [`Stdio::AllLines`] gets them all. The last line needs no line end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes of one line.
pub(crate) const LINE_BYTES_MAX: usize = 8 << 10;
/// Bytes one stream of one process may print per second, and at once after a pause.
pub(crate) const RATE_BYTES: usize = 1 << 20;
/// Bytes taken from the guest at once.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Where the standard streams of guests go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdio {
    /// Lines go to the environment's output; reading finds the end of the file.
    #[default]
    Lines,
    /// As [`Stdio::Lines`], however fast a guest prints: for a receiver that bounds what it keeps.
    AllLines,
    /// The streams of this program, as bytes. For a program run on a terminal.
    Inherit,
}

/// Takes lines, each with whether it was ended or cut.
pub(super) type Sink = Arc<dyn Fn(Bytes, bool) + Send + Sync>;

/// Cuts bytes into lines.
struct Lines {
    sink: Sink,
    part: Vec<u8>,
    /// Bytes per second; None: no bound.
    rate: Option<usize>,
    budget: usize,
    refilled: Instant,
    lost: u64,
}

impl Lines {
    fn new(sink: Sink, rate: Option<usize>) -> Self {
        Self {
            sink,
            part: Vec::new(),
            rate,
            budget: rate.unwrap_or(0),
            refilled: Instant::now(),
            lost: 0,
        }
    }

    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.part.len();
            let piece = &bytes[..bytes.len().min(room)];
            let end = piece.iter().position(|&byte| byte == b'\n');
            let taken = end.unwrap_or(piece.len());
            self.part.extend_from_slice(&piece[..taken]);
            if end.is_some() || self.part.len() == LINE_BYTES_MAX {
                self.pass_on(end.is_some());
            }
            bytes = &bytes[taken + usize::from(end.is_some())..];
        }
    }

    fn pass_on(&mut self, ended: bool) {
        if let Some(rate) = self.rate
            && !self.pay(rate, self.part.len() + 1)
        {
            self.lost += 1;
            self.part.clear();
            return;
        }
        self.confess();
        if self.part.last() == Some(&b'\r') {
            self.part.pop();
        }
        (self.sink)(Bytes::copy_from_slice(&self.part), ended);
        self.part.clear();
    }

    /// Takes a line's cost from what may still be printed. False: there is not enough.
    fn pay(&mut self, rate: usize, cost: usize) -> bool {
        if self.budget < cost {
            let since = self.refilled.elapsed().min(Duration::from_secs(1));
            self.refilled = Instant::now();
            let more = (since.as_secs_f64() * rate as f64) as usize;
            self.budget = (self.budget + more).min(rate);
        }
        let enough = self.budget >= cost;
        if enough {
            self.budget -= cost;
        }
        enough
    }

    fn confess(&mut self) {
        if self.lost > 0 {
            let text = format!("[{} lines lost: more than {RATE_BYTES} bytes/s]", self.lost);
            (self.sink)(text.into(), true);
            self.lost = 0;
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // If that was in the sink, it would panic again, and a second panic ends the node.
        if std::thread::panicking() {
            return;
        }
        if !self.part.is_empty() {
            self.pass_on(false);
        }
        self.confess();
    }
}

/// A standard stream of a guest that ends in lines. The guest opens each one once.
pub(super) struct LineStream {
    pub(super) sink: Sink,
    /// Bytes per second; None: no bound.
    pub(super) rate: Option<usize>,
}

impl IsTerminal for LineStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LineStream {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(LineWriter(Lines::new(self.sink.clone(), self.rate)))
    }
}

struct LineWriter(Lines);

#[wasmtime_wasi::async_trait]
impl Pollable for LineWriter {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for LineWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn lines(writes: &[&[u8]]) -> Vec<String> {
        lines_at(Some(RATE_BYTES), writes)
    }

    fn lines_at(rate: Option<usize>, writes: &[&[u8]]) -> Vec<String> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let keep = Arc::new(move |line: Bytes, _| {
            sink.lock()
                .unwrap()
                .push(String::from_utf8_lossy(&line).into_owned());
        });
        let mut lines = Lines::new(keep, rate);
        for bytes in writes {
            lines.write(bytes);
        }
        drop(lines);
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    #[test]
    fn lines_are_whole_and_the_last_needs_no_end() {
        let seen = lines(&[b"one\ntw", b"o\r\n\nthree"]);
        assert_eq!(seen, ["one", "two", "", "three"]);
        assert_eq!(lines(&[b"\xff\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let long = vec![b'x'; 2 * LINE_BYTES_MAX + 5];
        let seen = lines(&[&long, b"\n"]);
        let lens: Vec<_> = seen.iter().map(String::len).collect();
        assert_eq!(lens, [LINE_BYTES_MAX, LINE_BYTES_MAX, 5]);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let line = [b'x'; 1023]
            .iter()
            .copied()
            .chain([b'\n'])
            .collect::<Vec<_>>();
        let writes: Vec<&[u8]> = (0..5000).map(|_| line.as_slice()).collect();
        let seen = lines(&writes);
        assert!(seen.len() < 2500, "{} lines", seen.len());
        assert!(seen.last().unwrap().contains("lines lost"));
        assert_eq!(lines_at(None, &writes).len(), 5000);
    }
}
