//! Functions of the VM that rustler lacks, or that cost a capture too much through rustler.
#![allow(unsafe_code)]

use crate::atoms;
use billdogeng::nearest;
use rustler::sys::{
    enif_get_double, enif_get_int64, enif_get_list_cell, enif_get_map_size, enif_get_tuple,
    enif_inspect_binary, enif_map_iterator_create, enif_map_iterator_destroy,
    enif_map_iterator_get_pair, enif_map_iterator_next, enif_monotonic_time, enif_raise_exception,
    enif_time_offset, ErlNifBinary, ErlNifEnv, ErlNifMapIterator, ErlNifMapIteratorEntry,
    ErlNifTerm, ErlNifTimeUnit,
};
use rustler::{Env, Term};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::panic::catch_unwind;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Makes a function of the form `fn(&[Term; N]) -> Term` a NIF. If it panics, the other function is called in its place.
///
/// `#[rustler::nif]` allocates a vector for the arguments of each call, which takes longer than to encode two properties.
macro_rules! nif {
    ($name:literal, $arity:literal, $flags:ident, $function:ident, $panicked:ident) => {
        rustler::codegen_runtime::inventory::submit!(rustler::Nif {
            name: concat!($name, "\0").as_ptr().cast(),
            arity: $arity,
            flags: rustler::SchedulerFlags::$flags as _,
            raw_func: {
                #[allow(unsafe_code)]
                unsafe extern "C" fn raw(
                    env: *mut rustler::sys::ErlNifEnv,
                    _: rustler::sys::c_int,
                    arguments: *const rustler::sys::ErlNifTerm,
                ) -> rustler::sys::ErlNifTerm {
                    // SAFETY: the VM passes its environment, and as many arguments as the arity.
                    unsafe { $crate::vm::call::<$arity>(env, arguments, $function, $panicked) }
                }
                raw
            },
        });
    };
}
pub(crate) use nif;

/// The function of a NIF with `N` arguments.
type Function<const N: usize> = for<'a> fn(&[Term<'a>; N]) -> Term<'a>;

/// Calls `function` with the arguments of a NIF; if it panics, `panicked`. A panic of that one is raised.
///
/// # Safety
/// `env` and the `N` terms behind `arguments` are those that the VM has passed to a NIF.
#[inline(always)]
pub unsafe fn call<const N: usize>(
    env: *mut ErlNifEnv,
    arguments: *const ErlNifTerm,
    function: Function<N>,
    panicked: Function<N>,
) -> ErlNifTerm {
    let lifetime = ();
    // SAFETY: as for this function.
    let (env, words) = unsafe {
        (
            Env::new(&lifetime, env),
            *arguments.cast::<[ErlNifTerm; N]>(),
        )
    };
    // SAFETY: each is a term of that environment.
    let arguments = words.map(|word| unsafe { Term::new(env, word) });
    match catch_unwind(|| function(&arguments).as_c_arg()) {
        Ok(term) => term,
        Err(_) => after_panic(env, &arguments, panicked),
    }
}

#[cold]
fn after_panic<const N: usize>(
    env: Env,
    arguments: &[Term; N],
    panicked: Function<N>,
) -> ErlNifTerm {
    catch_unwind(|| panicked(arguments).as_c_arg()).unwrap_or_else(|_| {
        // SAFETY: an atom is a term of every environment.
        unsafe { enif_raise_exception(env.as_c_arg(), atoms::nif_panicked().as_c_arg()) }
    })
}

thread_local! {
    /// When a thread last asked the VM, and what it returned (ns since 1970).
    static ASKED: Cell<Option<(Instant, i64)>> = const { Cell::new(None) };
}

/// Returns the time of an event in milliseconds since 1970: Erlang's system time, as `System.system_time/1`, or the
/// operating system's if the two differ by more than a second. After a suspend or a step of the system's clock, Erlang's
/// time corrects itself by 1 %, which can take hours.
///
/// The VM's clock takes a lock that all schedulers share, so a thread asks it about once in a millisecond. It may run 1 %
/// faster than the monotonic clock here, so near the end of a millisecond the thread asks again.
pub fn system_time_ms() -> i64 {
    const MS: i64 = 1_000_000;
    let now = Instant::now();
    if let Some((then, ns)) = ASKED.get() {
        let gone = now.duration_since(then).as_nanos().min(MS as u128) as i64;
        if ns.rem_euclid(MS) + gone + gone / 50 < MS {
            return ns.div_euclid(MS);
        }
    }
    let ns = nearest(system_time_ns(), os_time_ns());
    ASKED.set(Some((now, ns)));
    ns.div_euclid(MS)
}

fn os_time_ns() -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    since.as_nanos().try_into().ok()
}

/// Adds in ns and rounds down once, as the VM does: two roundings could return a time before one that the caller has read
/// already.
fn system_time_ns() -> i64 {
    // SAFETY: both take a plain enum and touch no memory of ours; they work on any thread of the VM.
    unsafe {
        enif_monotonic_time(ErlNifTimeUnit::ERL_NIF_NSEC)
            + enif_time_offset(ErlNifTimeUnit::ERL_NIF_NSEC)
    }
}

/// Returns Erlang's monotonic time in nanoseconds. Works on schedulers only.
pub fn monotonic_time_ns() -> i64 {
    // SAFETY: it takes a plain enum and touches no memory of ours.
    unsafe { enif_monotonic_time(ErlNifTimeUnit::ERL_NIF_NSEC) }
}

/// Returns the bytes of a binary; `None` for any other term. rustler returns a result whose error has to be dropped, here
/// and in the next two functions.
#[inline(always)]
pub fn bytes<'a>(term: Term<'a>) -> Option<&'a [u8]> {
    let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
    // SAFETY: the term is of this environment. The VM writes the whole of it if it returns that the term is a
    // binary; its bytes stay where they are, unchanged, as long as the environment. The pointer of an empty one may be
    // null.
    unsafe {
        let env = term.get_env().as_c_arg();
        if enif_inspect_binary(env, term.as_c_arg(), binary.as_mut_ptr()) == 0 {
            return None;
        }
        let binary = binary.assume_init();
        match binary.size {
            0 => Some(&[]),
            size => Some(std::slice::from_raw_parts(binary.data, size)),
        }
    }
}

/// Returns an integer of 64 bits; `None` for any other term.
#[inline(always)]
pub fn integer(term: Term) -> Option<i64> {
    let mut value = 0;
    // SAFETY: the term is of this environment, and the VM writes the value if there is one.
    let found = unsafe { enif_get_int64(term.get_env().as_c_arg(), term.as_c_arg(), &mut value) };
    (found != 0).then_some(value)
}

/// Returns a float; `None` for any other term.
#[inline(always)]
pub fn float(term: Term) -> Option<f64> {
    let mut value = 0.0;
    // SAFETY: as for an integer.
    let found = unsafe { enif_get_double(term.get_env().as_c_arg(), term.as_c_arg(), &mut value) };
    (found != 0).then_some(value)
}

/// Returns whether a term is a map without members.
#[inline(always)]
pub fn is_empty_map(term: Term) -> bool {
    let mut size = 0;
    // SAFETY: the term is of this environment, and the VM writes the size of a map.
    let found = unsafe { enif_get_map_size(term.get_env().as_c_arg(), term.as_c_arg(), &mut size) };
    found != 0 && size == 0
}

/// Returns the elements of a tuple; `None` for any other term. rustler copies all of them first, and the walk may stop
/// after a few of ten million.
pub fn elements<'a>(term: Term<'a>) -> Option<impl ExactSizeIterator<Item = Term<'a>>> {
    let env = term.get_env();
    let words = words(term)?.iter();
    // SAFETY: each is a term of the same environment.
    Some(words.map(move |word| unsafe { Term::new(env, *word) }))
}

/// Returns the elements of a tuple of this size; `None` for any other term.
pub fn tuple<const N: usize>(term: Term) -> Option<[Term; N]> {
    let env = term.get_env();
    let words: [ErlNifTerm; N] = words(term)?.try_into().ok()?;
    // SAFETY: each is a term of the same environment.
    Some(words.map(|word| unsafe { Term::new(env, word) }))
}

#[inline(always)]
fn words<'a>(term: Term<'a>) -> Option<&'a [ErlNifTerm]> {
    let (mut arity, mut array) = (0, std::ptr::null());
    // SAFETY: the term is of this environment. The VM returns its own array of `arity` terms, which stays where it is
    // as long as the environment; for an empty tuple the pointer may be invalid.
    unsafe {
        match enif_get_tuple(
            term.get_env().as_c_arg(),
            term.as_c_arg(),
            &mut arity,
            &mut array,
        ) {
            0 => None,
            _ if arity <= 0 => Some(&[]),
            _ => Some(std::slice::from_raw_parts(array, arity as usize)),
        }
    }
}

/// The elements of a list, up to its improper tail. rustler's own iterator moves whole terms in results, which costs more
/// than the call to the VM.
pub struct Elements<'a> {
    env: Env<'a>,
    rest: ErlNifTerm,
}

impl<'a> Elements<'a> {
    /// Takes any term; one that is no list has no elements.
    pub fn of(list: Term<'a>) -> Self {
        Self {
            env: list.get_env(),
            rest: list.as_c_arg(),
        }
    }

    /// Returns the rest: the empty list, once all elements of a proper list have been taken.
    pub fn rest(&self) -> Term<'a> {
        // SAFETY: it is a term of this environment: the list, or a tail of it.
        unsafe { Term::new(self.env, self.rest) }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Term<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Term<'a>> {
        let mut head = MaybeUninit::uninit();
        // SAFETY: `rest` is a term of this environment. The VM writes both terms, of the same environment, if it
        // returns that there is an element.
        unsafe {
            let mut tail = MaybeUninit::uninit();
            let env = self.env.as_c_arg();
            if enif_get_list_cell(env, self.rest, head.as_mut_ptr(), tail.as_mut_ptr()) == 0 {
                return None;
            }
            self.rest = tail.assume_init();
            Some(Term::new(self.env, head.assume_init()))
        }
    }
}

/// The pairs of a map, in the VM's order. rustler's own iterator can be read from both ends, which takes a third of a
/// walk's time.
pub struct Pairs<'a> {
    map: Term<'a>,
    iterator: ErlNifMapIterator,
}

impl<'a> Pairs<'a> {
    /// Returns `None` if `map` is no map.
    pub fn of(map: Term<'a>) -> Option<Self> {
        let mut iterator = MaybeUninit::uninit();
        // SAFETY: the term is of this environment, and the VM writes the whole of the iterator if it returns
        // that the term is a map.
        unsafe {
            let created = enif_map_iterator_create(
                map.get_env().as_c_arg(),
                map.as_c_arg(),
                iterator.as_mut_ptr(),
                ErlNifMapIteratorEntry::ERL_NIF_MAP_ITERATOR_HEAD,
            );
            (created != 0).then(|| Self {
                map,
                iterator: iterator.assume_init(),
            })
        }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (Term<'a>, Term<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let env = self.map.get_env();
        let (mut key, mut value) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: the iterator is the map's, which lives as long as its environment. The VM writes both terms
        // if it returns that there is a pair, and they are of the same environment.
        unsafe {
            let found = enif_map_iterator_get_pair(
                env.as_c_arg(),
                &mut self.iterator,
                key.as_mut_ptr(),
                value.as_mut_ptr(),
            );
            if found == 0 {
                return None;
            }
            enif_map_iterator_next(env.as_c_arg(), &mut self.iterator);
            Some((
                Term::new(env, key.assume_init()),
                Term::new(env, value.assume_init()),
            ))
        }
    }
}

impl Drop for Pairs<'_> {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used after this.
        unsafe { enif_map_iterator_destroy(self.map.get_env().as_c_arg(), &mut self.iterator) }
    }
}
