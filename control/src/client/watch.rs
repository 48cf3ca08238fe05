//! Following the membership: a stream that connects again whenever it has to.

use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use reqwest::{Response, StatusCode};
use tokio::time::{sleep, timeout};

use super::{ANSWER_BYTES_MAX, BACKOFF_MAX, BACKOFF_MIN, CALL_TIME_MAX, Client, ClientError};
use crate::api::WatchEvent;

/// A watch that is silent for longer is dead: control sends heartbeats every two seconds.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long it waits at most after a connection that brought no snapshot: each costs control a large
/// answer.
const FRUITLESS_BACKOFF_MAX: Duration = Duration::from_secs(30);

impl Client {
    /// Follows the membership for as long as the stream is polled.
    ///
    /// After each connection the first item is a snapshot. If the connection is lost, the error is one
    /// item, and the stream connects again, waiting a little longer each time until it has read a snapshot.
    /// It ends only after a refusal to connect that waiting may not mend ([`ClientError::is_temporary`] is
    /// false); whoever has to follow for good opens another one after a while.
    #[must_use]
    pub fn watch(&self) -> BoxStream<'static, Result<WatchEvent, ClientError>> {
        let state = WatchState::Connect {
            wait: Duration::ZERO,
        };
        futures_util::stream::unfold((self.clone(), state), |(client, mut state)| async move {
            loop {
                state = match state {
                    WatchState::Over => return None,
                    WatchState::Connect { wait } => {
                        sleep(wait).await;
                        match client.open_watch().await {
                            Ok(lines) => WatchState::Read { lines, wait },
                            Err(error) if error.is_temporary() => {
                                let wait = (wait * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
                                return Some((Err(error), (client, WatchState::Connect { wait })));
                            }
                            Err(error) => {
                                return Some((Err(error), (client, WatchState::Over)));
                            }
                        }
                    }
                    WatchState::Read { mut lines, wait } => match lines.next(&client).await {
                        Ok(event) => {
                            let wait = Duration::ZERO;
                            return Some((Ok(event), (client, WatchState::Read { lines, wait })));
                        }
                        Err(error) => {
                            let wait = (wait * 2).clamp(BACKOFF_MIN, FRUITLESS_BACKOFF_MAX);
                            return Some((Err(error), (client, WatchState::Connect { wait })));
                        }
                    },
                };
            }
        })
        .boxed()
    }

    async fn open_watch(&self) -> Result<Lines, ClientError> {
        let request = self.http().get(self.url("watch"));
        let response = match timeout(CALL_TIME_MAX, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.network_error(&error, CALL_TIME_MAX)),
            Err(_) => return Err(self.timed_out(CALL_TIME_MAX)),
        };
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        Ok(Lines {
            response,
            buffer: Vec::new(),
        })
    }
}

enum WatchState {
    Connect {
        wait: Duration,
    },
    Read {
        lines: Lines,
        /// How long was waited before; nothing, once something has been read.
        wait: Duration,
    },
    Over,
}

/// A watch's connection and the part of a line that has arrived.
struct Lines {
    response: Response,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self, client: &Client) -> Result<WatchEvent, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| client.answer(&error.to_string()));
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err(client.answer("a line without an end"));
            }
            match timeout(SILENCE_MAX, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.buffer.extend_from_slice(&chunk),
                Ok(Ok(None)) => {
                    return Err(ClientError::Unreachable {
                        control: client.control.to_string(),
                        reason: "it ended the watch".to_owned(),
                    });
                }
                Ok(Err(error)) => return Err(client.network_error(&error, SILENCE_MAX)),
                Err(_) => return Err(client.timed_out(SILENCE_MAX)),
            }
        }
    }
}
