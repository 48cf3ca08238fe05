//! Errors as small letters to the reader: what happened, why, what to do next, a code to look up.

use std::{fmt, io};

use serde::Serialize;

use super::explain;

/// What a command gives back.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// The exit codes of the whole command line. `run` and `dev --once` pass the guest's own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It failed.
    Failed = 1,
    /// It was called wrong.
    Usage = 2,
    /// The cluster cannot be reached.
    Unreachable = 3,
    /// There is no such thing.
    Missing = 4,
    /// A limit or a permission forbids it.
    Refused = 5,
    /// It took too long.
    TimedOut = 6,
    /// Ctrl-C.
    Interrupted = 130,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A letter to the reader.
    Letter(Box<Letter>),
    /// Whoever read our output has gone; there is nobody left to tell.
    Closed,
    /// Everything was said already; end with this code.
    Code(u8),
}

/// One error, complete.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Letter {
    /// Stable, `E` and four digits; a page of `tidelock explain`.
    pub(crate) code: String,
    /// One line: the thing as the user typed it, then the cause.
    pub(crate) message: String,
    /// Facts the reader may not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    /// At most two commands to copy, each with a word why.
    pub(crate) next: Vec<Next>,
    #[serde(skip)]
    pub(crate) exit: u8,
}

/// A command worth trying.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Next {
    /// Can be pasted.
    pub(crate) command: String,
    /// What it is good for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
}

impl Failure {
    /// Starts a letter; the exit code follows from the page of `code`.
    pub(crate) fn new(code: &str, message: impl fmt::Display) -> Self {
        Self::Letter(Box::new(Letter {
            code: code.to_owned(),
            message: readable(&message.to_string()),
            detail: None,
            next: Vec::new(),
            exit: explain::page(code).map_or(Exit::Failed, |page| page.exit) as u8,
        }))
    }

    /// Adds a fact. Called twice, the facts stand below each other.
    pub(crate) fn detail(mut self, detail: impl fmt::Display) -> Self {
        if let Self::Letter(letter) = &mut self {
            let text = readable(&detail.to_string());
            match &mut letter.detail {
                Some(before) => {
                    before.push('\n');
                    before.push_str(&text);
                }
                None if text.is_empty() => {}
                none => *none = Some(text),
            }
        }
        self
    }

    /// Adds a command to try.
    pub(crate) fn next(mut self, command: impl fmt::Display, why: &str) -> Self {
        if let Self::Letter(letter) = &mut self {
            letter.next.push(Next {
                command: command.to_string(),
                why: why.to_owned(),
            });
        }
        self
    }

    /// Leaves with another exit code than the page's.
    pub(crate) fn exit(mut self, exit: u8) -> Self {
        if let Self::Letter(letter) = &mut self {
            letter.exit = exit;
        }
        self
    }

    /// A file that could not be read or written.
    pub(crate) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        let shown = path.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                Self::new("E0023", format!("{shown}: there is no such file"))
            }
            io::ErrorKind::PermissionDenied => {
                Self::new("E0024", format!("{shown}: permission denied"))
            }
            _ => Self::new("E0024", format!("{shown}: {}", plain(error))),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::new("E0001", plain(&error))
        }
    }
}

/// An error and its causes on one line, as [`readable`] has them.
pub(crate) fn plain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut at = Some(error);
    while let Some(error) = at {
        let part = readable(&error.to_string());
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        at = error.source();
    }
    text
}

/// Words of the operating system without its number, and of ours without the types that rustls has them in.
fn readable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(" (os error ") {
        out.push_str(&rest[..at]);
        rest = rest[at..].split_once(')').map_or("", |(_, behind)| behind);
    }
    out += rest;
    while let Some((before, rest)) = out.split_once("Other(OtherError(") {
        let (inside, behind) = rest.split_once("))").unwrap_or((rest, ""));
        out = format!("{before}{inside}{behind}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_on_one_line_and_once() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(plain(&error), "No such file or directory");
        assert_eq!(readable("a (os error 2), b (os error 13)"), "a, b");
        assert_eq!(
            readable("invalid peer certificate: Other(OtherError(the server is another's)), too"),
            "invalid peer certificate: the server is another's, too"
        );
    }
}
