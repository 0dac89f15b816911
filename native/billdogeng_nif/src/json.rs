//! The NIF that decodes JSON, for the collector.

use crate::value;
use rustler::{Binary, Encoder, Env, Term};
use serde_json::{Number, Value};

rustler::atoms! { ok, error }

/// Digits become an integer in quadratic time: these take some ten milliseconds.
const MOST_DIGITS: usize = 100_000;

/// Returns `{:ok, term}`, or `{:error, message}` with the place. On a dirty scheduler: bodies have any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn json_decode<'a>(env: Env<'a>, json: Binary<'a>) -> Term<'a> {
    match parse(&json) {
        Ok(value) => (ok(), value::to_term(env, &value)).encode(env),
        Err(message) => (error(), message).encode(env),
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

/// JSON bounds no number; the VM's floats have 64 bits.
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
