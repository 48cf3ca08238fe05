//! Frames and their bytes. The only user of bincode.
//!
//! ```text
//!   ┌──────────────┬─────────┬──────────────────────────────┐
//!   │ length u32 LE│ kind u8 │ body: `length` bytes         │
//!   └──────────────┴─────────┴──────────────────────────────┘
//! ```
//!
//! The header is parsed by hand, so a length is judged before anything is kept for it. A body is
//! one bincode value (fixed-width little-endian), decoded under a byte limit, and must be used up
//! exactly. The payload of a message follows its head as raw bytes.
//!
//! # Guarantees
//!
//! * **W1** — no input makes the decoder panic, recurse without bound, or reserve more than the
//!   input's own length allows. Types on the wire are bounded, not recursive, and no collection
//!   holds zero-size values.
//! * **W2** — what decodes is canonical: encoding it again gives the same bytes.
//!
//! bincode is `=2.0.1` and fenced here: its authors ended the project (RUSTSEC-2025-0141), and a
//! successor with the same fixed-width layout can replace it in this one file.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::link::Signal;
use crate::spawn::{Prepare, ProcessConfig, Refusal, Request};
use crate::{Environ, NodeId, Pid, TEXT_BYTES_MAX};

/// The longest body of any frame but a message, in bytes.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

/// The longest payload that travels in the lane, in bytes. Longer ones are bulk.
pub const LANE_PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// The longest start ticket, in bytes.
pub const TICKET_BYTES_MAX: usize = 4 << 10;

/// The longest certificate, in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 4 << 10;

/// The longest proof of a renewal, in bytes.
pub const PROOF_BYTES_MAX: usize = 256;

/// The longest configuration that a slot holds, with the number of the slot, in bytes.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;

/// Bytes before a body.
pub const HEADER_BYTES: usize = 5;

/// The first frame each way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest and newest protocol version the sender speaks.
    pub versions: (u16, u16),
    /// Who the sender says it is; compared with its certificate and ticket.
    pub from: NodeId,
    /// Whom it means to reach.
    pub to: NodeId,
    /// The session's number, counted per pair of nodes.
    pub epoch: u64,
    /// The start ticket, signed by the cluster's authority.
    pub ticket: Vec<u8>,
}

/// A later certificate of the sender, since protocol 2. What it proves is for the driver to check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Renew {
    /// The certificate, of the same key as the one shown before.
    pub certificate: Vec<u8>,
    /// The start ticket that goes with it.
    pub ticket: Vec<u8>,
    /// A signature by that key over what names this session and this direction.
    pub proof: Vec<u8>,
}

impl Renew {
    /// Whether each part is within its bound.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.certificate.len() <= CERTIFICATE_BYTES_MAX
            && self.ticket.len() <= TICKET_BYTES_MAX
            && self.proof.len() <= PROOF_BYTES_MAX
    }
}

/// Where a signal or message comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The tenant of the sender.
    pub environ: Environ,
    /// Who sends.
    pub from: Pid,
    /// Who receives.
    pub to: Pid,
}

/// Everything two nodes say to each other in a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a session, or repeats the epoch of one that is accepted.
    Hello(Hello),
    /// Refuses a session: the dialled epoch is not above the highest known.
    Stale(u64),
    /// Something one process's block says to another's.
    Signal(Route, Signal),
    /// A message for a mailbox.
    Message(Route, Option<i64>, Bytes),
    /// The place of a bulk message in the lane: its bytes come on stream `stream`.
    Bulk(Route, Option<i64>, BulkHead),
    /// Make a process, do not run it.
    Prepare(u64, Box<Prepare>),
    /// The process exists and has not run.
    Prepared(u64, Pid),
    /// The process was not made.
    Refused(u64, Refusal),
    /// The process may run.
    Start(u64),
    /// Do not make it, or end it unrun.
    Cancel(u64),
    /// Answers Cancel.
    Cancelled(u64),
    /// Does this process live?
    Query(u64, Pid),
    /// Answers Query.
    Answer(u64, bool),
    /// No more frames follow; the sender leaves.
    Goodbye,
    /// The sender has a later certificate than the one it showed.
    Renew(Renew),
    /// What this slot holds from now on, for the requests that follow.
    Config(u8, Arc<ProcessConfig>),
    /// As [`Frame::Prepare`], with the configuration that a slot holds.
    Request(u64, Box<Request>),
}

/// Where the bytes of a bulk message are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BulkHead {
    /// Names the stream; counted up by the sender.
    pub stream: u64,
    /// How many bytes it carries.
    pub bytes: u64,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// No frame of this kind exists in this protocol version.
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    /// The header claims more than such a frame may hold.
    #[error("frame of {0} bytes is too long")]
    Length(u32),
    /// The body is not a value of its type, or not exactly one.
    #[error("malformed body of a {0} frame")]
    Body(&'static str),
}

const HELLO: u8 = 1;
const STALE: u8 = 2;
const SIGNAL: u8 = 3;
const MESSAGE: u8 = 4;
const BULK: u8 = 5;
const PREPARE: u8 = 6;
const PREPARED: u8 = 7;
const REFUSED: u8 = 8;
const START: u8 = 9;
const CANCEL: u8 = 10;
const CANCELLED: u8 = 11;
const QUERY: u8 = 12;
const ANSWER: u8 = 13;
const GOODBYE: u8 = 14;
const RENEW: u8 = 15;
const CONFIG: u8 = 16;
const REQUEST: u8 = 17;

/// Encoded size of a [`Route`] and a tag; the payload of a message follows.
const MESSAGE_HEAD_BYTES_MAX: usize = 3 * 8 + 1 + 8;

/// The parts of a [`Renew`], each with its length before it.
const RENEW_BYTES_MAX: usize = CERTIFICATE_BYTES_MAX + TICKET_BYTES_MAX + PROOF_BYTES_MAX + 3 * 8;

fn config() -> impl bincode::config::Config {
    bincode::config::legacy().with_limit::<CONTROL_BYTES_MAX>()
}

impl Frame {
    /// Appends this frame's bytes.
    ///
    /// # Panics
    ///
    /// If the frame breaks a bound the sender must keep (see the constants of this module).
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello(hello) => put(out, HELLO, hello),
            Frame::Stale(known) => put(out, STALE, known),
            Frame::Signal(route, signal) => encode_signal(out, route, signal),
            Frame::Message(route, tag, payload) => encode_message(out, route, *tag, payload),
            Frame::Bulk(route, tag, head) => put(out, BULK, &(route, tag, head)),
            Frame::Prepare(reference, prepare) => put(out, PREPARE, &(reference, prepare)),
            Frame::Prepared(reference, pid) => put(out, PREPARED, &(reference, pid)),
            Frame::Refused(reference, why) => put(out, REFUSED, &(reference, why)),
            Frame::Start(reference) => put(out, START, reference),
            Frame::Cancel(reference) => put(out, CANCEL, reference),
            Frame::Cancelled(reference) => put(out, CANCELLED, reference),
            Frame::Query(reference, pid) => put(out, QUERY, &(reference, pid)),
            Frame::Answer(reference, exists) => put(out, ANSWER, &(reference, exists)),
            Frame::Goodbye => put(out, GOODBYE, &0u8),
            Frame::Renew(renew) => {
                assert!(renew.is_bounded(), "whoever renews looks first");
                put(out, RENEW, renew);
            }
            Frame::Config(slot, config) => put(out, CONFIG, &(slot, config.as_ref())),
            Frame::Request(reference, request) => encode_request(out, *reference, request),
        }
    }
}

/// Appends a signal frame without taking the signal.
pub fn encode_signal(out: &mut Vec<u8>, route: &Route, signal: &Signal) {
    put(out, SIGNAL, &(route, signal));
}

/// Appends the frame of a request without taking it.
pub fn encode_request(out: &mut Vec<u8>, reference: u64, request: &Request) {
    put(out, REQUEST, &(reference, request));
}

/// Appends a message frame; the payload is copied once.
pub fn encode_message(out: &mut Vec<u8>, route: &Route, tag: Option<i64>, payload: &[u8]) {
    assert!(
        payload.len() <= LANE_PAYLOAD_BYTES_MAX,
        "longer payloads are bulk"
    );
    let at = begin(out, MESSAGE);
    body(out, &(route, tag));
    out.extend_from_slice(payload);
    finish(out, at);
}

fn put<T: Serialize>(out: &mut Vec<u8>, kind: u8, value: &T) {
    let at = begin(out, kind);
    body(out, value);
    finish(out, at);
}

fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let at = out.len();
    if at == 0 {
        // Most frames are shorter: they are given their room at once.
        out.reserve(256);
    }
    out.extend_from_slice(&[0, 0, 0, 0, kind]);
    at
}

fn body<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    bincode::serde::encode_into_std_write(value, out, config())
        .expect("a frame within its bounds always encodes");
}

fn finish(out: &mut [u8], at: usize) {
    let length = u32::try_from(out.len() - at - HEADER_BYTES).expect("frames are bounded");
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Takes the first whole frame out of `buffer`; `None` if there is none yet.
///
/// # Errors
///
/// [`WireError`]; the buffer is of no further use.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    let lacking = lacking(buffer)?;
    if lacking > 0 {
        buffer.reserve(lacking);
        return Ok(None);
    }
    let (kind, size) = header(buffer)?.expect("a whole frame has a header");
    let body = buffer
        .split_to(HEADER_BYTES + size)
        .freeze()
        .slice(HEADER_BYTES..);
    // Copied, since the rest of the buffer may be much longer, and would stay with it.
    decode_body(kind, &body, |from| Bytes::copy_from_slice(&body[from..])).map(Some)
}

/// Reads the first whole frame of `bytes`, and says how many of them it takes; `None` if there is none yet.
///
/// # Errors
///
/// [`WireError`]; the rest of the bytes is of no further use.
pub fn decode_first(bytes: &[u8]) -> Result<Option<(Frame, usize)>, WireError> {
    let Some((kind, size)) = header(bytes)? else {
        return Ok(None);
    };
    let Some(body) = bytes[HEADER_BYTES..].get(..size) else {
        return Ok(None);
    };
    let frame = decode_body(kind, body, |from| Bytes::copy_from_slice(&body[from..]))?;
    Ok(Some((frame, HEADER_BYTES + size)))
}

/// How many bytes the frame at the beginning of `bytes` lacks, as far as can be said yet; 0: it is whole.
///
/// # Errors
///
/// [`WireError`]: no frame begins so.
pub fn lacking(bytes: &[u8]) -> Result<usize, WireError> {
    let whole = match header(bytes)? {
        Some((_, size)) => HEADER_BYTES + size,
        None => HEADER_BYTES,
    };
    Ok(whole.saturating_sub(bytes.len()))
}

/// Kind and size of the body of the frame that begins here, if its header is there.
fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, WireError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [a, b, c, d, kind] = *header;
    let length = u32::from_le_bytes([a, b, c, d]);
    let max = match kind {
        MESSAGE => LANE_PAYLOAD_BYTES_MAX + MESSAGE_HEAD_BYTES_MAX,
        HELLO => TICKET_BYTES_MAX + 64,
        SIGNAL | REFUSED => TEXT_BYTES_MAX + 256,
        PREPARE | REQUEST => CONTROL_BYTES_MAX,
        CONFIG => CONFIG_BYTES_MAX,
        RENEW => RENEW_BYTES_MAX,
        STALE | BULK | PREPARED | START | CANCEL | CANCELLED | QUERY | ANSWER | GOODBYE => 128,
        unknown => return Err(WireError::Kind(unknown)),
    };
    let size = usize::try_from(length).expect("usize holds u32");
    if size > max {
        return Err(WireError::Length(length));
    }
    Ok(Some((kind, size)))
}

/// `keep` gives the payload of a message, which begins there.
fn decode_body(
    kind: u8,
    body: &[u8],
    keep: impl FnOnce(usize) -> Bytes,
) -> Result<Frame, WireError> {
    Ok(match kind {
        HELLO => Frame::Hello(whole(body, "hello")?),
        STALE => Frame::Stale(whole(body, "stale")?),
        SIGNAL => {
            let (route, signal) = whole(body, "signal")?;
            Frame::Signal(route, signal)
        }
        MESSAGE => {
            let ((route, tag), used) = part::<(Route, Option<i64>)>(body, "message")?;
            let payload = keep(used);
            if payload.len() > LANE_PAYLOAD_BYTES_MAX {
                return Err(WireError::Body("message"));
            }
            Frame::Message(route, tag, payload)
        }
        BULK => {
            let (route, tag, head) = whole(body, "bulk")?;
            Frame::Bulk(route, tag, head)
        }
        PREPARE => {
            let (reference, prepare) = whole(body, "prepare")?;
            Frame::Prepare(reference, prepare)
        }
        PREPARED => {
            let (reference, pid) = whole(body, "prepared")?;
            Frame::Prepared(reference, pid)
        }
        REFUSED => {
            let (reference, why) = whole(body, "refused")?;
            Frame::Refused(reference, why)
        }
        START => Frame::Start(whole(body, "start")?),
        CANCEL => Frame::Cancel(whole(body, "cancel")?),
        CANCELLED => Frame::Cancelled(whole(body, "cancelled")?),
        QUERY => {
            let (reference, pid) = whole(body, "query")?;
            Frame::Query(reference, pid)
        }
        ANSWER => {
            let (reference, exists) = whole(body, "answer")?;
            Frame::Answer(reference, exists)
        }
        GOODBYE => match whole::<u8>(body, "goodbye")? {
            0 => Frame::Goodbye,
            _ => return Err(WireError::Body("goodbye")),
        },
        RENEW => match whole::<Renew>(body, "renew")? {
            renew if renew.is_bounded() => Frame::Renew(renew),
            _ => return Err(WireError::Body("renew")),
        },
        CONFIG => {
            let (slot, config) = whole(body, "config")?;
            Frame::Config(slot, Arc::new(config))
        }
        REQUEST => {
            let (reference, request) = whole(body, "request")?;
            Frame::Request(reference, request)
        }
        unknown => return Err(WireError::Kind(unknown)),
    })
}

fn part<T: DeserializeOwned>(body: &[u8], name: &'static str) -> Result<(T, usize), WireError> {
    bincode::serde::decode_from_slice(body, config()).map_err(|_| WireError::Body(name))
}

fn whole<T: DeserializeOwned>(body: &[u8], name: &'static str) -> Result<T, WireError> {
    let (value, used) = part(body, name)?;
    if used == body.len() {
        Ok(value)
    } else {
        Err(WireError::Body(name))
    }
}

/// What a datagram between two nodes says. Datagrams may be lost; nothing rests on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram {
    /// Answer with the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
}

impl Datagram {
    /// The nine bytes of this datagram.
    pub fn encode(self) -> [u8; 9] {
        let (kind, number) = match self {
            Datagram::Ping(number) => (b'?', number),
            Datagram::Pong(number) => (b'!', number),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// Reads a datagram; `None` if it is none of ours.
    pub fn decode(bytes: &[u8]) -> Option<Datagram> {
        let (kind, number) = bytes.split_first()?;
        let number = u64::from_le_bytes(number.try_into().ok()?);
        match kind {
            b'?' => Some(Datagram::Ping(number)),
            b'!' => Some(Datagram::Pong(number)),
            _ => None,
        }
    }
}
