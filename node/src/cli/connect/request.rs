//! One request, to control or to a node, and what became of it: the answer, or a letter that says why there is none
//! and what to do.

use std::net::SocketAddr;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use tidelock_control::api::ErrorBody;

use super::{Cluster, WORK_WITHIN, no_control};
use crate::cli::failure::{Failure, Outcome, plain};

/// Whom a request is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whom {
    Control,
    Node,
}

impl Cluster {
    pub(super) fn to_control(&self, method: Method, path: &str) -> RequestBuilder {
        self.control
            .request(method, format!("https://{}{path}", self.address))
            .timeout(WORK_WITHIN)
    }

    pub(super) fn to_node(&self, method: Method, admin: SocketAddr, path: &str) -> RequestBuilder {
        self.node.request(method, format!("https://{admin}{path}"))
    }

    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        whom: Whom,
        request: RequestBuilder,
    ) -> Outcome<T> {
        let response = checked(whom, request).await?;
        let from = response.url().authority().to_owned();
        response.json().await.map_err(|error| {
            let message = format!("{from}: the answer was not understood");
            Failure::new("E0001", message).detail(plain(&error))
        })
    }
}

/// Sends the request; an answer that is none becomes a letter.
pub(super) async fn checked(whom: Whom, request: RequestBuilder) -> Outcome<Response> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| Failure::new("E0001", plain(&error)))?;
    let from = request.url().authority().to_owned();
    let response = client
        .execute(request)
        .await
        .map_err(|error| unreachable_server(whom, &from, &error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    match response.json::<ErrorBody>().await {
        Ok(body) => {
            let mut failure = Failure::new(&body.code, &body.message);
            for command in body.next.iter().take(2) {
                failure = failure.next(command, "");
            }
            Err(failure)
        }
        Err(_) if status == StatusCode::NOT_FOUND => Err(Failure::new(
            "E1005",
            format!("{from}: there is no such thing"),
        )),
        Err(_) => Err(Failure::new("E0001", format!("{from} answered {status}"))),
    }
}

fn unreachable_server(whom: Whom, from: &str, error: &reqwest::Error) -> Failure {
    let why = plain(error);
    let words = cause(&why);
    if error.is_timeout() {
        return Failure::new("E0040", format!("{from} did not answer in time"));
    }
    if why.contains("certificate") {
        return Failure::new(
            "E0013",
            format!("{from}: the credentials were not accepted"),
        )
        .detail(words);
    }
    match whom {
        Whom::Control => no_control(from).detail(words),
        Whom::Node => Failure::new("E0012", format!("the node at {from} cannot be reached"))
            .detail(words)
            .next("tidelock nodes", "who is there, as control knows it"),
    }
}

/// The last of several causes, which is the one that people can do something about.
pub(super) fn cause(why: &str) -> &str {
    // rustls's words for it are an address of its manual.
    if why.contains("close_notify") {
        return "the connection ended";
    }
    why.rsplit(": ").next().unwrap_or(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_in_words() {
        let tls = "error reading a body: peer closed connection without sending TLS close_notify: \
                   https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";
        assert_eq!(cause(tls), "the connection ended");
        assert_eq!(
            cause("tcp connect error: Connection refused"),
            "Connection refused"
        );
    }
}
