
#[path = "../support/stand_in.rs"]
mod stand_in;

mod checkpoint;
mod cli;
mod defects;
mod documents;
mod http;
mod model;
mod stdout;
mod support;
mod walk;
