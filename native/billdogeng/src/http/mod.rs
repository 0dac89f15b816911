//! HTTP: the client of one thread, request bodies, and what a response means. Policies are pure functions.

pub mod check;
pub mod client;
pub mod payload;
pub mod policy;
pub mod redact;
pub mod request;
pub mod resolver;
pub mod response;
pub mod roots;
