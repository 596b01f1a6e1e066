//! The command: what was typed, what was meant, one run, and how it ended.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use tfc_audit::cli::{self, Command};
use tfc_audit::clock::{Clock, SystemClock};
use tfc_audit::config::{Config, Environment};
use tfc_audit::error::{Error, Exit};
use tfc_audit::run::{self, Report};
use tfc_audit::text::one_line;

fn main() -> ExitCode {
    match run() {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            // Events that are missing were named when they were missed, before anything else could
            // happen to the run.
            if !matches!(error, Error::Incomplete(_)) {
                say(&error.to_string());
            }
            error.exit().into()
        }
    }
}

fn run() -> Result<(), Error> {
    let clock = SystemClock::start();
    let arguments = std::env::args_os().skip(1).map(|argument| {
        argument
            .into_string()
            .map_err(|_| Error::Usage("an argument is not UTF-8".to_owned()))
    });
    let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
    let args = match cli::parse(arguments).map_err(Error::Usage)? {
        Command::Run(args) => args,
        Command::Print(text) => {
            return std::io::stdout()
                .write_all(text.as_bytes())
                .map_err(|error| match error.kind() {
                    ErrorKind::BrokenPipe => Error::StdoutClosed,
                    _ => Error::Stdout(error),
                });
        }
    };
    let config =
        Config::new(&args, &Environment::of_process(), clock.now()).map_err(Error::Usage)?;
    let mut report = Report::default();
    let result = run::run(&config, &clock, &mut report, &mut |warning| {
        say(&format!("warning: {warning}"));
    });
    if config.verbose {
        say(&summary(&report, &clock));
    }
    result
}

/// What a run did, in a line.
fn summary(report: &Report, clock: &SystemClock) -> String {
    format!(
        "events delivered: {}, dead letters among them: {}; pages read: {}; tried again: {} pages, {} deliveries; {:.1} s, {:.1} s of it reading",
        report.delivered,
        report.delivery.dead_letters,
        report.walk.pages,
        report.walk.retries,
        report.delivery.retries,
        clock.elapsed().as_secs_f64(),
        report.walk.reading.as_secs_f64(),
    )
}

/// Writes a line to standard error. If even that is not possible, the exit code has to do.
fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "tfc-audit: {}", one_line(message));
}
