//! The integration tests: the built binary against stand-ins for the service and for receivers.
//! Those that need a real receiver or another program are in `tests/tools`.

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
mod defects;
mod delivery;
mod documents;
mod exec;
mod fuzz;
mod hostile;
mod http;
mod mappings;
mod metrics;
mod model;
mod network;
mod operate;
mod otlp;
mod partial;
mod recipes;
mod stdout;
mod support;
mod unreadable;
mod walk;
mod worlds;
