//! What a run of the tests may be told by its environment.

use std::time::Duration;

/// A setting of the test run, or what is usual.
pub(crate) fn setting<T: std::str::FromStr>(name: &str, usual: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} has no meaning")),
        Err(_) => usual,
    }
}

/// A time of the test run, such as `90s` or `24h`, or what is usual.
pub(crate) fn time_setting(name: &str, usual: Duration) -> Duration {
    setting(name, humantime::Duration::from(usual)).into()
}
