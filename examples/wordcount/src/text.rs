//! The text, chunk by chunk.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Read;

use crate::count;

/// A run of text without a separator that is longer than this is refused: words are cut
/// nowhere, so it would all have to be in memory.
const RUN_BYTES_MAX: usize = 1 << 20;

/// Reads files one after the other and cuts them where no word is cut.
///
/// Two files never share a word: the end of a file ends a word.
pub(crate) struct Text {
    files: VecDeque<String>,
    open: Option<(String, File)>,
    rest: Vec<u8>,
    chunk: usize,
}

impl Text {
    /// Opens nothing yet, but knows the length of it all.
    pub(crate) fn new(files: &[String], chunk: usize) -> Result<(Self, u64), String> {
        let mut total = 0;
        for file in files {
            total += fs::metadata(file)
                .map_err(|error| format!("{file}: {error}"))?
                .len();
        }
        let text = Self {
            files: files.iter().cloned().collect(),
            open: None,
            rest: Vec::new(),
            chunk,
        };
        Ok((text, total))
    }

    /// The next chunk, or `None` at the end of the last file.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if self.open.is_none() {
                let Some(name) = self.files.pop_front() else {
                    return Ok(None);
                };
                let file = File::open(&name).map_err(|error| format!("{name}: {error}"))?;
                self.open = Some((name, file));
            }
            let (name, file) = self.open.as_mut().expect("opened above");

            let wanted = self.chunk;
            let read = file
                .take(wanted as u64)
                .read_to_end(&mut self.rest)
                .map_err(|error| format!("{name}: {error}"))?;
            if read < wanted {
                self.open = None;
                if self.rest.is_empty() {
                    continue;
                }
                return Ok(Some(std::mem::take(&mut self.rest)));
            }
            if let Some(at) = count::cut(&self.rest) {
                let behind = self.rest.split_off(at);
                return Ok(Some(std::mem::replace(&mut self.rest, behind)));
            }
            if self.rest.len() > RUN_BYTES_MAX {
                return Err(format!(
                    "{name}: {RUN_BYTES_MAX} bytes without a separator, is it text?"
                ));
            }
        }
    }
}
