//! When to try again, as pure functions: of a number or a header, a delay.

use std::time::{Duration, SystemTime};

/// No wait between attempts is longer. An ingest that asks for more ends the flush.
pub const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// No ingest holds automatic flushes for longer.
const LONGEST_HOLD: Duration = Duration::from_secs(5 * 60);
/// How long nothing is sent to an ingest whose quota is used up.
pub const SUSPENSION: Duration = Duration::from_secs(15 * 60);

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

/// Parses a `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3). `None` for anything else; a
/// date that is over asks for no wait.
pub fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has are a long time too.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// How long automatic flushes are held for an ingest that asks for more than [`LONGEST_DELAY`].
pub fn hold(asked: Duration) -> Option<Duration> {
    (asked > LONGEST_DELAY).then(|| asked.min(LONGEST_HOLD))
}

/// Answers since the first refusal after which a flush ends: the next one goes on.
pub const MOST_ANSWERS: u32 = 100;

/// Refusals in a row, of a batch of `events` and of its parts, after which single events are tried at random, and half
/// of those after which the fault is not an event's: enough to isolate one wherever it stands, and a few beside it.
pub fn most_refusals(events: usize) -> u32 {
    2 * events.max(1).next_power_of_two().ilog2() + 2
}

/// Flushes in a row that may fail for the same batch, before it is split as one that is refused.
pub const MOST_FAILED_FLUSHES: u32 = 5;

/// Whether an event may be the cause of a status that does not name it: 403, 409 and 5xx, but not those of a gateway.
pub fn may_be_an_events_fault(status: u16) -> bool {
    matches!(status, 403 | 409 | 500..=599) && !matches!(status, 502..=504)
}

/// Whether the same request may succeed later: 408, 429 and 5xx.
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
    fn a_retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases: [(&[u8], Option<u64>); 10] = [
            (b"0", Some(0)),
            (b" 120 ", Some(120)),
            (b"99999999999999999999999", Some(u64::MAX)),
            // RFC 9110, 5.6.7: the form that is sent, and the two that must be understood.
            (b"Sun, 06 Nov 1994 08:50:00 GMT", Some(23)),
            (b"Sunday, 06-Nov-94 08:50:00 GMT", Some(23)),
            (b"Sun Nov  6 08:50:00 1994", Some(23)),
            (b"Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            (b"-1", None),
            (b"", None),
            (b"1.5", None),
        ];
        for (value, seconds) in cases {
            let shown = String::from_utf8_lossy(value);
            let asked = retry_after(value, now).map(|delay| delay.as_secs());
            assert_eq!(asked, seconds, "{shown:?}");
        }
    }

    #[test]
    fn half_a_minute_is_waited_for_and_more_holds_up_to_five_minutes() {
        let cases = [(0, None), (30, None), (31, Some(31)), (86_400, Some(300))];
        for (asked, held) in cases {
            assert_eq!(
                hold(Duration::from_secs(asked)).map(|hold| hold.as_secs()),
                held
            );
        }
    }

    #[test]
    fn refusals_are_bounded_by_the_depth_of_the_halves() {
        let cases = [
            (0, 2),
            (1, 2),
            (2, 4),
            (3, 6),
            (4, 6),
            (5, 8),
            (1000, 22),
            (1024, 22),
        ];
        for (events, most) in cases {
            assert_eq!(most_refusals(events), most, "{events}");
        }
    }

    #[test]
    fn an_event_may_be_to_blame_for_some_statuses_that_do_not_say_so() {
        for status in [403, 409, 500, 501, 505, 520, 599] {
            assert!(may_be_an_events_fault(status), "{status}");
        }
        for status in [0, 200, 400, 401, 404, 408, 413, 422, 429, 502, 503, 504] {
            assert!(!may_be_an_events_fault(status), "{status}");
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
