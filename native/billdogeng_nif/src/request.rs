//! The NIF of `Transport.request/2`: one attempt, whose result is a message.

use crate::encode::{Encoder, Stop};
use crate::options::Options;
use crate::{atoms, terms};
use billdogeng::request::{self, Request};
use billdogeng::{Answer, Failure};
use rustler::env::OwnedEnv;
use rustler::{Binary, Encoder as _, Env, LocalPid, Term};

/// Starts a request. Returns `:ok`, `:normalise` or `{:error, message}`. After `:ok` the caller is sent
/// `{:billdogeng_response, id, {:ok, data, status, quota_limited} | {:error, error, retryable}}`. On a dirty scheduler:
/// bodies have any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn request<'a>(
    env: Env<'a>,
    options: Options<'a>,
    path: String,
    headers: Vec<(Binary<'a>, Binary<'a>)>,
    body: Term<'a>,
    marker: Term<'a>,
    id: u64,
) -> Term<'a> {
    let http = match options.http() {
        Ok(http) => http,
        Err(unreadable) => return (atoms::error(), unreadable.to_string()).encode(env),
    };
    let body = match encode(body, marker) {
        Ok(body) => body,
        Err(Stop::Normalise) => return atoms::normalise().encode(env),
        Err(_) => return (atoms::error(), "the body is too large").encode(env),
    };
    let headers = headers
        .iter()
        .map(|(name, value)| request::header(name, value))
        .collect();
    let headers = match headers {
        Ok(headers) => headers,
        Err(message) => return (atoms::error(), message).encode(env),
    };
    let caller = env.pid();
    let answer = Box::new(move |result| reply(caller, id, result));
    match request::send(Request {
        http,
        path,
        headers,
        body,
        answer,
    }) {
        Ok(()) => atoms::ok().encode(env),
        Err(failed) => (atoms::error(), failed.to_string()).encode(env),
    }
}

/// Runs on the transport's thread, which is not the VM's.
fn reply(caller: LocalPid, id: u64, result: Result<Answer, Failure>) {
    let _ = OwnedEnv::new().send_and_clear(&caller, |env| {
        let answer = match &result {
            Ok(answer) => {
                let data = terms::value(env, &answer.data);
                (atoms::ok(), data, answer.status, answer.quota_limited).encode(env)
            }
            Err(failure) => (
                atoms::error(),
                terms::error(env, &failure.error),
                failure.is_retryable(),
            )
                .encode(env),
        };
        (atoms::billdogeng_response(), id, answer)
    });
}

/// The limit of a request's body, in bytes of JSON and in terms.
const LARGEST_BODY: usize = 16 * 1024 * 1024;

fn encode<'a>(body: Term<'a>, marker: Term<'a>) -> Result<Option<Vec<u8>>, Stop> {
    if atoms::nil() == body {
        return Ok(None);
    }
    let marker = (atoms::nil() != marker).then_some(marker);
    let mut encoder = Encoder::new(Box::default(), LARGEST_BODY, false, marker);
    encoder.value(body)?;
    let body = encoder.into_scratch().out;
    if body.len() > LARGEST_BODY {
        return Err(Stop::TooLarge);
    }
    Ok(Some(body))
}
