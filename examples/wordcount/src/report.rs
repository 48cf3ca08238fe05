//! What stdout says: one JSON object a line, each with an `event`.
//!
//! | event | fields |
//! | --- | --- |
//! | `started` | `pid`, `node`, `nodes`, `files`, `total_bytes` |
//! | `spawned` | `pid`, `node` |
//! | `progress` | `done_bytes`, `total_bytes`; at least every 2 % |
//! | `holding` | `percent`, `done_bytes`, `total_bytes`, `outstanding` chunks |
//! | `lost` | `pid`, `node`, `reason`, `code`, `notices`, `outstanding` chunks dealt again |
//! | `respawned` | `pid`, `node`, `instead_of` |
//! | `result` | `words`, `distinct`, `checksum`, `top`, `chunks`, `resent`, `lost`, `elapsed_ms` |
//! | `error` | `message`; the exit code is not 0 then |

use std::fmt::Write as _;

use tidelock_guest::{NodeId, Pid, Reason};

use crate::count::{self, Counts};

/// How many of the most frequent words a result names.
const TOP: usize = 10;

/// A worker that ended, and how often this was told.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Who.
    pub(crate) pid: Pid,
    /// Why, as the notice said.
    pub(crate) reason: Reason,
    /// How many notices came. One, or a promise is broken.
    pub(crate) notices: u32,
}

pub(crate) fn started(me: Pid, nodes: &[NodeId], files: usize, total_bytes: u64) {
    let nodes: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
    line(format_args!(
        r#"{{"event":"started","pid":"{me}","node":"{}","nodes":[{}],"files":{files},"total_bytes":{total_bytes}}}"#,
        me.node(),
        nodes.join(","),
    ));
}

pub(crate) fn spawned(pid: Pid) {
    line(format_args!(
        r#"{{"event":"spawned","pid":"{pid}","node":"{}"}}"#,
        pid.node()
    ));
}

pub(crate) fn progress(done_bytes: u64, total_bytes: u64) {
    line(format_args!(
        r#"{{"event":"progress","done_bytes":{done_bytes},"total_bytes":{total_bytes}}}"#
    ));
}

pub(crate) fn holding(percent: u64, done_bytes: u64, total_bytes: u64, outstanding: usize) {
    line(format_args!(
        r#"{{"event":"holding","percent":{percent},"done_bytes":{done_bytes},"total_bytes":{total_bytes},"outstanding":{outstanding}}}"#
    ));
}

pub(crate) fn lost(lost: &Lost, outstanding: usize) {
    line(format_args!(
        r#"{{"event":"lost",{},"outstanding":{outstanding}}}"#,
        lost_fields(lost)
    ));
}

pub(crate) fn respawned(pid: Pid, instead_of: Pid) {
    line(format_args!(
        r#"{{"event":"respawned","pid":"{pid}","node":"{}","instead_of":"{instead_of}"}}"#,
        pid.node()
    ));
}

pub(crate) fn result(counts: &Counts, chunks: u64, resent: u64, lost: &[Lost], elapsed_ms: u128) {
    let top: Vec<String> = count::top(counts, TOP)
        .into_iter()
        .map(|(word, times)| {
            let word = quoted(&String::from_utf8_lossy(word));
            format!(r#"{{"word":{word},"count":{times}}}"#)
        })
        .collect();
    let lost: Vec<String> = lost
        .iter()
        .map(|lost| format!("{{{}}}", lost_fields(lost)))
        .collect();
    line(format_args!(
        r#"{{"event":"result","words":{},"distinct":{},"checksum":"{:016x}","top":[{}],"chunks":{chunks},"resent":{resent},"lost":[{}],"elapsed_ms":{elapsed_ms}}}"#,
        count::words(counts),
        counts.len(),
        count::checksum(counts),
        top.join(","),
        lost.join(","),
    ));
}

pub(crate) fn error(message: &str) {
    line(format_args!(
        r#"{{"event":"error","message":{}}}"#,
        quoted(message)
    ));
}

fn lost_fields(lost: &Lost) -> String {
    format!(
        r#""pid":"{}","node":"{}","reason":{},"code":{},"notices":{}"#,
        lost.pid,
        lost.pid.node(),
        quoted(&lost.reason.text),
        lost.reason.code,
        lost.notices,
    )
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Stdout is what this program is for.
fn line(text: std::fmt::Arguments<'_>) {
    println!("{text}");
}
