//! The command line of this guest.

use std::time::Duration;

pub(crate) const USAGE: &str = "\
usage: wordcount [OPTIONS] FILE...

  --workers N        workers on each node (2)
  --window N         chunks a worker may have unanswered (4)
  --chunk BYTES      length of a chunk (32768)
  --hold-at PERCENT  at this part of the text, wait for a worker to be lost
  --hold-timeout S   give up holding after this time, with exit code 3 (60)

A FILE has to lie in a directory this guest was given.";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Workers on each node.
    pub(crate) workers: usize,
    /// Chunks one worker may have unanswered.
    pub(crate) window: usize,
    /// Bytes in a chunk, about: a chunk ends behind a separator.
    pub(crate) chunk: usize,
    /// Percent of the bytes at which to wait for a loss.
    pub(crate) hold_at: Option<u64>,
    /// How long to wait for it.
    pub(crate) hold_timeout: Duration,
    /// What to count.
    pub(crate) files: Vec<String>,
}

/// Reads the command line. `Err` says what is wrong with it.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        workers: 2,
        window: 4,
        chunk: 32 * 1024,
        hold_at: None,
        hold_timeout: Duration::from_secs(60),
        files: Vec::new(),
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut number = |least: u64, most: u64| -> Result<u64, String> {
            let value = arguments.next().unwrap_or_default();
            value
                .parse()
                .ok()
                .filter(|n| (least..=most).contains(n))
                .ok_or_else(|| format!("{argument}: {value:?} is not in {least} to {most}"))
        };
        match argument.as_str() {
            "--workers" => options.workers = number(1, 1000)? as usize,
            "--window" => options.window = number(1, 1000)? as usize,
            "--chunk" => options.chunk = number(16, 1 << 20)? as usize,
            "--hold-at" => options.hold_at = Some(number(0, 99)?),
            "--hold-timeout" => options.hold_timeout = Duration::from_secs(number(1, 86_400)?),
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            _ => options.files.push(argument),
        }
    }
    if options.files.is_empty() {
        return Err("no file given".to_owned());
    }
    Ok(options)
}
