//! Names to addresses, and the iterators that every address goes out by.
//!
//! The system's resolver blocks, so a look-up has a thread. A look-up that timed out keeps its thread
//! until the system answers, so their number is bounded, for each tenant and for all guests together; whoever
//! comes too many waits, within its own timeout.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tidelock_proto::Environ;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::{Call, Caller, Linker, Result, sync, waits};
use super::address::Places;
use super::{Failure, Outcome, Wait, answer, answer_new};
use crate::shares::share;

/// Look-ups under way of the default tenant, and as many of all others together, each of which has a tenth of them at
/// the most. One more waits.
const LOOKUPS_MAX: usize = 32;
/// Bytes of a name with its port; a longer one is an error.
const NAME_BYTES_MAX: u32 = 1024;
/// Addresses of one name; the rest is left out.
const ADDRESSES_MAX: usize = 256;

static LOOKUPS: LazyLock<Lookups> = LazyLock::new(|| Lookups {
    default: Arc::new(Semaphore::new(LOOKUPS_MAX)),
    others: Arc::new(Semaphore::new(LOOKUPS_MAX)),
    by_other: Mutex::default(),
});

/// One permit for each look-up that may still begin.
struct Lookups {
    default: Arc<Semaphore>,
    others: Arc<Semaphore>,
    /// Of those tenants that look something up.
    by_other: Mutex<BTreeMap<Environ, Weak<Semaphore>>>,
}

impl Lookups {
    /// Waits for a place, which is given back when the result is dropped.
    async fn place(&self, environ: Environ) -> [Option<OwnedSemaphorePermit>; 2] {
        if environ == Environ::default() {
            return [one_of(&self.default).await, None];
        }
        // Who waits for its own tenant takes nothing from the others.
        let own = one_of(&self.of(environ)).await;
        [own, one_of(&self.others).await]
    }

    fn of(&self, environ: Environ) -> Arc<Semaphore> {
        let mut tenants = self.by_other.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, places| places.strong_count() > 0);
        if let Some(places) = tenants.get(&environ).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(share(environ, LOOKUPS_MAX)));
        tenants.insert(environ, Arc::downgrade(&places));
        places
    }
}

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::networking";
        "resolve_next" => resolve_next(
            iter: u64, kind_ptr: u32, addr_ptr: u32, port_ptr: u32, flow_ptr: u32, scope_ptr: u32
        );
        "drop_dns_iterator" => drop_dns_iterator(iter: u64);
    }
    waits! { linker, "lunatic::networking";
        "resolve" => resolve(name_ptr: u32, name_len: u32, timeout: u64, id_ptr: u32);
    }
    Ok(())
}

/// Waits for a permit. No semaphore here is ever closed.
async fn one_of(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    places.clone().acquire_owned().await.ok()
}

/// Addresses not yet asked for.
pub(super) struct Addresses(VecDeque<SocketAddr>);

/// Gives the guest an iterator over these.
pub(super) fn keep(
    call: &mut Call<'_>,
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> Result<u64> {
    let addresses = Addresses(addresses.into_iter().collect());
    let kept = call.state().sockets().addresses.insert(addresses);
    kept.map_err(|full| call.trap(full))
}

/// Answers with an iterator over one address.
pub(super) fn answer_address(
    call: &mut Call<'_>,
    ptr: u32,
    address: io::Result<SocketAddr>,
) -> Result<u32> {
    let outcome = match address {
        Ok(address) => Ok(keep(call, [address])?),
        Err(error) => Err(error.into()),
    };
    answer(call, "id_u64_ptr", ptr, outcome)
}

/// 0: the id of an iterator is at `id_ptr`; else that of an error is, and: 1 no such name, 9027.
async fn resolve(
    mut call: Call<'_>,
    name_ptr: u32,
    name_len: u32,
    timeout: u64,
    id_ptr: u32,
) -> Result<u32> {
    call.room("id_u64_ptr", id_ptr, 8)?;
    let environ = call.state().context.environ();
    let outcome = match name(&mut call, name_ptr, name_len)? {
        Ok(name) => look_up(environ, name, &mut Wait::new(timeout)).await,
        Err(failure) => Err(failure),
    };
    let outcome = match outcome {
        Ok(addresses) => Ok(keep(&mut call, addresses)?),
        Err(failure) => Err(failure),
    };
    answer_new(&mut call, "id_u64_ptr", id_ptr, outcome)
}

/// A name of the guest that is not endless.
pub(super) fn name(call: &mut Call<'_>, ptr: u32, len: u32) -> Result<Outcome<String>> {
    if len > NAME_BYTES_MAX {
        let text = format!("a name has at most {NAME_BYTES_MAX} bytes, not {len}");
        return Ok(Err(Failure::Error(text)));
    }
    Ok(Ok(call.text("name_str_ptr", ptr, len)?))
}

/// The addresses of `host:port`, at least one.
///
/// # Cancellation
///
/// The system is asked all the same; nobody hears the answer.
pub(super) async fn look_up(
    environ: Environ,
    name: String,
    wait: &mut Wait,
) -> Outcome<Vec<SocketAddr>> {
    if let Ok(address) = name.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let (host, port) = split(&name)?;
    if wait.is_none() {
        // A thread that is quick enough would make it a matter of luck.
        return Err(Failure::TimedOut);
    }
    let host = host.to_owned();
    let found = wait.step(async move {
        let place = LOOKUPS.place(environ).await;
        let asked = tokio::task::spawn_blocking(move || {
            // Given back when the system has answered, whether anybody still waits or not.
            let _place = place;
            let found = (host.as_str(), port).to_socket_addrs()?;
            Ok(found.take(ADDRESSES_MAX).collect::<Vec<_>>())
        });
        asked.await.unwrap_or_else(|error| Err(error.into()))
    });
    let found = found.await?;
    if found.is_empty() {
        return Err(Failure::Error(format!("{name:?} has no address")));
    }
    Ok(found)
}

/// Splits `host:port`. What is no host name is not asked about.
fn split(name: &str) -> Outcome<(&str, u16)> {
    let tame = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let parts = name.rsplit_once(':').and_then(|(host, port)| {
        let good = !host.is_empty() && host.chars().all(tame);
        good.then_some(host).zip(port.parse().ok())
    });
    parts.ok_or_else(|| Failure::Error(format!("{name:?} is not host:port")))
}

/// 0: an address was written; 1: there is no more.
fn resolve_next(
    mut call: Call<'_>,
    iter: u64,
    kind_ptr: u32,
    addr_ptr: u32,
    port_ptr: u32,
    flow_ptr: u32,
    scope_ptr: u32,
) -> Result<u32> {
    let places = Places {
        kind: kind_ptr,
        addr: addr_ptr,
        port: port_ptr,
        flow: flow_ptr,
        scope: scope_ptr,
    };
    let Some(Addresses(rest)) = call.state().sockets().addresses.get(iter) else {
        return Err(no_iterator(&call, iter));
    };
    let Some(address) = rest.front().copied() else {
        return Ok(1);
    };
    places.check(&mut call, address)?;
    places.write(&mut call, address)?;
    if let Some(Addresses(rest)) = call.state().sockets().addresses.get_mut(iter) {
        rest.pop_front();
    }
    Ok(0)
}

fn drop_dns_iterator(mut call: Call<'_>, iter: u64) -> Result<()> {
    match call.state().sockets().addresses.remove(iter) {
        Some(_) => Ok(()),
        None => Err(no_iterator(&call, iter)),
    }
}

fn no_iterator(call: &Call<'_>, iter: u64) -> wasmtime::Error {
    call.trap(format_args!("no DNS iterator {iter}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(name: &str, timeout: u64) -> Outcome<Vec<SocketAddr>> {
        asked_by(Environ::default(), name, timeout).await
    }

    async fn asked_by(environ: Environ, name: &str, timeout: u64) -> Outcome<Vec<SocketAddr>> {
        look_up(environ, name.to_owned(), &mut Wait::new(timeout)).await
    }

    #[tokio::test]
    async fn no_tenant_takes_the_look_ups_of_another() {
        let (mine, other) = (Environ(7), Environ(8));
        let places = LOOKUPS.of(mine);
        assert_eq!(places.available_permits(), 4);
        let all = places.acquire_many(4).await.unwrap();
        let late = asked_by(mine, "localhost:80", 50).await;
        assert!(matches!(late, Err(Failure::TimedOut)));
        assert!(asked_by(other, "localhost:80", 20_000).await.is_ok());
        drop(all);
        assert!(asked_by(mine, "localhost:80", 20_000).await.is_ok());
    }

    #[tokio::test]
    async fn only_so_many_look_ups_are_under_way_and_the_others_wait_in_their_timeouts() {
        let places = &LOOKUPS.default;
        let all = places.acquire_many(32).await.unwrap();
        assert_eq!(places.available_permits(), 0);
        let late = asked("localhost:80", 50).await;
        assert!(matches!(late, Err(Failure::TimedOut)));
        assert!(asked("127.0.0.1:80", 50).await.is_ok(), "it asks nobody");
        let waits = tokio::spawn(asked("localhost:80", 20_000));
        // It has been polled, and has no answer.
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(all);
        assert!(waits.await.unwrap().is_ok());
        let again = places.acquire_many(32).await;
        assert!(again.is_ok(), "each look-up gives its place back");
    }

    #[test]
    fn a_name_is_host_and_port() {
        for (name, host, port) in [
            ("localhost:80", "localhost", 80),
            ("a-b.c_d:0", "a-b.c_d", 0),
        ] {
            assert!(
                split(name).is_ok_and(|parts| parts == (host, port)),
                "{name}"
            );
        }
        for name in [
            "", ":", "a", "a:", ":80", "a:65536", "a:-1", "a b:80", "é:80", "a\0:80", "::1:80",
        ] {
            assert!(split(name).is_err(), "{name}");
        }
    }
}
