//! The integration tests: the built binary against the stand-in for the API.
#[path = "../support/stand_in.rs"]
mod stand_in;

mod documents;
