//! How a run ends: one enum of errors by phase, and the exit code of each.
//!
//! Each message is for the person who gets it from cron: what failed, where, and what to do.

use std::fmt;
use std::io::{self, ErrorKind::BrokenPipe};
use std::path::PathBuf;

/// The exit codes, as the man page lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All delivered, also when there was nothing new.
    Success = 0,
    /// Anything not listed.
    Failure = 1,
    /// The command line or the configuration is wrong; nothing was done.
    Usage = 2,
    /// `--max-time` was reached; more remains.
    OutOfTime = 3,
    /// The service refused the token, or the organization has no audit trails.
    TokenRefused = 4,
    /// The service failed, after the retries, or broke its contract.
    SourceFailed = 5,
    /// The receiver failed, after the retries.
    ReceiverFailed = 6,
    /// The receiver refused events for good.
    EventsRefused = 7,
    /// The checkpoint cannot be trusted or cannot be written.
    CheckpointUnusable = 8,
    /// Another run holds the lock (`EX_TEMPFAIL` of sysexits.h).
    Locked = 75,
    /// The reader of standard output closed it (128 + SIGPIPE, as a shell reports it).
    StdoutClosed = 141,
}

/// Why a run failed, in the order in which it can happen.
#[derive(Debug)]
pub enum Error {
    /// The command line, the environment or the token file.
    Usage(String),
    /// Another run holds this lock.
    Locked(PathBuf),
    /// The checkpoint cannot be trusted or cannot be written; nothing was delivered.
    Checkpoint(String),
    /// The service refused the token, or lists nothing where it must list something.
    TokenRefused(String),
    /// The service failed, or its answer is not as documented.
    Source(String),
    /// `--max-time` was reached.
    OutOfTime,
    /// `--max-time` was reached while the run waited for this.
    Stuck(String),
    /// What is new was delivered, but the overlap was not read again.
    NotLookedBack,
    /// The receiver failed, after the retries.
    Receiver(String),
    /// The receiver refused events for good.
    EventsRefused(String),
    /// A refused event could not be written to the file of dead letters.
    DeadLetter(String),
    /// Standard output could not be written, or its reader closed it.
    Stdout(io::Error),
    /// Events were delivered, but the checkpoint could not be written.
    NotCommitted {
        /// How many events the next run repeats.
        events: usize,
        /// Why, and where.
        fault: String,
    },
}

impl Error {
    /// The exit code of a run that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Locked(_) => Exit::Locked,
            Self::Checkpoint(_) | Self::NotCommitted { .. } => Exit::CheckpointUnusable,
            Self::TokenRefused(_) => Exit::TokenRefused,
            Self::Source(_) => Exit::SourceFailed,
            Self::OutOfTime | Self::Stuck(_) | Self::NotLookedBack => Exit::OutOfTime,
            Self::Stdout(error) if error.kind() == BrokenPipe => Exit::StdoutClosed,
            Self::Receiver(_) => Exit::ReceiverFailed,
            Self::EventsRefused(_) => Exit::EventsRefused,
            Self::Stdout(_) | Self::DeadLetter(_) => Exit::Failure,
        }
    }

    /// What the next run does about it, if it has this run's checkpoint.
    pub fn next_run(&self) -> Option<&'static str> {
        Some(match self {
            Self::Receiver(_) | Self::OutOfTime | Self::Stuck(_) => "continues from here",
            Self::EventsRefused(_) => "stops here until the receiver or the options change",
            Self::DeadLetter(_) => "sends them again",
            Self::Stdout(_) => "delivers the events that were not written",
            Self::NotLookedBack => "does",
            Self::NotCommitted { events: 0, .. } => "looks back further",
            Self::NotCommitted { .. } => "repeats them",
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message)
            | Self::Checkpoint(message)
            | Self::TokenRefused(message)
            | Self::Source(message)
            | Self::Receiver(message)
            | Self::EventsRefused(message) => f.write_str(message),
            Self::DeadLetter(message) => write!(f, "cannot write refused events to {message}"),
            Self::Locked(path) => write!(
                f,
                "another run holds the lock {}; nothing was done (--lock-wait SPAN waits for it)",
                path.display()
            ),
            Self::OutOfTime => f.write_str("--max-time was reached and more remains"),
            Self::Stuck(what) => write!(f, "--max-time was reached while waiting for {what}"),
            Self::NotLookedBack => f.write_str("new events were delivered, but --max-time was too short for the last run to look back by --overlap"),
            Self::Stdout(error) if error.kind() == BrokenPipe => {
                f.write_str("the reader of standard output closed it")
            }
            Self::Stdout(error) => write!(f, "cannot write to standard output: {error}"),
            Self::NotCommitted { events: 0, fault } => {
                write!(f, "no event is lost or comes again, but {fault}")
            }
            Self::NotCommitted { events, fault } => {
                write!(f, "{events} events were delivered, but {fault}")
            }
        }
    }
}

// Each message includes its cause, which is no `source` therefore.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_line_with_its_exit_code() {
        let text = String::new;
        let cases = [
            (Error::Usage(text()), 2),
            (Error::Locked("x.lock".into()), 75),
            (Error::Checkpoint(text()), 8),
            (Error::TokenRefused(text()), 4),
            (Error::Source(text()), 5),
            (Error::OutOfTime, 3),
            (Error::Stuck(text()), 3),
            (Error::NotLookedBack, 3),
            (Error::Receiver(text()), 6),
            (Error::EventsRefused(text()), 7),
            (Error::DeadLetter(text()), 1),
            (Error::Stdout(BrokenPipe.into()), 141),
            (Error::Stdout(io::Error::other("full")), 1),
            (
                Error::NotCommitted {
                    events: 3,
                    fault: text(),
                },
                8,
            ),
        ];
        for (error, code) in cases {
            assert_eq!(error.exit() as u8, code, "{error:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
