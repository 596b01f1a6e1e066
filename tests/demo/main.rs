//! The demonstration: five acts that show what the command does and what it survives.
//!
//! `cargo run --example demo` runs the real command against stand-ins for the API and a receiver on
//! this machine. It needs no token and no network. With `-- --serve` the stand-ins keep running, to
//! be tried by hand.
//!
//! This program contains the command: under the name `tfc-audit` it is nothing else. So both are
//! compiled at once, and neither the acts nor `--serve` call cargo again.

#![expect(clippy::print_stdout, reason = "it shows something")]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

mod acts;
#[path = "../../src/main.rs"]
mod command;
#[path = "../support/receiver.rs"]
mod receiver;
mod serve;
#[path = "../support/stand_in.rs"]
mod stand_in;
mod table;

/// The name under which this program is the command.
const COMMAND: &str = "tfc-audit";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let name = arguments
        .first()
        .and_then(|path| Path::new(path).file_name());
    if name.is_some_and(|name| name == COMMAND) {
        return command::main();
    }
    let words: Vec<_> = arguments
        .iter()
        .skip(1)
        .filter_map(|word| word.to_str())
        .collect();
    let result: Result<(), Box<dyn Error>> = match words[..] {
        [] => acts::show(),
        ["--serve"] => serve::serve(),
        _ => Err("usage: cargo run --example demo [-- --serve]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\ndemo: {error}");
            ExitCode::FAILURE
        }
    }
}
