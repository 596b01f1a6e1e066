//! Delivery to a program: each batch goes to the standard input of a shell command. How the time limit
//! and signals such as SIGTERM end it is in `signals.rs`.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

use crate::clock::{SystemClock, random};
use crate::delivery::Target;
use crate::error::Error;
use crate::event::Event;
use crate::format::verdict::{Rest, Verdict};
use crate::fs::PRIVATE;
use crate::signals;
use crate::text::fnv1a;
use crate::time;

/// A shell command as a receiver.
pub struct Exec<'a> {
    /// The command.
    pub command: &'a str,
    /// The clock.
    pub clock: SystemClock,
}

impl Target for Exec<'_> {
    /// The exit code 0 acknowledges, whatever the command has read. Only `--max-time` limits the
    /// time of a command: without it, `timeout` is [`Duration::MAX`].
    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error> {
        let failed = |fault| Ok(Verdict::new(Rest::Failed, fault));
        let file = match unnamed(body) {
            Ok(file) => file,
            Err(error) => return failed(no_batch(&error)),
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", self.command])
            .env_remove("TFC_ORG_TOKEN")
            .envs([
                ("TFC_AUDIT_BATCH_ID", batch_id(events)),
                ("TFC_AUDIT_COUNT", events.len().to_string()),
                ("TFC_AUDIT_FIRST_TIMESTAMP", time_of(events.first())),
                ("TFC_AUDIT_LAST_TIMESTAMP", time_of(events.last())),
            ])
            .stdin(file);
        match signals::run(&mut command, timeout, self.clock) {
            Ok(Some(status)) if status.success() => Ok(Verdict::accepted()),
            Ok(Some(status)) => failed(format!("--exec: the command ended with {status}")),
            Ok(None) => Err(Error::Stuck("the command of --exec".to_owned())),
            Err(error) => failed(format!("--exec: cannot run sh: {error}")),
        }
    }
}

/// The message where a batch cannot be written to a file.
pub fn no_batch(error: &io::Error) -> String {
    format!(
        "--exec: cannot write the batch to a file in {}: {error}; set TMPDIR to a directory that this user can write and that has space",
        env::temp_dir().display()
    )
}

/// The batch as an open file without a name. A program that outlives the run still reads all of it,
/// while the end of a pipe would look like the end of the batch.
///
/// # Errors
/// The system's error.
pub fn unnamed(body: &[u8]) -> io::Result<File> {
    let path = env::temp_dir().join(format!("tfc-audit.{:x}", random()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let mut file = options.mode(PRIVATE).open(&path)?;
    fs::remove_file(&path)?;
    file.write_all(body)?;
    file.rewind()?;
    Ok(file)
}

/// An event's time as the service writes it; empty if there is no event.
fn time_of(event: Option<&Event>) -> String {
    event.map_or_else(String::new, |event| time::format(event.time))
}

/// A name for exactly these events: the time of the first one, so that names sort, and a hash of
/// all IDs, which is the same in every version.
fn batch_id(events: &[Event]) -> String {
    let ids = events.iter().flat_map(|event| {
        let id = event.id.to_string().into_bytes();
        id.into_iter().chain([b'\n'])
    });
    let hash = fnv1a(ids);
    let first = time_of(events.first()).replace(['-', ':'], "");
    let (seconds, _) = first.split_once('.').unwrap_or_default();
    format!("{seconds}Z-{hash:032x}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::EventId;

    #[test]
    fn a_batch_id_names_its_events() {
        let time = time::parse("2026-01-02T03:04:05.678Z").unwrap();
        let event = |id: &str| Event::new(&Arc::new("{}".into()), 0..2, EventId::new(id), time);
        let name = batch_id(&[event("a"), event("b")]);
        // Programs name objects by it, so no version may change it.
        assert_eq!(name, "20260102T030405Z-697155c3c6757277b806e97707114c16");
        assert_ne!(name, batch_id(&[event("ab")]));
        assert_ne!(name, batch_id(&[event("b"), event("a")]));
    }
}
