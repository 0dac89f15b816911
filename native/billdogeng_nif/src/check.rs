//! The NIFs that look at options and texts before anything is sent.

use crate::client::HttpOptions;
use billdogeng::{check as core, Unusable};
use rustler::{Atom, Encoder, Env, Term};

rustler::atoms! { ok, error, host, proxy, cacertfile, api_key }

/// `:ok`, or `{:error, option, reason}`. Reads the file of authorities, if one is given.
#[rustler::nif(schedule = "DirtyIo")]
fn check<'a>(env: Env<'a>, http: HttpOptions, key: String) -> Term<'a> {
    match core(&http.into(), &key) {
        Ok(()) => ok().encode(env),
        Err((option, reason)) => (error(), option_to_atom(option), reason).encode(env),
    }
}

fn option_to_atom(option: Unusable) -> Atom {
    match option {
        Unusable::Host => host(),
        Unusable::Proxy => proxy(),
        Unusable::CaCertFile => cacertfile(),
        Unusable::ApiKey => api_key(),
    }
}

/// `{variable, path, authorities}` of each of `SSL_CERT_FILE` and `SSL_CERT_DIR` that is set.
#[rustler::nif(schedule = "DirtyIo")]
fn named_roots() -> Vec<(&'static str, &'static str, usize)> {
    let named = billdogeng::named_roots().iter();
    named
        .map(|roots| (roots.variable, roots.path.as_str(), roots.authorities))
        .collect()
}

/// The text without the key, however it quotes it.
#[rustler::nif]
fn redact(text: &str, key: &str) -> String {
    billdogeng::redact(text, key)
}
