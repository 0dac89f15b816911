//! JSON, errors, drop reasons and counters as terms; and the NIF that decodes JSON, for the collector.

use crate::atoms;
use billdogeng::{Error, Reason, Stats};
use num_bigint::BigInt;
use rustler::{Atom, Binary, Encoder, Env, NewBinary, Term};
use serde_json::{Number, Value};

/// Digits become an integer in quadratic time: these take some ten milliseconds.
const MOST_DIGITS: usize = 100_000;

// ── JSON ──

/// Returns a JSON value as a term: objects become maps with string keys, null becomes nil, integers stay exact.
pub fn value<'a>(env: Env<'a>, value: &Value) -> Term<'a> {
    match value {
        Value::Null => atoms::nil().encode(env),
        Value::Bool(value) => value.encode(env),
        Value::String(text) => string(env, text),
        Value::Number(number) => self::number(env, number.as_str()),
        Value::Array(values) => values
            .iter()
            .map(|value| self::value(env, value))
            .collect::<Vec<_>>()
            .encode(env),
        Value::Object(object) => {
            let keys: Vec<_> = object.keys().map(|key| string(env, key)).collect();
            let values: Vec<_> = object
                .values()
                .map(|value| self::value(env, value))
                .collect();
            map(env, &keys, &values)
        }
    }
}

/// Returns a map in one step: one that grows key by key leaves a copy of each size on the heap.
fn map<'a>(env: Env<'a>, keys: &[Term<'a>], values: &[Term<'a>]) -> Term<'a> {
    // Fails only if a key occurs twice.
    Term::map_from_term_arrays(env, keys, values).unwrap_or_else(|_| Term::map_new(env))
}

/// rustler's own encoder puts each string outside the heap, however short it is.
fn string<'a>(env: Env<'a>, text: &str) -> Term<'a> {
    let mut binary = NewBinary::new(env, text.len());
    binary.as_mut_slice().copy_from_slice(text.as_bytes());
    binary.into()
}

fn number<'a>(env: Env<'a>, text: &str) -> Term<'a> {
    if let Ok(value) = text.parse::<i64>() {
        return value.encode(env);
    }
    if let Ok(value) = text.parse::<BigInt>() {
        return big(env, &value);
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => value.encode(env),
        // 1e999 is JSON, but not a float of the VM.
        _ => text.encode(env),
    }
}

/// Uses the external term format's LARGE_BIG_EXT (111): no function of the VM makes a big integer.
fn big<'a>(env: Env<'a>, value: &BigInt) -> Term<'a> {
    let (sign, magnitude) = value.to_bytes_le();
    let mut external = vec![131, 111];
    external.extend_from_slice(&(magnitude.len() as u32).to_be_bytes());
    external.push(u8::from(sign == num_bigint::Sign::Minus));
    external.extend_from_slice(&magnitude);
    match env.binary_to_term(&external) {
        Some((term, _)) => term,
        None => value.to_string().encode(env),
    }
}

/// Returns the terms of JSON that the encoder wrote, for tests; nil if it cannot be read.
pub fn decode<'a>(env: Env<'a>, json: &[u8]) -> Term<'a> {
    value(env, &serde_json::from_slice(json).unwrap_or_default())
}

/// Returns `{:ok, term}`, or `{:error, message}` with the place. On a dirty scheduler: bodies have any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn json_decode<'a>(env: Env<'a>, json: Binary<'a>) -> Term<'a> {
    match parse(&json) {
        Ok(value) => (atoms::ok(), self::value(env, &value)).encode(env),
        Err(message) => (atoms::error(), message).encode(env),
    }
}

fn parse(json: &[u8]) -> Result<Value, String> {
    let value = serde_json::from_slice(json).map_err(|error| {
        let message = error.to_string();
        message.replace("recursion limit exceeded", "nested deeper than 127 levels")
    })?;
    check(&value)?;
    Ok(value)
}

/// JSON numbers have no limit; the VM's floats have 64 bits.
fn check(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) => check_number(number),
        Value::Array(values) => values.iter().try_for_each(check),
        Value::Object(object) => object.values().try_for_each(check),
        _ => Ok(()),
    }
}

fn check_number(number: &Number) -> Result<(), String> {
    let text = number.as_str();
    if text.contains(['.', 'e', 'E']) {
        return match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(()),
            _ => Err("a float beyond 64 bits".to_owned()),
        };
    }
    if text.len() > MOST_DIGITS {
        return Err(format!("an integer of more than {MOST_DIGITS} digits"));
    }
    Ok(())
}

// ── errors and counters ──

/// Returns `{message, status, code, body}`, the arguments of `BilldogEng.Error.new/4`.
pub fn error<'a>(env: Env<'a>, error: &Error) -> Term<'a> {
    let body = error.body.as_ref().map(|body| value(env, body));
    (&error.message, error.status, &error.code, body).encode(env)
}

pub fn reason(reason: Reason) -> Atom {
    match reason {
        Reason::QueueFull => atoms::queue_full(),
        Reason::TooLarge => atoms::too_large(),
        Reason::Rejected => atoms::rejected(),
        Reason::Quota => atoms::quota(),
        Reason::BeforeSend => atoms::before_send(),
        Reason::InHook => atoms::in_hook(),
        Reason::Failed => atoms::failed(),
        Reason::Stopped => atoms::stopped(),
        Reason::SpoolFull => atoms::spool_full(),
        Reason::Expired => atoms::expired(),
        Reason::SpoolLost => atoms::spool_lost(),
        Reason::Purged => atoms::purged(),
        Reason::Disabled => atoms::disabled(),
        Reason::Unowned => atoms::unowned(),
    }
}

pub fn to_reason(name: Atom) -> Option<Reason> {
    Reason::ALL.into_iter().find(|known| reason(*known) == name)
}

/// Returns the counts that are not 0, by reason.
pub fn dropped(env: Env<'_>, counts: [u64; Reason::ALL.len()]) -> Term<'_> {
    let counts = Reason::ALL.into_iter().zip(counts);
    let (reasons, counts): (Vec<_>, Vec<_>) = counts
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (self::reason(reason).encode(env), count.encode(env)))
        .unzip();
    map(env, &reasons, &counts)
}

/// Returns counters as a map, together with `more` entries.
pub fn stats<'a>(env: Env<'a>, stats: &Stats, more: &[(Atom, Term<'a>)]) -> Term<'a> {
    let counts = [
        (atoms::captured(), stats.captured),
        (atoms::delivered(), stats.delivered),
        (atoms::queued(), stats.queued),
        (atoms::queued_bytes(), stats.queued_bytes),
        (atoms::in_flight(), stats.in_flight),
        (atoms::retries(), stats.retries),
        (atoms::replaced(), stats.replaced),
    ];
    let counts = counts.map(|(name, count)| (name, count.encode(env)));
    let dropped = [(atoms::dropped(), dropped(env, stats.dropped))];
    let entries = counts.iter().chain(&dropped).chain(more);
    let (keys, values): (Vec<_>, Vec<_>) = entries
        .map(|(key, value)| (key.encode(env), *value))
        .unzip();
    map(env, &keys, &values)
}
