//! A plain web server in Rust, to measure `examples/web` against: `plain_web ADDRESS`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::{Router, routing::get};

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args()
        .nth(1)
        .context("usage: plain_web ADDRESS")?;
    let address: SocketAddr = address.parse().context("the address")?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    let app = Router::new().route("/", get(async || "hello\n"));
    axum::serve(listener, app).await?;
    Ok(())
}
