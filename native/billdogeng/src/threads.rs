//! Starts the library's threads, which run at low priority (`SCHED_BATCH`), and keeps their code mapped.
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

/// Keeps the shared library that this code is part of mapped until the process ends.
///
/// The VM unloads a library when the module that loaded it is purged. The library's threads run on.
///
/// # Errors
/// The system's reason, or that the code is in no shared library: a program stays mapped anyway.
#[cfg(unix)]
pub fn keep_mapped() -> Result<(), String> {
    use std::ffi::CStr;
    use std::mem::MaybeUninit;

    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is only looked up. `dladdr` writes the whole of `found` if it returns other than 0, and the
    // path in it lives as long as the library, which is loaded now.
    let path = unsafe {
        if libc::dladdr(keep_mapped as *const libc::c_void, found.as_mut_ptr()) == 0 {
            return Err("the system does not know the library that this code is in".into());
        }
        found.assume_init().dli_fname
    };
    // RTLD_NOLOAD: a file that has taken the path since is another library, whose initialisers must not run.
    let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
    // SAFETY: the path is a C string, as above, and nothing is loaded. `dlerror` returns a C string, or nothing, that
    // stays valid until this thread's next call of its kind.
    unsafe {
        // The handle is never closed, which alone would keep the library where a system ignores RTLD_NODELETE.
        if !libc::dlopen(path, flags).is_null() {
            return Ok(());
        }
        let reason = libc::dlerror();
        Err(match reason.is_null() {
            true => format!(
                "{} is not a loaded library",
                CStr::from_ptr(path).to_string_lossy()
            ),
            false => CStr::from_ptr(reason).to_string_lossy().into_owned(),
        })
    }
}

/// As on Unix, by the system's own means.
#[cfg(windows)]
pub fn keep_mapped() -> Result<(), String> {
    use std::ffi::c_void;

    const PIN: u32 = 1;
    const FROM_ADDRESS: u32 = 4;

    #[link(name = "kernel32")]
    extern "system" {
        fn GetModuleHandleExW(flags: u32, name: *const u16, module: *mut *mut c_void) -> i32;
    }

    let mut module = std::ptr::null_mut();
    // SAFETY: with FROM_ADDRESS the second argument is any address within the module, here this function's. The
    // system writes the module's handle, which is not used.
    let pinned =
        unsafe { GetModuleHandleExW(PIN | FROM_ADDRESS, keep_mapped as *const u16, &mut module) };
    match pinned {
        0 => Err(io::Error::last_os_error().to_string()),
        _ => Ok(()),
    }
}

/// Asks that the calling thread, and those that it starts, take their turn once a processor is free or somebody's
/// time is up; the system may have them interrupt all the same. Its share of the processor's time stays what it is: sched(7), SCHED_BATCH.
#[cfg(target_os = "linux")]
fn stand_back() {
    // SAFETY: the struct has only numbers, so all zeros are a value of it. Its fields can't be listed here: musl's has
    // more of them than glibc's.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
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
        let (sender, receiver) = channel();
        super::spawn("threads", 64 * 1024, move || {
            let _ = sender.send(policy());
            std::thread::spawn(move || sender.send(policy()));
        })
        .expect("there is a thread");
        assert_eq!(receiver.recv(), Ok(libc::SCHED_BATCH));
        assert_eq!(receiver.recv(), Ok(libc::SCHED_BATCH));
        assert_ne!(policy(), libc::SCHED_BATCH);
    }
}
