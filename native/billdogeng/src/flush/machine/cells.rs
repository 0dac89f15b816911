//! Every cell of the machine: each event in each phase. The table lists the cells that do something; all others must
//! change nothing.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const TARGET: u64 = 9;

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn machine(phase: impl FnOnce(Flush, Instant) -> Phase) -> (Machine, Instant) {
    let now = Instant::now();
    let rules = Rules {
        attempts: 3,
        flush_interval: secs(10),
        external_sleep: false,
        shutdown_timeout: secs(5),
        suspension: secs(100),
        jitter: |delay| delay,
    };
    let mut machine = Machine::new(rules, now);
    let flush = Flush {
        target: TARGET,
        attempts_left: 3,
        failed: 0,
        stage: Stage::Take,
    };
    machine.phase = phase(flush, now);
    (machine, now)
}

type Setup = fn(Flush, Instant) -> Phase;

fn phases() -> Vec<(&'static str, Setup)> {
    fn at(stage: Stage, flush: Flush) -> Flush {
        Flush { stage, ..flush }
    }
    vec![
        ("idle", |_, _| Phase::Idle),
        ("take", |flush, _| Phase::InFlight(flush)),
        ("read", |flush, _| Phase::InFlight(at(Stage::Read, flush))),
        ("send", |flush, _| Phase::InFlight(at(Stage::Send, flush))),
        ("receive", |flush, _| {
            Phase::InFlight(at(Stage::Receive, flush))
        }),
        ("wait", |flush, now| {
            Phase::Waiting(at(Stage::Send, flush), Wait::Until(now + secs(1)))
        }),
        ("sleep", |flush, _| {
            Phase::Waiting(at(Stage::Send, flush), Wait::Listener(1))
        }),
        ("backoff", |_, now| Phase::BackingOff(now + secs(20))),
        ("suspended", |_, now| Phase::Suspended(now + secs(100))),
        ("drain", |_, now| {
            Phase::Draining(now + secs(5), Drain::Idle)
        }),
        ("drain-receive", |flush, now| {
            let flush = Flush {
                attempts_left: u32::MAX,
                ..at(Stage::Receive, flush)
            };
            Phase::Draining(now + secs(5), Drain::InFlight(flush))
        }),
        ("drain-wait", |flush, now| {
            let wait = Wait::Until(now + secs(1));
            Phase::Draining(now + secs(5), Drain::Waiting(at(Stage::Send, flush), wait))
        }),
        ("ended", |_, _| Phase::Ended),
    ]
}

fn failed(retryable: bool, retry_after: Option<u64>, nobody: bool) -> Event {
    Event::Failed(Failed {
        error: Arc::new(Error::network("no")),
        retryable,
        retry_after: retry_after.map(secs),
        nobody,
    })
}

fn call(carried: bool, shutdown: bool) -> Event {
    Event::Flush {
        id: 1,
        target: TARGET,
        carried,
        shutdown,
    }
}

/// An event, what comes before it, and how long after.
fn events() -> Vec<(&'static str, Vec<Event>, u64, Event)> {
    let facts = Facts {
        empty: true,
        ..Facts::default()
    };
    let queued = Facts::default();
    let due = Facts {
        due: true,
        ..queued
    };
    let held = Facts { held: true, ..due };
    let handover = |secs_left| Facts {
        handover: Some(Instant::now() + secs(secs_left)),
        ..queued
    };
    let look = Event::Look;
    let settle = Event::Settle {
        id: 2,
        target: TARGET,
    };
    let error = Arc::new(Error::panicked());
    // Ends the call of the shutdown, but not its effect on the timer.
    let panicked = Event::Panicked(Arc::clone(&error));
    let stopped = vec![look(queued), call(true, true), panicked];
    let alone = |name, event| (name, Vec::new(), 0, event);
    vec![
        alone("call", call(true, false)),
        alone("shutdown", call(false, true)),
        alone("settle", settle),
        alone("slept", Event::Slept(1)),
        alone("slept-other", Event::Slept(2)),
        alone("tick", Event::Tick),
        alone("purge", Event::Purge),
        alone("drain", Event::Drain),
        alone("look-empty", look(facts)),
        alone("look-queued", look(queued)),
        alone("look-due", look(due)),
        alone("look-held", look(held)),
        alone("look-handover", look(handover(3))),
        ("look-1s", vec![], 1, look(queued)),
        ("look-20s", vec![look(queued)], 20, look(queued)),
        ("look-20s-empty", vec![look(queued)], 20, look(facts)),
        ("look-20s-held", vec![], 20, look(held)),
        ("look-100s", vec![], 100, look(facts)),
        ("look-call", vec![call(true, false)], 0, look(facts)),
        ("look-shutdown", vec![call(true, true)], 0, look(facts)),
        ("look-20s-stopped", stopped, 20, look(queued)),
        alone("begun", Event::Begun(20)),
        alone("batch", Event::Batch),
        alone("reading", Event::Reading),
        alone("not-read", Event::NotRead),
        alone("nothing", Event::Nothing(TARGET)),
        (
            "nothing-call",
            vec![call(true, false)],
            0,
            Event::Nothing(TARGET),
        ),
        (
            "nothing-below",
            vec![call(true, false)],
            0,
            Event::Nothing(TARGET - 1),
        ),
        alone("accepted", Event::Accepted),
        alone("next-part", Event::Next { done: false }),
        alone("next-batch", Event::Next { done: true }),
        alone("fail", failed(true, None, false)),
        alone("fail-after-3s", failed(true, Some(3), false)),
        alone("fail-after-40s", failed(true, Some(40), false)),
        alone("fail-nobody", failed(true, None, true)),
        alone("deny", failed(false, None, false)),
        (
            "fail-call",
            vec![call(true, false)],
            0,
            failed(true, None, false),
        ),
        (
            "deny-call",
            vec![call(true, false)],
            0,
            failed(false, None, false),
        ),
        (
            "fail-late-call",
            vec![call(false, false)],
            0,
            failed(true, None, false),
        ),
        (
            "deny-late-call",
            vec![call(false, false)],
            0,
            failed(false, None, false),
        ),
        alone("quota", Event::QuotaLimited),
        (
            "quota-shutdown",
            vec![call(true, true)],
            0,
            Event::QuotaLimited,
        ),
        alone("panic", Event::Panicked(Arc::clone(&error))),
        (
            "panic-call",
            vec![call(true, false)],
            0,
            Event::Panicked(error),
        ),
        alone("closed", Event::Closed),
    ]
}

/// Shows a phase in a word or two, with times from `now`.
fn shown(phase: Phase, now: Instant) -> String {
    let left = |until: Instant| format!("{}s", until.duration_since(now).as_secs());
    let flush = |flush: Flush, wait: Option<Wait>| {
        let stage = format!("{:?}", flush.stage).to_lowercase();
        let failed = match flush.failed {
            0 => String::new(),
            failed => format!(" failed={failed}"),
        };
        let wait = match wait {
            None => String::new(),
            Some(Wait::Until(until)) => format!(" wait={}", left(until)),
            Some(Wait::Listener(id)) => format!(" sleep={id}"),
        };
        let attempts = match flush.attempts_left {
            u32::MAX => "all".into(),
            attempts if attempts == u32::MAX - 1 => "all-1".into(),
            attempts => attempts.to_string(),
        };
        format!("{stage}<{} attempts={attempts}{failed}{wait}", flush.target)
    };
    match (phase, phase.flush()) {
        (Phase::Draining(..), Some((of, wait))) => format!("drain {}", flush(of, wait)),
        (_, Some((of, wait))) => flush(of, wait),
        (Phase::BackingOff(until), _) => format!("backoff {}", left(until)),
        (Phase::Suspended(until), _) => format!("suspended {}", left(until)),
        (Phase::Draining(until, _), _) => format!("drain {}", left(until)),
        (phase, _) => format!("{phase:?}").to_lowercase(),
    }
}

fn shown_action(action: &Action) -> String {
    match action {
        Action::FailFlush(_) => "FailFlush".into(),
        Action::Reply(replies) => {
            let results = replies.iter().map(|reply| match reply {
                Reply::Flushed(_, Ok(())) => "ok".into(),
                Reply::Flushed(_, Err(error)) => error.code.clone().unwrap_or_default(),
                other => format!("{other:?}"),
            });
            format!("Reply[{}]", results.collect::<Vec<_>>().join(" "))
        }
        action => format!("{action:?}"),
    }
}

/// Returns the effect of an event in a phase, or nothing where there is none.
fn cell(setup: Setup, before: &[Event], after: u64, event: &Event) -> Option<String> {
    let (mut machine, start) = machine(setup);
    for event in before {
        machine.handle(event.clone(), start);
    }
    let (phase, now) = (machine.phase, start + secs(after));
    let actions = machine.handle(event.clone(), now);
    let actions: Vec<_> = actions.iter().map(shown_action).collect();
    let same = machine.phase == phase && actions.is_empty();
    (!same).then(|| {
        let next = match machine.phase == phase {
            true => "same".to_owned(),
            false => shown(machine.phase, now),
        };
        format!("{next}: {}", actions.join(", "))
            .trim_end_matches([':', ' '])
            .to_owned()
    })
}

#[test]
fn each_event_has_the_effect_in_each_phase_that_the_table_says() {
    let mut table = String::new();
    for (name, before, after, event) in events() {
        let mut effects: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut order = Vec::new();
        for (phase, setup) in phases() {
            if let Some(effect) = cell(setup, &before, after, &event) {
                if !effects.contains_key(&effect) {
                    order.push(effect.clone());
                }
                effects.entry(effect).or_default().push(phase);
            }
        }
        for effect in order {
            table += &format!("{name} | {} | {effect}\n", effects[&effect].join(" "));
        }
    }
    let expected: BTreeSet<&str> = include_str!("cells.txt").lines().collect();
    let actual: BTreeSet<&str> = table.lines().collect();
    let missing: Vec<_> = expected.difference(&actual).collect();
    let other: Vec<_> = actual.difference(&expected).collect();
    assert!(
        missing.is_empty() && other.is_empty(),
        "expected {missing:#?}, got {other:#?}"
    );
}
