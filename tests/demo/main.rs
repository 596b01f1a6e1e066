//! Demo.
#[path = "../support/stand_in.rs"]
mod stand_in;
fn main() {}
