//! Names for processes, shared by all processes of one tenant on one node.

use crate::{Pid, sys};

/// Names a process. A name that was taken is taken over.
///
/// The name stays when the process ends; [`unregister`] removes it.
pub fn register(name: &str, pid: Pid) {
    sys::registry_put(name, pid.node().0, pid.raw());
}

/// The process a name was given to, if any. It may have ended.
pub fn lookup(name: &str) -> Option<Pid> {
    sys::registry_get(name).and_then(Pid::from_raw)
}

/// Removes a name. Nothing happens if there is none.
pub fn unregister(name: &str) {
    sys::registry_remove(name);
}
