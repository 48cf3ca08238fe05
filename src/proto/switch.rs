//! Rules that a test may remove, to see that the model notices.
//!
//! A model that finds nothing proves little until it is known what it would find. With the feature
//! `switches`, `tests/model_switches.rs` removes one rule at a time and expects a broken promise, and so
//! does `tests/simulate_switches.rs` with rules of the runtime and the node around it.
//! Without it — in everything that ships — [`off`] is the constant `false`, and nothing is left of
//! a hook. No crate may enable the feature.

#[cfg(feature = "switches")]
std::thread_local! {
    static REMOVED: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// Removes the rule with this name for the calling thread, and puts back the one removed before.
#[cfg(feature = "switches")]
pub fn remove(rule: &'static str) {
    REMOVED.set(rule);
}

/// Whether the rule with this name is removed.
#[cfg(feature = "switches")]
pub fn off(rule: &str) -> bool {
    REMOVED.get() == rule
}

/// Whether the rule with this name is removed: it is not.
#[cfg(not(feature = "switches"))]
#[inline(always)]
pub const fn off(_rule: &str) -> bool {
    false
}
