//! One event: JSON text, where in it a value is, and whether it makes a person profile.

pub mod json;
pub mod place;
pub mod profiles;
