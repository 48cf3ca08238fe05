//! What coordinator and workers say to each other.
//!
//! Numbers are little-endian.

use crate::count::{self, Counts};

/// To a worker: 8 bytes of chunk number, then the text.
pub(crate) const COUNT: i64 = 200;
/// To a worker: keep the answers to all later chunks until [`RELEASE`].
pub(crate) const HOLD: i64 = 201;
/// To a worker: give the answers that were kept.
pub(crate) const RELEASE: i64 = 202;
/// To a worker: there is no more.
pub(crate) const STOP: i64 = 203;
/// To the coordinator: pid and chunk number, 8 bytes each, then per word 4 bytes of length,
/// the word, and 4 bytes of count.
pub(crate) const ANSWER: i64 = 300;

/// Writes the body of [`COUNT`].
pub(crate) fn chunk(number: u64, text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + text.len());
    bytes.extend(number.to_le_bytes());
    bytes.extend(text);
    bytes
}

/// Reads the body of [`COUNT`].
pub(crate) fn read_chunk(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, text) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), text))
}

/// Writes the body of [`ANSWER`].
pub(crate) fn answer(pid: u64, number: u64, counts: &Counts) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(pid.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    for (word, times) in counts {
        bytes.extend((word.len() as u32).to_le_bytes());
        bytes.extend(word);
        bytes.extend((*times as u32).to_le_bytes());
    }
    bytes
}

/// Reads who answered which chunk, and leaves the counts.
pub(crate) fn read_answer(bytes: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (pid, bytes) = bytes.split_first_chunk()?;
    let (number, counts) = bytes.split_first_chunk()?;
    Some((
        u64::from_le_bytes(*pid),
        u64::from_le_bytes(*number),
        counts,
    ))
}

/// Adds the counts of an answer to others. `None` if they are no counts.
pub(crate) fn add_answer(counts: &mut Counts, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let (word, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let (times, rest) = rest.split_first_chunk()?;
        count::add_many(counts, word, u64::from(u32::from_le_bytes(*times)));
        bytes = rest;
    }
    Some(())
}
