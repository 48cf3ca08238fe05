//! A web application for Lunatic: the `submillisecond` crate as published, nothing of Tidelock.
//!
//!     tidelock run web.wasm 127.0.0.1:3000
//!     curl http://127.0.0.1:3000/hello/Ada
//!
//! Each request has a process of its own. One that panics is answered with 500 and ends alone; one that
//! waits holds up nobody.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use submillisecond::params::Params;
use submillisecond::state::State;
use submillisecond::{router, Application, Json};

/// How many requests have been counted; a process of its own keeps it.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Count(u64);

fn index() -> &'static str {
    "hello\n"
}

fn hello(params: Params) -> String {
    format!("hello, {}\n", params.get("name").unwrap_or("nobody"))
}

fn sum(Json(numbers): Json<Vec<i64>>) -> Json<i64> {
    Json(numbers.into_iter().sum())
}

fn count(mut count: State<Count>) -> String {
    count.set(Count(count.0 + 1));
    format!("{}\n", count.0)
}

fn slow() -> &'static str {
    lunatic::sleep(Duration::from_secs(2));
    "at last\n"
}

fn panics() -> &'static str {
    panic!("on purpose")
}

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1);
    State::init(Count(0));
    Application::new(router! {
        GET "/" => index
        GET "/hello/:name" => hello
        POST "/sum" => sum
        GET "/count" => count
        GET "/slow" => slow
        GET "/panic" => panics
    })
    .serve(address.as_deref().unwrap_or("127.0.0.1:3000"))
}
