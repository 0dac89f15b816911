//! A client's lock on a machine of any number of cores, event by event.
//!
//! Each scheduler works for a while, takes the lock, and goes on once it has given it back. Those who wait are served in
//! the order of their arrival. A holder keeps it for longer if the one before ran on another core.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// The cost of a capture on one core, in ns.
pub struct Machine {
    /// Encoding, and all else outside the lock.
    pub outside: f64,
    /// With the lock, if its last holder ran on the same core.
    pub same_core: f64,
    /// With the lock otherwise.
    pub other_core: f64,
}

/// The cost of captures at a given rate.
pub struct Paced {
    /// ns of a capture, on the average.
    pub mean: f64,
    /// ns of it that were spent waiting.
    pub mean_wait: f64,
    /// 99 % of the captures waited no longer than this.
    pub p99_wait: f64,
    /// The share of captures that waited for longer than a thread spins.
    pub slept: f64,
}

/// A thread that waits for longer sleeps: the standard library's mutex looks at it 100 times, some 10 ns each.
const SPIN: f64 = 1_000.0;
/// The cost of a thread's sleep and wake-up.
const SLEEP: f64 = 20_000.0;
const CAPTURES: usize = 400_000;

/// A time in ns, as an order.
#[derive(PartialEq)]
struct Time(f64);

impl Eq for Time {}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Machine {
    /// Each scheduler captures at random moments, so many times a second (a Poisson process).
    pub fn paced(&self, schedulers: usize, per_second: f64) -> Paced {
        let mut random = fastrand::Rng::with_seed(7);
        let gap = 1e9 / per_second;
        let mut waits = Vec::with_capacity(CAPTURES);
        let (mut total, mut slept) = (0.0, 0usize);
        self.run(schedulers, gap, |wait, held| {
            let asleep = if wait > SPIN { SLEEP } else { 0.0 };
            slept += usize::from(wait > SPIN);
            total += self.outside + wait + held + asleep;
            waits.push(wait);
            // Work that comes while it is busy begins at once; each capture encodes before it asks for the lock.
            let pause = -gap * (1.0 - random.f64()).ln();
            (pause - self.outside - wait - held).max(0.0) + self.outside + asleep
        });
        let mean_wait = waits.iter().sum::<f64>() / waits.len() as f64;
        waits.sort_by(f64::total_cmp);
        Paced {
            mean: total / waits.len() as f64,
            mean_wait,
            p99_wait: waits[waits.len() * 99 / 100],
            slept: slept as f64 / waits.len() as f64,
        }
    }

    /// Captures per second of all schedulers, each as fast as it can.
    pub fn flat_out(&self, schedulers: usize) -> f64 {
        let ns = self.run(schedulers, self.outside + self.same_core, |_, _| {
            self.outside
        });
        CAPTURES as f64 / ns * 1e9
    }

    /// Runs [`CAPTURES`] of them; returns when the last one ended. The schedulers begin spread over `spread` ns. `next` gets
    /// how long a capture waited and held the lock, and returns how long its scheduler takes until it asks for the lock again.
    fn run(&self, schedulers: usize, spread: f64, mut next: impl FnMut(f64, f64) -> f64) -> f64 {
        let step = spread / schedulers as f64;
        let mut asking: BinaryHeap<_> = (0..schedulers)
            .map(|scheduler| Reverse((Time(scheduler as f64 * step), scheduler)))
            .collect();
        let (mut free_at, mut last) = (0.0_f64, usize::MAX);
        for _ in 0..CAPTURES {
            let Some(Reverse((Time(at), scheduler))) = asking.pop() else {
                break;
            };
            let begin = free_at.max(at);
            let held = match last == scheduler {
                true => self.same_core,
                false => self.other_core,
            };
            (free_at, last) = (begin + held, scheduler);
            let pause = next(begin - at, held);
            asking.push(Reverse((Time(free_at + pause), scheduler)));
        }
        free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine {
        outside: 900.0,
        same_core: 100.0,
        other_core: 100.0,
    };

    #[test]
    fn one_scheduler_never_waits() {
        let paced = MACHINE.paced(1, 20_000.0);
        assert_eq!((paced.mean_wait, paced.slept), (0.0, 0.0));
        let per_second = MACHINE.flat_out(1);
        assert!((per_second - 1e6).abs() < 1e3, "{per_second}");
    }

    #[test]
    fn the_lock_bounds_all_schedulers_together() {
        let ten = MACHINE.flat_out(10);
        assert!(
            (ten - 1e7).abs() < 1e5,
            "a tenth of each: they fit without a wait: {ten}"
        );
        let many = MACHINE.flat_out(64);
        assert!(
            (many - 1e7).abs() < 1e5,
            "one capture per 100 ns at most: {many}"
        );
    }

    #[test]
    fn waits_are_those_of_a_queue_with_one_server_and_fixed_times() {
        // M/D/1 (Pollaczek and Khinchine): ρs / 2(1 − ρ), at ρ = 0.5.
        let machine = Machine {
            outside: 0.0,
            ..MACHINE
        };
        let paced = machine.paced(2_000, 0.5 * 1e9 / 100.0 / 2_000.0);
        assert!((paced.mean_wait - 50.0).abs() < 5.0, "{}", paced.mean_wait);
    }
}
