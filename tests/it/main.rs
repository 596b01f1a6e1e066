//! The integration tests: the built binary against stand-ins for the API and for receivers, and
//! against real receivers where they are installed.

#[path = "../support/receiver.rs"]
mod receiver;
#[path = "../support/stand_in.rs"]
mod stand_in;

mod checkpoint;
mod cli;
mod defects;
mod delivery;
mod documents;
mod exec;
mod http;
mod model;
mod receivers;
mod recipes;
mod stdout;
mod support;
mod walk;
