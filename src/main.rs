//! The command: what was typed, what was meant, one run, and how it ended.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use tfc_audit::check::check;
use tfc_audit::cli::{self, Args, Command};
use tfc_audit::clock::{Clock, SystemClock};
use tfc_audit::config::Config;
use tfc_audit::delivery::stdout;
use tfc_audit::error::{Error, Exit};
use tfc_audit::report::progress::Progress;
use tfc_audit::report::summary::summary;
use tfc_audit::report::{Ending, Report, metrics};
use tfc_audit::run;
use tfc_audit::signals;

/// Runs the command. The demonstration contains it, and calls it, too.
pub(crate) fn main() -> ExitCode {
    let clock = SystemClock::start();
    let command = arguments().and_then(|words| cli::parse(words).map_err(Error::Usage));
    let has_program = matches!(&command, Ok(Command::Run(args)) if args.exec.is_some());
    // By default a signal leaves the program behind, and cannot end process 1 of a container.
    if has_program || std::process::id() == 1 {
        signals::listen(clock);
    }
    let exit = match command {
        Ok(Command::Run(args)) if args.check => {
            ended(check(configure(&args, &clock), &clock), false)
        }
        Ok(Command::Run(args)) => deliver(&args, clock),
        Ok(Command::Print(text)) => ended(print(text).map(|()| Exit::Success), false),
        Err(error) => ended(Err(error), false),
    };
    ExitCode::from(exit as u8)
}

fn arguments() -> Result<Vec<String>, Error> {
    let words = std::env::args_os().skip(1).map(OsString::into_string);
    let words: Result<_, _> = words.collect();
    words.map_err(|_| Error::Usage("an argument is not UTF-8".to_owned()))
}

fn configure(args: &Args, clock: &SystemClock) -> Result<Config, Error> {
    Config::new(args, &|name| std::env::var_os(name), clock.now()).map_err(Error::Usage)
}

/// A run, and what it leaves behind for those who look after it.
fn deliver(args: &Args, clock: SystemClock) -> Exit {
    let mut report = Report::default();
    let mut progress = Progress::default();
    let result = configure(args, &clock).and_then(|config| {
        progress = Progress::new(&config);
        let mut warn = |warning: &str| progress.say(&format!("warning: {warning}"));
        let watch = |report: &Report| progress.watch(report, clock.elapsed());
        run::run(&config, &clock, &mut report, &watch, &mut warn)
    });
    progress.end();
    let exit = ended(result, !args.no_checkpoint && !args.dry_run);
    let ending = Ending {
        exit,
        at: clock.now(),
        took: clock.elapsed(),
    };
    if args.verbose
        && let Some(summary) = summary(&report, args.dry_run, &ending)
    {
        progress.say(&summary);
    }
    if args.dry_run && !args.no_checkpoint && exit == Exit::Success && report.delivered == 0 {
        progress.say("there is nothing to deliver: what is listed counts as delivered by the checkpoint (--no-checkpoint shows it)");
    }
    if let Some(path) = &args.metrics
        && !args.dry_run
        && let Err(fault) = metrics::write(path, &report, &ending)
    {
        progress.say(&format!("warning: {fault}"));
    }
    exit
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = stdout::open()?;
    out.write_all(text.as_bytes()).map_err(Error::Stdout)
}

/// Says what went wrong, if anything did, and what the next run does about it if it `continues` this
/// one.
fn ended(result: Result<Exit, Error>, continues: bool) -> Exit {
    result.unwrap_or_else(|error| {
        let next = error.next_run().filter(|_| continues);
        let next = next.map_or_else(String::new, |next| format!("; the next run {next}"));
        Progress::default().say(&format!("{error}{next}"));
        error.exit()
    })
}
