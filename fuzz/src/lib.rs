//! What strangers may send, and what must hold whatever it is.
//!
//! Each module has one function `run`, which panics if something does not hold. `targets/` hands it
//! to libFuzzer; `tests/fuzz_seeds.rs` and `tests/fuzz_guests.rs` of the repository hand it the seeds of
//! `corpus/` and random changes of them, on any toolchain.

pub mod host;
pub mod input;
pub mod join;
pub mod module;
pub mod pointers;
pub mod session;
pub mod ticket;
pub mod wire;
