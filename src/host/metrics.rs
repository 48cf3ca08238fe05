//! `lunatic::metrics`: figures a guest reports, by name.
//!
//! Kept for the whole program, whatever environment and tenant a guest is of, and handed out by [`snapshot`] to a program that
//! embeds the runtime. A node shows them nowhere: `/metrics` asks nobody who he is, and what guests call their figures is
//! theirs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Call, Caller, Linker, Result, sync};

/// Names kept; further ones are ignored, and counted.
const NAMES_MAX: usize = 4096;
/// Bytes of a name; the rest is cut off.
const NAME_BYTES_MAX: u32 = 128;

/// What guests of this program reported.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct GuestMetrics {
    /// Counters and gauges, by name.
    pub values: BTreeMap<String, f64>,
    /// Histograms, by name: how many observations, and their sum.
    pub histograms: BTreeMap<String, (u64, f64)>,
    /// Reports under names beyond the limit.
    pub ignored: u64,
}

static METRICS: Mutex<GuestMetrics> = Mutex::new(GuestMetrics {
    values: BTreeMap::new(),
    histograms: BTreeMap::new(),
    ignored: 0,
});

/// What guests reported so far.
pub fn snapshot() -> GuestMetrics {
    METRICS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::metrics";
        "counter" => counter(ptr: u32, len: u32, value: u64);
        "increment_counter" => increment_counter(ptr: u32, len: u32);
        "gauge" => gauge(ptr: u32, len: u32, value: f64);
        "increment_gauge" => increment_gauge(ptr: u32, len: u32, value: f64);
        "decrement_gauge" => decrement_gauge(ptr: u32, len: u32, value: f64);
        "histogram" => histogram(ptr: u32, len: u32, value: f64);
    }
    Ok(())
}

fn counter(call: Call<'_>, ptr: u32, len: u32, value: u64) -> Result<()> {
    update(call, ptr, len, |old| *old = value as f64)
}

fn increment_counter(call: Call<'_>, ptr: u32, len: u32) -> Result<()> {
    update(call, ptr, len, |old| *old += 1.0)
}

fn gauge(call: Call<'_>, ptr: u32, len: u32, value: f64) -> Result<()> {
    update(call, ptr, len, |old| *old = value)
}

fn increment_gauge(call: Call<'_>, ptr: u32, len: u32, value: f64) -> Result<()> {
    update(call, ptr, len, |old| *old += value)
}

fn decrement_gauge(call: Call<'_>, ptr: u32, len: u32, value: f64) -> Result<()> {
    update(call, ptr, len, |old| *old -= value)
}

fn histogram(mut call: Call<'_>, ptr: u32, len: u32, value: f64) -> Result<()> {
    let name = name(&mut call, ptr, len)?;
    let mut metrics = METRICS.lock().unwrap_or_else(PoisonError::into_inner);
    let metrics = &mut *metrics;
    if let Some((count, sum)) = entry(&mut metrics.histograms, name, &mut metrics.ignored) {
        *count += 1;
        *sum += value;
    }
    Ok(())
}

fn update(mut call: Call<'_>, ptr: u32, len: u32, change: impl FnOnce(&mut f64)) -> Result<()> {
    let name = name(&mut call, ptr, len)?;
    let mut metrics = METRICS.lock().unwrap_or_else(PoisonError::into_inner);
    let metrics = &mut *metrics;
    if let Some(value) = entry(&mut metrics.values, name, &mut metrics.ignored) {
        change(value);
    }
    Ok(())
}

/// A name, cut at a character. What is cut off is not looked at.
fn name(call: &mut Call<'_>, ptr: u32, len: u32) -> Result<String> {
    const ARG: &str = "name_ptr";
    call.room(ARG, ptr, len)?;
    let bytes = call.bytes(ARG, ptr, len.min(NAME_BYTES_MAX))?;
    let whole = match std::str::from_utf8(bytes) {
        Err(cut) if len > NAME_BYTES_MAX && cut.error_len().is_none() => cut.valid_up_to(),
        _ => bytes.len(),
    };
    call.text(ARG, ptr, whole as u32)
}

fn entry<'a, T: Default>(
    map: &'a mut BTreeMap<String, T>,
    name: String,
    ignored: &mut u64,
) -> Option<&'a mut T> {
    if map.len() >= NAMES_MAX && !map.contains_key(&name) {
        *ignored += 1;
        return None;
    }
    Some(map.entry(name).or_default())
}
