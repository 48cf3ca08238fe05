//! One connection: its streams, its datagrams, and what the two ends know of each other.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use rustls::pki_types::CertificateDer;
use tidelock_certs::{Identity, UnixTime};

use super::canary::Canary;
use super::{Surroundings, TransportError, queue};

/// What names the exporter's purpose.
const EXPORTER: &[u8] = b"EXPORTER-tidelock-renewal";

/// What the first byte of a unidirectional stream says it is.
const LANE: u8 = b'L';
const BULK: u8 = b'B';

pub(super) fn reason(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            format!("closed by peer: {}", String::from_utf8_lossy(&close.reason))
        }
        quinn::ConnectionError::TimedOut => "nothing heard for three leases".into(),
        other => other.to_string(),
    }
}

/// One QUIC connection to a peer.
#[derive(Debug, Clone)]
pub struct Connection {
    pub(super) quic: quinn::Connection,
    pub(super) around: Surroundings,
    /// What this side showed in the handshake.
    pub(super) shown: Arc<Identity>,
}

/// What a peer opened.
#[derive(Debug)]
pub enum Opened {
    /// Its lane.
    Lane(LaneReader),
    /// A bulk message: the number of its stream, and the stream.
    Bulk(u64, LaneReader),
}

/// A stream that has not said what it is.
#[derive(Debug)]
pub struct Unknown(quinn::RecvStream);

impl Unknown {
    /// Reads what it is. Dropping the future loses the stream.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`], also for a stream that does not say.
    pub async fn identify(mut self) -> Result<Opened, TransportError> {
        let short = |_| TransportError::Closed("a stream ended before it said what it is".into());
        let mut kind = [0];
        self.0.read_exact(&mut kind).await.map_err(short)?;
        match kind[0] {
            LANE => Ok(Opened::Lane(LaneReader(self.0))),
            BULK => {
                let mut number = [0; 8];
                self.0.read_exact(&mut number).await.map_err(short)?;
                Ok(Opened::Bulk(u64::from_le_bytes(number), LaneReader(self.0)))
            }
            other => Err(TransportError::Closed(format!(
                "a stream of unknown kind {other}"
            ))),
        }
    }
}

impl Connection {
    /// The certificate the peer showed; TLS has accepted it.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        let chain = self
            .quic
            .peer_identity()?
            .downcast::<Vec<CertificateDer<'static>>>()
            .ok()?;
        chain.into_iter().next()
    }

    /// Whom this side showed in the handshake, as which it says Hello.
    pub fn shown(&self) -> &Arc<Identity> {
        &self.shown
    }

    /// What time it is, for the dates of certificates.
    pub(crate) fn today(&self) -> UnixTime {
        let now = self.around.calendar.current_time();
        now.unwrap_or_else(UnixTime::now)
    }

    /// Bytes that the two ends of this connection know, and nobody else (RFC 5705).
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`], if TLS has none.
    pub fn exporter(&self) -> Result<[u8; 32], TransportError> {
        let mut bytes = [0; 32];
        let done = self.quic.export_keying_material(&mut bytes, EXPORTER, &[]);
        done.map_err(|_| TransportError::Closed("TLS exports no keying material".into()))?;
        Ok(bytes)
    }

    /// Where the peer is.
    pub fn addr(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// What learns that nobody listens at the peer's address any more.
    pub fn canary(&self) -> Canary {
        if self.around.kernel {
            Canary::new(self.addr())
        } else {
            Canary::mute()
        }
    }

    /// Whether the peer can take datagrams.
    pub fn takes_datagrams(&self) -> bool {
        self.quic.max_datagram_size().is_some_and(|size| size >= 9)
    }

    /// Opens our lane.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn open_lane(&self) -> Result<LaneWriter, TransportError> {
        // Of the same priority as bulk and fetches: in turns, packet by packet. A lane that is never empty must not keep
        // those from the peer, whose lane waits for them.
        let mut lane = LaneWriter(self.quic.open_uni().await.map_err(closed)?);
        lane.write(Bytes::from_static(&[LANE])).await?;
        Ok(lane)
    }

    /// Opens a stream for one bulk message.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn open_bulk(&self, stream: u64) -> Result<BulkWriter, TransportError> {
        let mut lane = LaneWriter(self.quic.open_uni().await.map_err(closed)?);
        let mut head = vec![BULK];
        head.extend_from_slice(&stream.to_le_bytes());
        lane.write(head.into()).await?;
        Ok(BulkWriter(lane))
    }

    /// Waits for a stream the peer opens. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn accept_stream(&self) -> Result<Unknown, TransportError> {
        self.quic.accept_uni().await.map(Unknown).map_err(closed)
    }

    /// Asks the peer something on a stream of its own: writes `question`, reads at most `max` bytes.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`], also for a longer answer.
    pub async fn ask(&self, question: &[u8], max: usize) -> Result<Vec<u8>, TransportError> {
        let (mut send, mut receive) = self.quic.open_bi().await.map_err(closed)?;
        let told = |error: &dyn std::fmt::Display| TransportError::Closed(error.to_string());
        send.write_all(question)
            .await
            .map_err(|error| told(&error))?;
        send.finish().map_err(|error| told(&error))?;
        receive.read_to_end(max).await.map_err(|error| told(&error))
    }

    /// Waits for a question of the peer of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn accept_question(&self) -> Result<Question, TransportError> {
        let (send, receive) = self.quic.accept_bi().await.map_err(closed)?;
        Ok(Question { send, receive })
    }

    /// Sends a datagram; it may be lost.
    pub fn send_datagram(&self, bytes: &[u8]) {
        // A datagram that cannot be sent is one that is lost.
        let _: Result<(), _> = self.quic.send_datagram(Bytes::copy_from_slice(bytes));
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn read_datagram(&self) -> Result<Bytes, TransportError> {
        self.quic.read_datagram().await.map_err(closed)
    }

    /// Closes the connection and says why. What was not sent is lost.
    pub fn close(&self, why: &str) {
        let why: String = why.chars().take(200).collect();
        queue::let_go(self.quic.congestion_state());
        self.quic.close(1u32.into(), why.as_bytes());
    }

    /// Waits until the connection is closed, by either side, and says why.
    pub async fn closed(&self) -> String {
        reason(&self.quic.closed().await)
    }

    /// How often bytes of a stream were put into a packet. While it grows, the peer makes room for them.
    pub fn writes(&self) -> u64 {
        self.quic.stats().frame_tx.stream
    }

    /// Bytes that may be under way, and how large a packet is at the most.
    #[cfg(test)]
    pub(crate) fn room(&self) -> (u64, u64) {
        let path = self.quic.stats().path;
        (path.cwnd, path.current_mtu.into())
    }

    /// Bytes sent and received in UDP payloads.
    pub fn bytes(&self) -> (u64, u64) {
        let stats = self.quic.stats();
        (stats.udp_tx.bytes, stats.udp_rx.bytes)
    }
}

fn closed(error: quinn::ConnectionError) -> TransportError {
    TransportError::Closed(reason(&error))
}

/// A question a peer asked on a stream of its own.
#[derive(Debug)]
pub struct Question {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
}

impl Question {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`], also if it is longer than `max`.
    pub async fn read(&mut self, max: usize) -> Result<Vec<u8>, TransportError> {
        let question = self.receive.read_to_end(max).await;
        question.map_err(|error| TransportError::Closed(error.to_string()))
    }

    /// Answers it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn answer(mut self, answer: Bytes) -> Result<(), TransportError> {
        let told = |error: &dyn std::fmt::Display| TransportError::Closed(error.to_string());
        self.send
            .write_chunk(answer)
            .await
            .map_err(|error| told(&error))?;
        self.send.finish().map_err(|error| told(&error))?;
        // The peer has it, or is gone.
        let _: Result<_, _> = self.send.stopped().await;
        Ok(())
    }
}

/// The writing end of a lane.
#[derive(Debug)]
pub struct LaneWriter(quinn::SendStream);

impl LaneWriter {
    /// Writes all bytes, waiting for the peer's window.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), TransportError> {
        let written = self.0.write_chunk(bytes).await;
        written.map_err(|error| TransportError::Closed(error.to_string()))
    }

    /// Ends the stream and waits until the peer has acknowledged all of it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn finish(&mut self) -> Result<(), TransportError> {
        let told = |error: &dyn std::fmt::Display| TransportError::Closed(error.to_string());
        self.0.finish().map_err(|error| told(&error))?;
        self.0.stopped().await.map_err(|error| told(&error))?;
        Ok(())
    }
}

/// The writing end of a bulk stream. If it is dropped before it is finished, its reader is told that it is not whole;
/// QUIC would call it finished. (A lane stays: a reset takes what is here and unread with it, RFC 9000, section 3.5.)
#[derive(Debug)]
pub struct BulkWriter(LaneWriter);

impl BulkWriter {
    /// As [`LaneWriter::write`].
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), TransportError> {
        self.0.write(bytes).await
    }

    /// As [`LaneWriter::finish`].
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn finish(&mut self) -> Result<(), TransportError> {
        self.0.finish().await
    }
}

impl Drop for BulkWriter {
    fn drop(&mut self) {
        // Once all of it is acknowledged, there is nothing to give up.
        let _: Result<(), _> = self.0.0.reset(quinn::VarInt::from_u32(0));
    }
}

/// The reading end of a lane or a bulk stream.
#[derive(Debug)]
pub struct LaneReader(quinn::RecvStream);

impl LaneReader {
    /// The next bytes, in order; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn read(&mut self, max: usize) -> Result<Option<Bytes>, TransportError> {
        let chunk = self.0.read_chunk(max, true).await;
        chunk
            .map(|chunk| chunk.map(|chunk| chunk.bytes))
            .map_err(|error| TransportError::Closed(error.to_string()))
    }

    /// Adds the next bytes to `pieces`, in order: waits for some, and takes what else is here, until there are so many
    /// pieces, or `max` bytes in all. `false`: it is at its end. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn read_pieces(
        &mut self,
        pieces: &mut Vec<Bytes>,
        pieces_max: usize,
        max: usize,
    ) -> Result<bool, TransportError> {
        let Some(first) = self.read(max).await? else {
            return Ok(false);
        };
        let mut rest = max - first.len();
        pieces.push(first);
        // An end, or an error, is there the next time as well.
        while pieces.len() < pieces_max
            && rest > 0
            && let Some(Ok(Some(more))) = self.read(rest).now_or_never()
        {
            rest -= more.len();
            pieces.push(more);
        }
        Ok(true)
    }
}
