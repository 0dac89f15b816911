//! Which clock an event's time comes from.

/// Returns Erlang's system time, unless it is more than one second off the operating system's: after a suspend, or a step
/// of the clock, Erlang's takes hours to follow. Both in ns since 1970.
pub fn nearest(erlang: i64, os: Option<i64>) -> i64 {
    match os {
        Some(os) if erlang.abs_diff(os) > 1_000_000_000 => os,
        _ => erlang,
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_system_s_time_is_taken_where_erlang_s_is_off_by_more_than_a_second() {
        const S: i64 = 1_000_000_000;
        for (erlang, os, taken) in [
            (10 * S, Some(10 * S), 10 * S),
            (10 * S, Some(11 * S), 10 * S),
            (10 * S, Some(9 * S), 10 * S),
            (10 * S, Some(11 * S + 1), 11 * S + 1),
            (10 * S, Some(9 * S - 1), 9 * S - 1),
            (10 * S, None, 10 * S),
        ] {
            assert_eq!(nearest(erlang, os), taken);
        }
    }
}
