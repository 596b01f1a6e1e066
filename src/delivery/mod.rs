//! Delivery: where events go, what proves that they arrived, and what becomes of those that are
//! refused.
//!
//! What holds, and why:
//!
//! - **In order.** One request at a time; a batch that has to be divided is sent from its older end.
//! - **Nothing is committed that was not acknowledged.** Only [`Delivery`] makes an
//!   [`Acknowledged`], from what a target has accepted or what lies, synced, in the file of dead
//!   letters.
//! - **No backlog becomes dead letters.** Only what a receiver refuses for what it holds can, alone
//!   in its request, and only after the receiver has accepted some event in this run.

pub mod exec;
pub mod lines;
pub mod post;
pub mod stdout;

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::delivery::lines::LineFile;
use crate::error::Error;
use crate::event::Event;
use crate::format::{Fate, Limits, Verdict};
use crate::fs;
use crate::retry::{Failure, GaveUp, Patience, retry};
use crate::text::excerpt;

/// Somewhere to deliver to.
pub trait Target {
    /// Makes a body of as many of the first events as the limits allow, at least one, and says of
    /// how many. Standard output needs none and takes all.
    fn encode(&self, events: &[Event], limits: Limits) -> (Vec<u8>, usize) {
        let _ = limits;
        (Vec::new(), events.len())
    }

    /// Whether a body holds one event only, so that committing after each would cost more than
    /// delivering.
    fn is_one_by_one(&self) -> bool {
        false
    }

    /// How many bytes the last [`Target::send`] handed over: those of the body, unless the target
    /// makes none of it.
    fn sent(&self, body: &[u8]) -> u64 {
        body.len() as u64
    }

    /// Hands over these events with the body made of them, once, within `timeout`, and says what
    /// became of them.
    ///
    /// # Errors
    /// If the run has to end at once.
    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error>;
}

/// The proof that events need not be delivered again: a target has accepted them, or they lie among
/// the dead letters. Only with one can they be put into the checkpoint.
#[derive(Debug)]
pub struct Acknowledged<'a> {
    events: &'a [Event],
}

impl<'a> Acknowledged<'a> {
    /// For tests of what takes a proof.
    #[cfg(test)]
    pub(crate) fn of_test(events: &'a [Event]) -> Self {
        Self { events }
    }

    /// What was delivered, in this order.
    #[must_use]
    pub fn events(&self) -> &'a [Event] {
        self.events
    }
}

/// Takes a proof and what is still to come of the same stride, and commits.
pub type Commit<'c> = &'c mut dyn FnMut(Acknowledged, &[Event]) -> Result<(), Error>;

/// What delivery has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Requests, each try counted, or runs of a program, or writes.
    pub requests: u64,
    /// Requests that were tried again.
    pub retries: u64,
    /// Bytes that were handed over, before compression, those of each try counted.
    pub bytes: u64,
    /// Events that went to the file of dead letters.
    pub dead_letters: u64,
}

/// Where single events go that the receiver refuses for good.
#[derive(Debug)]
pub struct DeadLetters {
    path: PathBuf,
    lines: LineFile,
}

impl DeadLetters {
    /// Opens the file for appending, or makes it, for its owner only.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn open(path: PathBuf, clock: SystemClock) -> Result<Self, Error> {
        let is_new = !path.exists();
        let file = fs::open_or_create(&path);
        let lines = file.and_then(|file| {
            // A new file is not certain to be there after a power cut before this.
            if is_new {
                fs::sync_directory(&path)?;
            }
            LineFile::new(file, path.clone(), clock)
        });
        let lines = lines.map_err(|error| {
            Error::Usage(format!(
                "--dead-letter: cannot open {}: {error}",
                path.display()
            ))
        })?;
        Ok(Self { path, lines })
    }
}

/// Delivers events to a target.
pub struct Delivery<'a> {
    target: &'a mut dyn Target,
    clock: &'a dyn Clock,
    patience: Patience,
    limits: Limits,
    dead_letters: Option<DeadLetters>,
    /// Whether the receiver has accepted anything in this run.
    has_accepted: bool,
    /// The size of the largest body that was accepted, and of the smallest that was too large.
    largest_accepted: usize,
    smallest_refused: Option<usize>,
    figures: Figures,
}

/// How far a stride has got, and who is told.
struct Ledger<'a> {
    events: &'a [Event],
    /// This many are committed.
    committed: usize,
    /// This many are accepted or refused.
    settled: usize,
    /// The refused ones among those not yet committed, and why.
    refused: Vec<(usize, String)>,
    commit: Commit<'a>,
    warn: &'a mut dyn FnMut(&str),
}

/// What became of a request after all its tries.
enum Outcome {
    /// Of each event; with the error that is to end the run, if some are worth another try still.
    Fates(Vec<Fate>, Option<Error>),
    TooLarge(String),
    RefusedEvents(String),
}

/// Events were refused for what they hold, and there is no place for them.
fn refused_events(why: &str) -> Error {
    Error::EventsRefused(format!(
        "{why}; if only single events are at fault, --dead-letter FILE puts those aside"
    ))
}

impl<'a> Delivery<'a> {
    /// Prepares delivery; nothing is sent yet.
    pub fn new(
        target: &'a mut dyn Target,
        clock: &'a dyn Clock,
        patience: Patience,
        limits: Limits,
        dead_letters: Option<DeadLetters>,
    ) -> Self {
        Self {
            target,
            clock,
            patience,
            limits,
            dead_letters,
            has_accepted: false,
            largest_accepted: 0,
            smallest_refused: None,
            figures: Figures::default(),
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Delivers events in their order, committing after each acknowledged request (where a request
    /// holds one event only: after each full batch of them).
    ///
    /// # Errors
    /// How it ended, if not all could be delivered. What was acknowledged until then is committed.
    pub fn deliver(
        &mut self,
        events: &[Event],
        commit: Commit,
        warn: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let mut ledger = Ledger {
            events,
            committed: 0,
            settled: 0,
            refused: Vec::new(),
            commit,
            warn,
        };
        let delivered = self.drain(&mut ledger);
        if let Err(Error::NotCommitted { .. } | Error::DeadLetter(_)) = delivered {
            return delivered;
        }
        let committed = self.commit(&mut ledger);
        // A commit that failed is the worse of the two: the next run repeats events.
        committed.and(delivered)
    }

    fn drain(&mut self, ledger: &mut Ledger) -> Result<(), Error> {
        while ledger.settled < ledger.events.len() {
            let limits = Limits {
                bytes: self.most_bytes(),
                ..self.limits
            };
            let (body, count) = self.target.encode(&ledger.events[ledger.settled..], limits);
            self.settle(ledger, body, count)?;
            let is_full = ledger.settled - ledger.committed >= self.limits.events
                || ledger.settled == ledger.events.len();
            if self.target.is_one_by_one() && !is_full {
                continue;
            }
            self.commit(ledger)?;
            if !self.has_accepted {
                let why = ledger.refused.first().map_or("", |(_, why)| why);
                return Err(Error::EventsRefused(format!(
                    "the receiver refuses every event, so that the fault is not theirs: {why}"
                )));
            }
        }
        Ok(())
    }

    /// Settles the next `count` events, dividing them as far as necessary.
    fn settle(&mut self, ledger: &mut Ledger, body: Vec<u8>, count: usize) -> Result<(), Error> {
        // The parts that are still to be sent, the oldest on top.
        let mut parts = vec![(count, Some(body))];
        while let Some((count, body)) = parts.pop() {
            let events = &ledger.events[ledger.settled..ledger.settled + count];
            let body = body.unwrap_or_else(|| self.target.encode(events, Limits::NONE).0);
            let size = body.len();
            let halves = [(count - count / 2, None), (count / 2, None)];
            if count > 1 && self.is_too_large(size) {
                parts.extend(halves);
                continue;
            }
            match self.request(events, body) {
                Outcome::TooLarge(why) => {
                    let smallest = self.smallest_refused.unwrap_or(size);
                    self.smallest_refused = Some(smallest.min(size));
                    if count > 1 {
                        parts.extend(halves);
                    } else {
                        self.refuse(ledger, why)?;
                    }
                }
                Outcome::RefusedEvents(why) if self.dead_letters.is_none() => {
                    return Err(refused_events(&why));
                }
                Outcome::RefusedEvents(_) if count > 1 => parts.extend(halves),
                Outcome::RefusedEvents(why) => self.refuse(ledger, why)?,
                Outcome::Fates(fates, error) => {
                    for fate in fates {
                        match fate {
                            Fate::Accepted => {
                                self.has_accepted = true;
                                ledger.settled += 1;
                            }
                            Fate::RefusedEvent(why) => self.refuse(ledger, why)?,
                            Fate::Refused(why) => return Err(Error::EventsRefused(why)),
                            Fate::Retry(why) => return Err(error.unwrap_or(Error::Receiver(why))),
                        }
                    }
                    self.largest_accepted = self.largest_accepted.max(size);
                    if !self.target.is_one_by_one() {
                        self.commit(ledger)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends a batch until there is nothing more to be gained: what is worth another try is sent
    /// again alone.
    fn request(&mut self, events: &[Event], mut body: Vec<u8>) -> Outcome {
        let mut fates: Vec<Fate> = events.iter().map(|_| Fate::Retry(String::new())).collect();
        // The places of the events that are to be sent, and these events once they are not all.
        let mut places: Vec<usize> = (0..events.len()).collect();
        let mut subset: Option<Vec<Event>> = None;
        let mut refused = None;
        let target = &mut *self.target;
        let result = retry(
            self.clock,
            &self.patience,
            &mut self.figures.retries,
            |timeout| {
                let sent = subset.as_deref().unwrap_or(events);
                let result = target.send(sent, &body, timeout);
                self.figures.requests += 1;
                self.figures.bytes += target.sent(&body);
                match result.map_err(Failure::permanent)? {
                    Verdict::Accepted => places
                        .iter()
                        .for_each(|&place| fates[place] = Fate::Accepted),
                    Verdict::Each(verdicts) => {
                        places
                            .iter()
                            .zip(verdicts)
                            .for_each(|(&place, fate)| fates[place] = fate);
                        places.retain(|&place| matches!(fates[place], Fate::Retry(_)));
                        if let Some(Fate::Retry(why)) = places.first().map(|&place| &fates[place]) {
                            let again: Vec<Event> =
                                places.iter().map(|&place| events[place].clone()).collect();
                            body = target.encode(&again, Limits::NONE).0;
                            subset = Some(again);
                            return Err(Failure::temporary(Error::Receiver(why.clone())));
                        }
                    }
                    Verdict::Failed {
                        message,
                        retryable,
                        wait,
                    } => {
                        return Err(Failure {
                            error: Error::Receiver(message),
                            retryable,
                            wait,
                        });
                    }
                    Verdict::Refused(why) => {
                        return Err(Failure::permanent(Error::EventsRefused(why)));
                    }
                    // Of what is left of a divided batch, this says nothing about its events.
                    Verdict::TooLarge(why) | Verdict::RefusedEvents(why) if subset.is_some() => {
                        return Err(Failure::permanent(Error::Receiver(why)));
                    }
                    Verdict::TooLarge(why) => refused = Some(Outcome::TooLarge(why)),
                    Verdict::RefusedEvents(why) => refused = Some(Outcome::RefusedEvents(why)),
                }
                Ok(())
            },
        );
        let error = match result {
            Ok(()) => None,
            Err(GaveUp::OutOfTime) => Some(Error::OutOfTime),
            Err(GaveUp::Failed {
                error: Error::Receiver(message),
                why,
            }) => Some(Error::Receiver(message + &why)),
            Err(GaveUp::Failed { error, .. }) => Some(error),
        };
        refused.unwrap_or(Outcome::Fates(fates, error))
    }

    /// Notes that the next event was refused for good.
    fn refuse(&mut self, ledger: &mut Ledger, why: String) -> Result<(), Error> {
        if self.dead_letters.is_none() {
            return Err(refused_events(&why));
        }
        ledger.refused.push((ledger.settled, why));
        ledger.settled += 1;
        Ok(())
    }

    /// Commits what is settled, dead letters first. As long as the receiver has accepted nothing,
    /// refusals are not believed, and nothing is committed.
    fn commit(&mut self, ledger: &mut Ledger) -> Result<(), Error> {
        if !self.has_accepted || ledger.settled == ledger.committed {
            return Ok(());
        }
        if let Some(dead_letters) = self
            .dead_letters
            .as_mut()
            .filter(|_| !ledger.refused.is_empty())
        {
            let path = dead_letters.path.display().to_string();
            let events = ledger
                .refused
                .iter()
                .map(|&(place, _)| &ledger.events[place]);
            dead_letters
                .lines
                .append(events, false)
                .map_err(|error| Error::DeadLetter(format!("{path}: {error}")))?;
            for (place, why) in ledger.refused.drain(..) {
                self.figures.dead_letters += 1;
                let id = ledger.events[place].id.to_string();
                (ledger.warn)(&format!(
                    "the event {} was refused and is now in {path}: {why}",
                    excerpt(id.as_bytes())
                ));
            }
        }
        let events = &ledger.events[ledger.committed..ledger.settled];
        (ledger.commit)(Acknowledged { events }, &ledger.events[ledger.settled..])?;
        ledger.committed = ledger.settled;
        Ok(())
    }

    /// Whether a body of this size was refused before, unless that contradicts what was accepted:
    /// then its size was not the reason.
    fn is_too_large(&self, size: usize) -> bool {
        self.smallest_refused
            .is_some_and(|refused| size >= refused && refused > self.largest_accepted)
    }

    /// How large the next batch may be: between the largest body that was accepted and the smallest
    /// that was not, closing in on the limit until the difference is not worth a refusal.
    fn most_bytes(&self) -> usize {
        let accepted = self.largest_accepted;
        let most = match self.smallest_refused {
            None => self.limits.bytes,
            Some(refused) if refused > accepted && refused - accepted > refused / 8 => {
                accepted + (refused - accepted) / 2
            }
            Some(_) => accepted,
        };
        most.min(self.limits.bytes)
    }
}
