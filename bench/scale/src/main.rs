//! Measures a client's one lock, and simulates it on machines with more cores than this one.
//!
//! ```text
//! bench_scale CAPTURE_NS CALLERS:PER_SECOND…    what one capture takes its caller in all, and what so many callers
//!                                               captured per second on this machine; prints JSON
//! ```

mod law;
mod lock;
mod simulation;

use serde_json::json;
use simulation::Machine;
use std::error::Error;

/// Captures per second of each scheduler, where they are not as fast as they can be.
const PER_SECOND: f64 = 20_000.0;
const SCHEDULERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: bench_scale CAPTURE_NS CALLERS:PER_SECOND…";
    let capture: f64 = arguments.next().ok_or(usage)?.parse()?;
    let mut measured = Vec::new();
    for point in arguments {
        let (callers, per_second) = point.split_once(':').ok_or(usage)?;
        measured.push((callers.parse()?, per_second.parse()?));
    }

    let lock = lock::measure();
    let machine = Machine {
        outside: (capture - lock.same_core).max(0.0),
        same_core: lock.same_core,
        other_core: lock.other_core.max(lock.same_core),
    };
    let mut simulated = Vec::new();
    let mut flat_out = Vec::new();
    for schedulers in SCHEDULERS {
        let paced = machine.paced(schedulers, PER_SECOND);
        let per_second = machine.flat_out(schedulers);
        flat_out.push((schedulers as f64, per_second));
        simulated.push(json!({
            "schedulers": schedulers,
            "wait_ns": paced.mean_wait,
            "p99_wait_ns": paced.p99_wait,
            "slept": paced.slept,
            "capture_ns": paced.mean,
            "flat_out_per_second": per_second,
        }));
    }
    let fit = |points: &[(f64, f64)]| {
        law::fit(points)
            .map(|law| json!({ "sigma": law.sigma, "kappa": law.kappa, "peak": law.peak() }))
    };
    let result = json!({
        "same_core_ns": lock.same_core,
        "other_core_ns": machine.other_core,
        "simulated": simulated,
        "law_of_measured": fit(&measured),
        "law_of_simulated": fit(&flat_out),
    });
    println!("{result}");
    Ok(())
}
