//! The integration tests: the built binary against stand-ins for the API and for receivers, and
//! against real receivers where they are installed.

#[path = "../support/receiver.rs"]
mod receiver;
#[path = "../support/stand_in.rs"]
mod stand_in;

mod check;
mod checkpoint;
mod cli;
mod defects;
mod delivery;
mod documents;
mod exec;
mod fixtures;
mod http;
mod model;
mod operate;
mod receivers;
mod stdout;
mod support;
mod walk;
