//! The library's own threads. They stand back for everybody else's.
//!
//! What wakes one is often a capture. The system lets a thread that has slept run at once, where no processor is
//! free in the place of the one that woke it: that caller would be held for as long as a batch takes to pack.
#![allow(unsafe_code)]

use std::io;

/// Starts a thread with a stack of so many bytes.
///
/// # Errors
/// The system has no thread left.
pub fn spawn(name: &str, stack: usize, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.stack_size(stack).spawn(|| {
        stand_back();
        body();
    })?;
    Ok(())
}

/// Asks that the calling thread, and those that it starts, take their turn once a processor is free or somebody's
/// time is up; the system may have them interrupt all the same. Its share of the processor's time stays what it is: sched(7), SCHED_BATCH.
#[cfg(target_os = "linux")]
fn stand_back() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live as long as the call, and the thread named is the calling one. Where the system
    // doesn't allow it the thread stays what it was.
    unsafe { libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_BATCH, &parameters) };
}

#[cfg(not(target_os = "linux"))]
fn stand_back() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc::channel;

    #[test]
    fn a_thread_and_those_that_it_starts_stand_back() {
        // Of the thread that reads it: field 41 of its stat, behind a name in parentheses (proc(5)).
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux has it");
            let fields = stat.rsplit_once(')').expect("it is behind the name").1;
            let policy = fields.split_whitespace().nth(41 - 3).map(str::parse);
            policy.expect("there are as many").expect("a number")
        };
        let (tell, told) = channel();
        super::spawn("threads", 64 * 1024, move || {
            let _ = tell.send(policy());
            std::thread::spawn(move || tell.send(policy()));
        })
        .expect("there is a thread");
        assert_eq!(told.recv(), Ok(libc::SCHED_BATCH));
        assert_eq!(told.recv(), Ok(libc::SCHED_BATCH));
        assert_ne!(policy(), libc::SCHED_BATCH);
    }
}
