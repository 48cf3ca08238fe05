//! The control plane of a cluster: who is in it, who may join, which modules it holds.

pub mod api;
pub mod client;
pub mod http;
pub mod modules;
