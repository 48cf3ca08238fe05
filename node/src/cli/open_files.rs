//! How many files the system lets this program open: connections and the files of guests count, too.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::failure::{Failure, Outcome};

/// Below it no command works: what a runtime opens before its first task it does not open later.
const LEAST: u64 = 64;
/// A daemon that may open fewer says so: connections of operators alone may be 768.
const AMPLE: u64 = 1024;

/// Raises the limit as far as this user may. Whoever starts what we start gets as much.
pub(crate) fn raise() -> Outcome {
    let Some((soft, hard)) = limits() else {
        return Ok(());
    };
    // A limit that cannot be raised is still the one there is.
    let raised = soft >= hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let max = if raised { hard } else { soft };
    if max >= LEAST {
        return Ok(());
    }
    let text = format!("{max} open files are allowed here, and {LEAST} are needed at least");
    Err(Failure::new("E0044", text).next(
        format!("ulimit -n {AMPLE}"),
        "allows more, where this is started",
    ))
}

/// Says so in a daemon's log when many connections would use the limit up.
pub(crate) fn warn_if_few() {
    if let Some((open_files_max, _)) = limits()
        && open_files_max < AMPLE
    {
        tracing::warn!(
            open_files_max,
            "few files may be open at once: connections beyond that wait, and guests cannot open theirs"
        );
    }
}

/// What holds now, and how far it can be raised. None: the system does not say.
fn limits() -> Option<(u64, u64)> {
    getrlimit(Resource::RLIMIT_NOFILE).ok()
}
