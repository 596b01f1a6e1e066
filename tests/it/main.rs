//! The integration tests: the built binary against stand-ins for the API and for receivers, and
//! against real receivers where they are installed.

#[path = "../support/checks.rs"]
mod checks;
#[path = "../support/receiver.rs"]
mod receiver;
#[path = "../support/relay.rs"]
mod relay;
#[path = "../support/stand_in.rs"]
mod stand_in;

mod check;
mod checkpoint;
mod cli;
mod crash;
mod defects;
mod delivery;
mod documents;
mod exec;
mod faults;
mod fuzz;
mod hostile;
mod http;
mod model;
mod network;
mod operate;
mod receivers;
mod recipes;
mod scene;
mod stdout;
mod support;
mod trace;
mod walk;
