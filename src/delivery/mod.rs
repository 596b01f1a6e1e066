//! Delivery: sends events to the receiver, and commits those that it acknowledges.
//!
//! - **In order.** One request at a time. A batch that has to be split is sent from its older end.
//! - **Nothing is committed that was not acknowledged.** Only [`Delivery`] makes an
//!   [`Acknowledged`]: of events that the receiver accepted, or that are synced as dead letters.
//! - **No backlog becomes dead letters.** A dead letter was refused for what it holds, alone in its
//!   request, by a receiver that has accepted another event in this run.

pub mod dead_letters;
pub mod exec;
pub mod lines;
pub mod post;
pub mod split;
pub mod stdout;

use std::borrow::Cow;
use std::iter;
use std::time::Duration;

use crate::clock::Clock;
use crate::delivery::dead_letters::DeadLetters;
use crate::delivery::split::{Sizes, halves};
use crate::error::Error;
use crate::event::Event;
use crate::format::{Fate, Limits, Verdict};
use crate::retry::{Failure, GaveUp, Patience, retry};
use crate::text::excerpt;

/// A way to hand events to a receiver.
pub trait Target {
    /// Makes a body of as many of the first events as the limits allow, but at least one. Returns
    /// the body and the number of events in it. Standard output takes all events, without a body.
    fn encode(&self, events: &[Event], limits: Limits) -> (Vec<u8>, usize) {
        let _ = limits;
        (Vec::new(), events.len())
    }

    /// Whether a body holds one event only. A commit after each one would cost more than delivery.
    fn is_one_by_one(&self) -> bool {
        false
    }

    /// The number of bytes that the last [`Target::send`] handed over.
    fn sent(&self, body: &[u8]) -> u64 {
        body.len() as u64
    }

    /// Hands over these events, with the body made of them, once and within `timeout`. Returns the
    /// receiver's verdict.
    ///
    /// # Errors
    /// If the run has to end at once.
    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error>;
}

/// The proof that events need not be delivered again. A commit requires it.
#[derive(Debug)]
pub struct Acknowledged<'a> {
    events: &'a [Event],
}

impl<'a> Acknowledged<'a> {
    /// The events, in the order of their delivery.
    #[must_use]
    pub fn events(&self) -> &'a [Event] {
        self.events
    }
}

/// Commits the acknowledged events. The second argument is the window's events behind them.
pub type Commit<'c> = &'c mut dyn FnMut(Acknowledged, &[Event]) -> Result<(), Error>;

/// The numbers of a run's delivery.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Requests, runs of a program, or writes; each try counts.
    pub requests: u64,
    /// Requests that were retried.
    pub retries: u64,
    /// Bytes handed over, before compression; each try counts.
    pub bytes: u64,
    /// Events in the file of dead letters.
    pub dead_letters: u64,
}

/// Delivers events to a receiver.
pub struct Delivery<'a> {
    target: &'a mut dyn Target,
    clock: &'a dyn Clock,
    patience: Patience,
    limits: Limits,
    dead_letters: Option<DeadLetters>,
    /// The receiver has accepted an event in this run.
    has_accepted: bool,
    sizes: Sizes,
    figures: Figures,
}

/// How far the delivery of some events has got, and who is told.
struct Ledger<'a> {
    events: &'a [Event],
    /// The number of events that are committed.
    committed: usize,
    /// The number of events that are accepted or refused.
    settled: usize,
    /// The places of refused events that are not committed, and the reasons.
    refused: Vec<(usize, String)>,
    commit: Commit<'a>,
    warn: &'a mut dyn FnMut(&str),
}

/// The outcome of a request after all retries.
enum Outcome {
    /// The fate of each event, and the error of the last try if a fate is open.
    Fates(Vec<Fate>, Option<Error>),
    TooLarge(String),
    RefusedEvents(String),
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
            sizes: Sizes::default(),
            figures: Figures::default(),
        }
    }

    /// The numbers so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Delivers events in their order. Commits after each acknowledged request; if requests hold
    /// one event each, after each full batch of them.
    ///
    /// # Errors
    /// If some events could not be delivered. The events acknowledged before are committed.
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
        let sent = self.send_all(&mut ledger);
        if let Err(Error::NotCommitted { .. } | Error::DeadLetter(_)) = sent {
            return sent;
        }
        let committed = self.commit(&mut ledger);
        // A failed commit is the worse of two errors: the next run repeats events.
        committed.and(sent)
    }

    /// Sends batch after batch.
    fn send_all(&mut self, ledger: &mut Ledger) -> Result<(), Error> {
        while ledger.settled < ledger.events.len() {
            let limits = Limits {
                bytes: self.sizes.most_bytes(self.limits.bytes),
                ..self.limits
            };
            let (body, count) = self.target.encode(&ledger.events[ledger.settled..], limits);
            self.send_batch(ledger, body, count)?;
            let is_full = ledger.settled - ledger.committed >= self.limits.events
                || ledger.settled == ledger.events.len();
            if self.target.is_one_by_one() && !is_full {
                continue;
            }
            self.commit(ledger)?;
            if !self.has_accepted {
                let why = ledger.refused.first().map_or("", |(_, why)| why);
                return Err(Error::EventsRefused(format!(
                    "the receiver refuses every event, so the events are not at fault: {why}"
                )));
            }
        }
        Ok(())
    }

    /// Sends the next `count` events, in as many parts as the receiver requires.
    fn send_batch(
        &mut self,
        ledger: &mut Ledger,
        body: Vec<u8>,
        count: usize,
    ) -> Result<(), Error> {
        // The parts that are still to be sent, the oldest one on top.
        let mut parts = vec![count];
        let mut whole = Some(body);
        while let Some(count) = parts.pop() {
            let events = &ledger.events[ledger.settled..ledger.settled + count];
            let encode = || self.target.encode(events, Limits::NONE).0;
            let body = whole.take().unwrap_or_else(encode);
            let size = body.len();
            if count > 1 && self.sizes.is_too_large(size) {
                parts.extend(halves(count));
                continue;
            }
            match self.request(events, body) {
                Outcome::TooLarge(why) => {
                    self.sizes.refuse(size);
                    if count > 1 {
                        parts.extend(halves(count));
                    } else {
                        self.refuse(ledger, why)?;
                    }
                }
                Outcome::RefusedEvents(_) if count > 1 && self.dead_letters.is_some() => {
                    parts.extend(halves(count));
                }
                Outcome::RefusedEvents(why) => self.refuse(ledger, why)?,
                Outcome::Fates(fates, error) => {
                    self.settle(ledger, fates, error)?;
                    self.sizes.accept(size);
                    if !self.target.is_one_by_one() {
                        self.commit(ledger)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Settles the next events, up to the first one that was not delivered.
    fn settle(
        &mut self,
        ledger: &mut Ledger,
        fates: Vec<Fate>,
        error: Option<Error>,
    ) -> Result<(), Error> {
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
        Ok(())
    }

    /// Sends a part, and retries the events for which a retry may succeed.
    fn request(&mut self, events: &[Event], mut body: Vec<u8>) -> Outcome {
        let mut fates: Vec<_> = events.iter().map(|_| Fate::Retry(String::new())).collect();
        // The events whose fate is open.
        let mut open = Cow::Borrowed(events);
        let retries = &mut self.figures.retries;
        let result = retry(self.clock, &self.patience, retries, |timeout| {
            let verdict = self.target.send(&open, &body, timeout);
            self.figures.requests += 1;
            self.figures.bytes += self.target.sent(&body);
            match verdict.map_err(Failure::permanent)? {
                Verdict::Accepted => decide(&mut fates, iter::repeat_with(|| Fate::Accepted)),
                Verdict::Each(each) => decide(&mut fates, each),
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
                // After a partial retry the verdict covers only the remainder.
                Verdict::TooLarge(why) | Verdict::RefusedEvents(why)
                    if open.len() < events.len() =>
                {
                    return Err(Failure::permanent(Error::Receiver(why)));
                }
                Verdict::TooLarge(why) => return Ok(Some(Outcome::TooLarge(why))),
                Verdict::RefusedEvents(why) => return Ok(Some(Outcome::RefusedEvents(why))),
            }
            let Some(Fate::Retry(why)) = fates.iter().find(|fate| fate.is_open()) else {
                return Ok(None);
            };
            let again = events.iter().zip(&fates).filter(|(_, fate)| fate.is_open());
            open = again.map(|(event, _)| event.clone()).collect();
            body = self.target.encode(&open, Limits::NONE).0;
            Err(Failure::temporary(Error::Receiver(why.clone())))
        });
        let error = match result {
            Ok(Some(refusal)) => return refusal,
            Ok(None) => None,
            Err(GaveUp::OutOfTime) => Some(Error::OutOfTime),
            Err(GaveUp::Failed {
                error: Error::Receiver(message),
                why,
            }) => Some(Error::Receiver(message + &why)),
            Err(GaveUp::Failed { error, .. }) => Some(error),
        };
        Outcome::Fates(fates, error)
    }

    /// Notes that the receiver refuses the next event for good.
    fn refuse(&mut self, ledger: &mut Ledger, why: String) -> Result<(), Error> {
        if self.dead_letters.is_none() {
            return Err(Error::EventsRefused(format!(
                "{why}; if only single events are at fault, --dead-letter FILE puts those aside"
            )));
        }
        ledger.refused.push((ledger.settled, why));
        ledger.settled += 1;
        Ok(())
    }

    /// Commits the settled events, after it has written the dead letters. Until the receiver has
    /// accepted an event, the refused ones may not be at fault, and nothing is committed.
    fn commit(&mut self, ledger: &mut Ledger) -> Result<(), Error> {
        if !self.has_accepted || ledger.settled == ledger.committed {
            return Ok(());
        }
        let (settled, following) = ledger.events.split_at(ledger.settled);
        if let Some(dead_letters) = &mut self.dead_letters
            && !ledger.refused.is_empty()
        {
            let path = dead_letters.shown();
            let places = ledger.refused.iter().map(|&(place, _)| place);
            dead_letters.append(places.map(|place| &settled[place]))?;
            for (place, why) in ledger.refused.drain(..) {
                self.figures.dead_letters += 1;
                let id = excerpt(settled[place].id.to_string().as_bytes());
                (ledger.warn)(&format!(
                    "the event {id} was refused and is now in {path}: {why}"
                ));
            }
        }
        let events = &settled[ledger.committed..];
        (ledger.commit)(Acknowledged { events }, following)?;
        ledger.committed = ledger.settled;
        Ok(())
    }
}

/// Gives new fates to the events whose fate is open.
fn decide(fates: &mut [Fate], new: impl IntoIterator<Item = Fate>) {
    let open = fates.iter_mut().filter(|fate| fate.is_open());
    open.zip(new).for_each(|(fate, new)| *fate = new);
}

impl Fate {
    fn is_open(&self) -> bool {
        matches!(self, Self::Retry(_))
    }
}

#[cfg(test)]
mod testing {
    use super::{Acknowledged, Event};

    impl<'a> Acknowledged<'a> {
        /// A proof for the tests of code that requires one.
        pub(crate) fn of_test(events: &'a [Event]) -> Self {
            Self { events }
        }
    }
}
