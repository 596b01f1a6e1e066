//! Delivery to any program: each batch to the standard input of a shell command.

use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::delivery::Target;
use crate::error::Error;
use crate::event::Event;
use crate::format::{Encoder, Format, Limits, Verdict};
use crate::time;

/// A shell command, as a target.
pub struct Exec {
    command: String,
    encoder: Encoder,
    /// Whether the time for a run is limited.
    has_deadline: bool,
}

impl Exec {
    /// Prepares a command; nothing is started yet. Only a run with a deadline limits the time that
    /// the command may take.
    #[must_use]
    pub fn new(command: String, normalize: bool, has_deadline: bool) -> Self {
        Self {
            command,
            encoder: Encoder::new(Format::Ndjson, normalize, &[]),
            has_deadline,
        }
    }
}

impl Target for Exec {
    fn encode(&self, events: &[Event], limits: Limits) -> (Vec<u8>, usize) {
        self.encoder.encode(events, limits)
    }

    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error> {
        let time = |event: Option<&Event>| {
            event
                .map(|event| time::format(event.time))
                .unwrap_or_default()
        };
        let child = Command::new("sh")
            .args(["-c", &self.command])
            .env_remove("TFC_ORG_TOKEN")
            .env("TFC_AUDIT_BATCH_ID", batch_id(events))
            .env("TFC_AUDIT_COUNT", events.len().to_string())
            .env("TFC_AUDIT_FIRST_TIMESTAMP", time(events.first()))
            .env("TFC_AUDIT_LAST_TIMESTAMP", time(events.last()))
            .stdin(Stdio::piped())
            .spawn();
        let fault = |message: String| Verdict::Failed {
            message: format!("--exec: {message}"),
            retryable: false,
            wait: None,
        };
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return Ok(fault(format!("cannot start sh: {error}"))),
        };
        // From a thread of its own, for a command that does not read must not keep us from seeing
        // that it ended, or that the time is over. One that ends without reading everything has
        // said by its exit code what that means.
        if let Some(mut stdin) = child.stdin.take() {
            let body = body.to_vec();
            let writer = thread::Builder::new().spawn(move || stdin.write_all(&body));
            if let Err(error) = writer {
                let _ = child.kill().and_then(|()| child.wait()); // it may just have ended
                return Ok(fault(format!("cannot start a thread: {error}")));
            }
        }
        match wait(&mut child, self.has_deadline.then_some(timeout)) {
            Ok(Some(status)) if status.success() => Ok(Verdict::Accepted),
            Ok(Some(status)) => Ok(fault(format!("the command ended with {status}"))),
            Ok(None) => Err(Error::OutOfTime),
            Err(error) => Ok(fault(format!("cannot wait for the command: {error}"))),
        }
    }
}

/// Waits for a child, and ends one that takes too long; `None` if it was ended.
fn wait(child: &mut Child, timeout: Option<Duration>) -> std::io::Result<Option<ExitStatus>> {
    let Some(timeout) = timeout else {
        return child.wait().map(Some);
    };
    let clock = SystemClock::start();
    while clock.elapsed() < timeout {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        clock.sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// A name for exactly these events: the first one's time, so that names sort, and a hash of their
/// IDs (FNV-1a with 128 bits, which stays the same from version to version).
fn batch_id(events: &[Event]) -> String {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash = OFFSET_BASIS;
    for event in events {
        for byte in event.id.to_string().bytes().chain([b'\n']) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }
    let first = events
        .first()
        .map(|event| time::format(time::floor_second(event.time)))
        .unwrap_or_default();
    let time: String = first
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    format!("{time}Z-{hash:032x}")
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
        // Objects are named by it: it has to stay what it is.
        assert_eq!(name, "20260102T030405Z-697155c3c6757277b806e97707114c16");
        assert_ne!(name, batch_id(&[event("ab")]));
        assert_ne!(name, batch_id(&[event("b"), event("a")]));
    }
}
