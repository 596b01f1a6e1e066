//! The integration tests: the built binary against the stand-in for the API.
#[path = "../support/receiver.rs"]
mod receiver;
#[path = "../support/stand_in.rs"]
mod stand_in;

mod delivery;
mod exec;
mod receivers;
mod support;
