//! Rates, sizes and times as people type them.

use std::time::Duration;

/// Above this, what is due cannot be told apart by a clock of nanoseconds.
const RATE_MAX: u64 = 100_000_000;

/// A longer run would not fit into the guest's histogram.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// Operations per second: 500, 100k, 2M.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let rate = scaled(text, &[("k", 1000), ("M", 1_000_000)])?;
    match rate {
        1..=RATE_MAX => Ok(rate),
        _ => Err(format!("a rate is 1 to {RATE_MAX} in a second")),
    }
}

/// Bytes: 128, 64KiB, 1MiB. What a message may have is checked where the mailbox is known.
pub(super) fn size(text: &str) -> Result<u64, String> {
    scaled(text, &[("KiB", 1 << 10), ("MiB", 1 << 20), ("B", 1)])
}

/// A time such as 10s or 500ms.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(10)..=TIME_MAX).contains(&time) {
        Ok(time)
    } else {
        Err("a run takes 10ms to 1h".to_owned())
    }
}

/// A whole number, times what the ending that it has stands for.
fn scaled(text: &str, endings: &[(&str, u64)]) -> Result<u64, String> {
    let (digits, times) = endings
        .iter()
        .find_map(|(ending, times)| Some((text.strip_suffix(ending)?.trim_end(), *times)))
        .unwrap_or((text, 1));
    let number: u64 = digits.parse().map_err(|_| {
        let endings: Vec<_> = endings.iter().map(|(ending, _)| *ending).collect();
        format!(
            "expected a whole number, with {} behind it if need be",
            endings.join(" or ")
        )
    })?;
    number
        .checked_mul(times)
        .ok_or_else(|| "the number is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!(rate("100k"), Ok(100_000));
        assert_eq!(rate("2M"), Ok(2_000_000));
        assert_eq!(rate("1"), Ok(1));
        assert_eq!(size("128"), Ok(128));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1 MiB"), Ok(1 << 20));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "0",
            "-1",
            "1.5k",
            "k",
            "",
            "100K",
            "18446744073709551616",
            "18446744073709551615k",
        ] {
            assert!(rate(text).is_err(), "{text:?}");
        }
        for text in ["", "KiB", "1kb", "-1", "18014398509481984MiB"] {
            assert!(size(text).is_err(), "{text:?}");
        }
        for text in ["0s", "1", "2h", "soon"] {
            assert!(time(text).is_err(), "{text:?}");
        }
    }
}
