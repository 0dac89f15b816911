//! JSON values and errors as terms.

use billdogeng::Error;
use num_bigint::BigInt;
use rustler::{Encoder, Env, NewBinary, Term};
use serde_json::Value;

/// Objects become maps with string keys, null becomes nil, integers stay exact.
pub fn to_term<'a>(env: Env<'a>, value: &Value) -> Term<'a> {
    match value {
        Value::Null => rustler::types::atom::nil().encode(env),
        Value::Bool(value) => value.encode(env),
        Value::String(text) => string_to_term(env, text),
        Value::Number(number) => number_to_term(env, number.as_str()),
        Value::Array(values) => values
            .iter()
            .map(|value| to_term(env, value))
            .collect::<Vec<_>>()
            .encode(env),
        Value::Object(object) => {
            let keys: Vec<_> = object.keys().map(|key| string_to_term(env, key)).collect();
            let values: Vec<_> = object.values().map(|value| to_term(env, value)).collect();
            // At once: a map that grows key by key leaves each of its sizes behind. No key is there twice.
            Term::map_from_term_arrays(env, &keys, &values).unwrap_or_else(|_| Term::map_new(env))
        }
    }
}

/// rustler's own encoder puts each string beside the heap, however short it is.
fn string_to_term<'a>(env: Env<'a>, text: &str) -> Term<'a> {
    let mut binary = NewBinary::new(env, text.len());
    binary.as_mut_slice().copy_from_slice(text.as_bytes());
    binary.into()
}

/// The terms of JSON that the encoder wrote, for tests; nil should it not be readable.
pub fn decode<'a>(env: Env<'a>, json: &[u8]) -> Term<'a> {
    to_term(env, &serde_json::from_slice(json).unwrap_or_default())
}

fn number_to_term<'a>(env: Env<'a>, text: &str) -> Term<'a> {
    if let Ok(value) = text.parse::<i64>() {
        return value.encode(env);
    }
    if let Ok(value) = text.parse::<BigInt>() {
        return big_to_term(env, &value);
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => value.encode(env),
        // 1e999 is JSON, but no float of the VM's.
        _ => text.encode(env),
    }
}

/// By the external term format's LARGE_BIG_EXT (111): the VM makes no big integer of digits.
fn big_to_term<'a>(env: Env<'a>, value: &BigInt) -> Term<'a> {
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

/// `{message, status, code, body}`, as `BilldogEng.Error.new/4` takes them.
pub fn error_to_term<'a>(env: Env<'a>, error: &Error) -> Term<'a> {
    let body = error.body.as_ref().map(|body| to_term(env, body));
    (&error.message, error.status, &error.code, body).encode(env)
}
