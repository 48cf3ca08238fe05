//! What a word is, and how many there are of each.
//!
//! This file has no dependencies on purpose: the guest counts chunks with it on many
//! machines, and `tidelock demo` counts the same text in one go with the very same lines,
//! so "the sums agree" says something about the cluster and not about two definitions.
//!
//! A word is a longest run of ASCII letters, ASCII digits and bytes above 0x7F; ASCII
//! letters count in lower case. Everything else separates. Text may thus be cut at any
//! separator without changing a count, and no encoding has to be valid.

use std::collections::BTreeMap;

/// How often each word occurs, in the order of its bytes.
pub(crate) type Counts = BTreeMap<Vec<u8>, u64>;

/// Whether a byte belongs to a word.
pub(crate) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// Adds the words of `text` to `counts`.
///
/// The end of `text` ends a word, so cut only where [`cut`] says.
pub(crate) fn add(counts: &mut Counts, text: &[u8]) {
    let mut word = Vec::new();
    for run in text.split(|byte| !is_word_byte(*byte)) {
        if run.is_empty() {
            continue;
        }
        word.clear();
        word.extend(run.iter().map(u8::to_ascii_lowercase));
        add_many(counts, &word, 1);
    }
}

/// Adds `times` occurrences of one word that is already in lower case.
pub(crate) fn add_many(counts: &mut Counts, word: &[u8], times: u64) {
    match counts.get_mut(word) {
        Some(count) => *count += times,
        None => {
            counts.insert(word.to_vec(), times);
        }
    }
}

/// Where `text` may be cut so that no word is cut: behind its last separator.
///
/// `None` if it has none.
pub(crate) fn cut(text: &[u8]) -> Option<usize> {
    text.iter()
        .rposition(|byte| !is_word_byte(*byte))
        .map(|at| at + 1)
}

/// All occurrences of all words.
pub(crate) fn words(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// FNV-1a (64 bits) over each word, a zero byte, and its count as 8 little-endian bytes.
///
/// Equal counts have equal checksums, whatever order they were added in.
pub(crate) fn checksum(counts: &Counts) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |byte: u8| {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    };
    for (word, count) in counts {
        word.iter().copied().for_each(&mut eat);
        eat(0);
        count.to_le_bytes().into_iter().for_each(&mut eat);
    }
    hash
}

/// The `n` most frequent words, the most frequent first; ties in the order of their bytes.
pub(crate) fn top(counts: &Counts, n: usize) -> Vec<(&[u8], u64)> {
    let mut all: Vec<(&[u8], u64)> = counts.iter().map(|(w, c)| (w.as_slice(), *c)).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    all.truncate(n);
    all
}
