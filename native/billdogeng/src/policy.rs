//! When to try again, as pure functions: of a number, a delay.

use std::time::Duration;

/// No wait between attempts is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The wait before the attempt after `failed` failed ones: 1, 2, 4 … s, 30 s at most.
pub fn retry_delay(failed: u32) -> Duration {
    Duration::from_secs(1u64 << failed.saturating_sub(1).min(5)).min(LONGEST_DELAY)
}

/// How long automatic flushes pause after `failed` failed flushes in a row: 10, 20, 40, 60, 60 … s.
pub fn pause(failed: u32) -> Duration {
    Duration::from_secs((10u64 << failed.saturating_sub(1).min(3)).min(60))
}

/// Spreads `delay` by at most 20 % to either side, so that many clients do not return together.
pub fn jitter(delay: Duration) -> Duration {
    delay.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// Whether a status says that the same request may pass later: 408, 429 and 5xx.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_thirty_seconds() {
        let delays: Vec<u64> = (1..=8).map(|n| retry_delay(n).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<u64> = (1..=6).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 60, 60, 60]);
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        for _ in 0..1000 {
            let jittered = jitter(Duration::from_secs(10)).as_secs_f64();
            assert!((8.0..=12.0).contains(&jittered), "{jittered}");
        }
    }

    #[test]
    fn what_may_pass_later_is_tried_again() {
        for status in [408, 429, 500, 502, 503, 504, 599] {
            assert!(is_retryable(status), "{status}");
        }
        for status in [200, 301, 400, 401, 403, 404, 413, 422, 600] {
            assert!(!is_retryable(status), "{status}");
        }
    }
}
