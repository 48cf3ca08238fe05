//! What the processes of one run say to each other.

use std::time::Duration;

use tidelock_guest::{Data, Pid, Received, TimedOut, kill, receive, send, unlink};

/// What a lane is to do: its number, then the plan.
pub(crate) const PLAN: i64 = 1;
/// A lane is ready; to a lane: the moment to begin.
pub(crate) const READY: i64 = 2;
/// What a lane has counted.
pub(crate) const COUNTED: i64 = 3;
/// What a lane has measured: value and count, in turn.
pub(crate) const VALUES: i64 = 4;
/// Payload.
pub(crate) const LOAD: i64 = 5;
/// How far the receiver of payload is.
pub(crate) const SEEN: i64 = 6;
/// What time is it; the answer.
pub(crate) const CLOCK: i64 = 7;
/// Fail now, or: no more follows.
pub(crate) const LAST: i64 = 8;
/// The end of a linked process.
pub(crate) const END: i64 = 9;

/// Longer than anything here takes while the other side lives.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Sends numbers.
pub(crate) fn tell(to: Pid, tag: i64, numbers: &[u64]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    send(to, tag, &bytes);
}

/// Waits for numbers that were sent with [`tell`].
///
/// # Errors
///
/// Nothing came in [`PATIENCE`].
pub(crate) fn told(tag: i64) -> Result<Vec<u64>, String> {
    told_within(tag, Some(PATIENCE))
}

/// As [`told`], with another limit.
pub(crate) fn told_within(tag: i64, limit: Option<Duration>) -> Result<Vec<u64>, String> {
    match receive(&[tag], limit) {
        Received::Data(Data { bytes, .. }) => Ok(numbers(&bytes)),
        Received::Timeout => Err(format!("no message {tag} in {} s", PATIENCE.as_secs())),
        other => Err(format!("instead of message {tag}: {other:?}")),
    }
}

/// The numbers in some bytes.
pub(crate) fn numbers(bytes: &[u8]) -> Vec<u64> {
    let (numbers, _) = bytes.as_chunks::<8>();
    numbers.iter().map(|n| u64::from_le_bytes(*n)).collect()
}

/// The process a number names.
pub(crate) fn pid(raw: u64) -> Pid {
    Pid::from_raw(raw).expect("a pid was passed")
}

/// Ends a linked process that is not needed any more, and does not end with it.
pub(crate) fn end(partner: Pid) {
    // Confirmed or not, the link does not count from here on.
    let _: Result<(), TimedOut> = unlink(partner, Some(PATIENCE));
    kill(partner);
}

/// Writes number and due time into the payload.
pub(crate) fn stamp(payload: &mut [u8], number: u64, due_ns: u64) {
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload[8..16].copy_from_slice(&due_ns.to_le_bytes());
}

/// Number and due time of a payload, which must be the one that is expected.
pub(crate) fn check(bytes: &[u8], size: u64, number: u64) -> Result<u64, String> {
    if bytes.len() as u64 != size {
        return Err(format!("{} bytes came instead of {size}", bytes.len()));
    }
    match numbers(&bytes[..16])[..] {
        [found, due_ns] if found == number => Ok(due_ns),
        [found, _] => Err(format!("message {found} came instead of {number}")),
        _ => unreachable!("16 bytes are two numbers"),
    }
}
