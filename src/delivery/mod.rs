//! Delivery: sends events to the receiver, and commits those that it acknowledges.
//!
//! - **In order.** One request at a time. A batch that has to be split is sent from its older end.
//! - **Nothing is committed that was not acknowledged.** Only [`Delivery`] makes an
//!   [`Acknowledged`]: of events that the receiver took, or that are synced as dead letters.
//! - **Nothing is sent again that the receiver is known to have.** A [`Verdict`] says which events
//!   of a request were taken, also where the request failed. Those are noted in the ledger at
//!   once, and committed before the next request or wait, as far as all older ones are settled.
//! - **No backlog becomes dead letters.** A receiver that has taken an event, in this run or in an
//!   earlier one, is in order: an event that it refuses alone is at fault. Until then up to
//!   eight other events are tried one by one. More than a hundred refusals in a
//!   row are never the events' fault.

pub mod dead_letters;
pub mod exec;
pub mod ledger;
pub mod lines;
mod numbering;
pub mod post;
pub mod split;
pub mod stdout;

use std::borrow::Cow;
use std::slice;
use std::time::Duration;

use crate::clock::Clock;
use crate::delivery::dead_letters::DeadLetters;
use crate::delivery::ledger::{Fate, Ledger};
use crate::delivery::numbering::Numbering;
use crate::delivery::split::{BodySizes, halves, split_at};
use crate::error::Error;
use crate::event::Event;
use crate::format::Limits;
use crate::format::verdict::{Item, Rest, Taken, Verdict};
use crate::retry::{Failure, Patience, retry};
use crate::text::excerpt;
use crate::time;

/// How many other single events are tried before the receiver counts as refusing everything.
const MOST_PROBES: usize = 8;
/// How many events in a row a receiver may refuse before the fault is not theirs.
const MOST_IN_A_ROW: usize = 100;
/// How often a request without an answer is made, where each may store the events once more.
const MOST_UNANSWERED: u32 = 2;

/// A way to hand events to a receiver.
pub trait Target {
    /// Makes a body of as many of the first events as the limits allow, but at least one. Returns
    /// the body and the number of events in it.
    fn encode(&self, events: &[Event], limits: Limits) -> (Vec<u8>, usize);

    /// Hands over these events, with the body made of them, once and within `timeout`. Returns the
    /// receiver's verdict.
    ///
    /// # Errors
    /// If the run has to end at once.
    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error>;
}

/// The proof that events need not be delivered again. A commit requires it.
pub struct Acknowledged<'a> {
    events: &'a [Event],
}

impl<'a> Acknowledged<'a> {
    /// The events, in the order of their delivery.
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
    /// How many settled events are committed together.
    commit_every: usize,
    /// The receiver has taken an event, in this run or in an earlier one.
    is_proven: bool,
    /// Events that were refused before the receiver was proven, and why.
    held: Vec<(Event, String)>,
    sizes: BodySizes,
    numbering: Numbering,
    figures: Figures,
}

/// The events of a part that are left after all retries, and why.
struct Left {
    part: Vec<usize>,
    rest: Rest,
    message: String,
    /// The size of the last body.
    size: usize,
    /// The answer had an event's number: the first of these events goes alone.
    is_numbered: bool,
}

impl<'a> Delivery<'a> {
    /// Prepares delivery; nothing is sent yet. `is_proven`: an earlier run's events were taken.
    pub fn new(
        target: &'a mut dyn Target,
        clock: &'a dyn Clock,
        patience: Patience,
        limits: Limits,
        dead_letters: Option<DeadLetters>,
        commit_every: usize,
        is_proven: bool,
    ) -> Self {
        Self {
            target,
            clock,
            patience,
            limits,
            dead_letters,
            commit_every,
            is_proven,
            held: Vec::new(),
            sizes: BodySizes::default(),
            numbering: Numbering::default(),
            figures: Figures::default(),
        }
    }

    /// The numbers so far.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Delivers events in their order. Commits after each acknowledged request, or after
    /// `commit_every` events if requests hold one event each.
    ///
    /// # Errors
    /// If some events could not be delivered. The events acknowledged before are committed.
    pub fn deliver(
        &mut self,
        events: &[Event],
        commit: Commit,
        warn: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let held = std::mem::take(&mut self.held);
        let mut all = Cow::Borrowed(events);
        if !held.is_empty() {
            let held = held.iter().map(|(event, _)| event);
            all = held.chain(events).cloned().collect();
        }
        let mut ledger = Ledger {
            events: &all,
            fates: vec![Fate::Open; all.len()],
            committed: 0,
            settled: 0,
            row: 0,
            commit,
            warn,
        };
        for (place, (_, why)) in held.into_iter().enumerate() {
            ledger.fates[place] = Fate::Refused(why);
        }
        let settled = self.settle(&mut ledger);
        let sent = settled.and_then(|()| self.send_all(&mut ledger));
        if let Err(Error::NotCommitted { .. } | Error::DeadLetter(_)) = sent {
            return sent;
        }
        if !self.is_proven {
            let held = ledger.refused(ledger.settled).into_iter();
            self.held = held.map(|(event, why)| (event.clone(), why)).collect();
            return sent;
        }
        let until = ledger.settled;
        let committed = self.commit(&mut ledger, until);
        // A failed commit is the worse of two errors: the next run repeats events.
        committed.and(sent)
    }

    /// Puts events that cannot be read among the dead letters, and commits them. `following` are
    /// the other events of their window, which are still to be delivered. Returns false if there are
    /// such events and no place for them.
    ///
    /// # Errors
    /// If the dead letters or the checkpoint cannot be written.
    pub fn put_aside(
        &mut self,
        unreadable: &[Event],
        following: &[Event],
        commit: Commit,
        warn: &mut dyn FnMut(&str),
    ) -> Result<bool, Error> {
        if unreadable.is_empty() {
            return Ok(true);
        }
        let mut fate = "is not delivered (--dead-letter FILE keeps it)".to_owned();
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.append(unreadable.iter())?;
            self.figures.dead_letters += unreadable.len() as u64;
            fate = format!("is now in {}", dead_letters.shown());
        }
        for event in unreadable {
            warn(&format!(
                "an event listed near {} cannot be read ({}) and {fate}: {}",
                time::format(event.time),
                event.fault.unwrap_or_default(),
                excerpt(event.json().as_bytes())
            ));
        }
        if self.dead_letters.is_none() {
            return Ok(false);
        }
        let held = self.held.first().map(|(event, _)| slice::from_ref(event));
        let events = unreadable;
        commit(Acknowledged { events }, held.unwrap_or(following))?;
        Ok(true)
    }

    /// Ends delivery.
    ///
    /// # Errors
    /// If the receiver has refused every event of the run.
    pub fn finish(&mut self) -> Result<(), Error> {
        match self.held.last() {
            None => Ok(()),
            Some((_, why)) => Err(refuses("every event", why)),
        }
    }

    /// Sends batch after batch.
    fn send_all(&mut self, ledger: &mut Ledger) -> Result<(), Error> {
        while ledger.settled < ledger.events.len() {
            let bytes = self.sizes.most_bytes(self.limits.bytes);
            let limits = Limits {
                bytes,
                ..self.limits
            };
            let (body, count) = self.target.encode(&ledger.events[ledger.settled..], limits);
            let batch = (ledger.settled..ledger.settled + count).collect();
            self.send_batch(ledger, batch, body)?;
        }
        Ok(())
    }

    /// Sends a batch, in as many parts as the receiver requires.
    fn send_batch(
        &mut self,
        ledger: &mut Ledger,
        batch: Vec<usize>,
        body: Vec<u8>,
    ) -> Result<(), Error> {
        // The parts that are still to be sent, the oldest one on top.
        let mut parts = vec![batch];
        let mut whole = Some(body);
        while let Some(part) = parts.pop() {
            let is_probe = !self.is_proven && ledger.row > 0;
            if is_probe && part.len() > 1 {
                whole = None;
                parts.extend(split_at(part, 1));
                continue;
            }
            let encode = || self.target.encode(&ledger.pick(&part), Limits::NONE).0;
            let body = whole.take().unwrap_or_else(encode);
            if part.len() > 1 && self.sizes.is_too_large(body.len()) {
                parts.extend(halves(part));
                continue;
            }
            let Some(left) = self.request(ledger, part, body)? else {
                continue;
            };
            if matches!(left.rest, Rest::TooLarge | Rest::Reset) {
                self.sizes.refuse(left.size);
            }
            let is_alone = left.part.len() == 1;
            let is_refused = is_alone || left.rest == Rest::RefusedEvents && !left.is_numbered;
            if is_refused && self.dead_letters.is_none() {
                return Err(refused(&left.message));
            }
            if is_alone {
                self.numbering.told(1);
                ledger.fates[left.part[0]] = Fate::Refused(left.message);
                self.settle(ledger)?;
            } else if left.is_numbered {
                parts.extend(split_at(left.part, 1));
            } else {
                parts.extend(halves(left.part));
            }
        }
        Ok(())
    }

    /// Sends a part, and retries it. Notes at once which events were taken. Returns the events that
    /// have to be sent in another way; `None` if there are none.
    fn request(
        &mut self,
        ledger: &mut Ledger,
        mut part: Vec<usize>,
        mut body: Vec<u8>,
    ) -> Result<Option<Left>, Error> {
        let (clock, patience) = (self.clock, self.patience);
        let (mut retries, mut resets, mut unanswered) = (0, 0, 0);
        let result = retry(clock, &patience, &mut retries, |timeout| {
            let size = body.len();
            let verdict = self.target.send(&ledger.pick(&part), &body, timeout);
            self.figures.requests += 1;
            self.figures.bytes += size as u64;
            let verdict = verdict.map_err(Failure::permanent)?;
            let (rest, message, count) = (verdict.rest, verdict.message, part.len());
            let is_numbered = matches!(verdict.taken, Taken::Before { .. });
            let noted = self.note(ledger, &mut part, verdict.taken, rest);
            noted.map_err(Failure::permanent)?;
            if part.len() < count {
                self.sizes.accept(size);
                if part.is_empty() {
                    return Ok(None);
                }
                body = self.target.encode(&ledger.pick(&part), Limits::NONE).0;
            }
            resets += u32::from(rest == Rest::Reset);
            unanswered += u32::from(rest == Rest::Unanswered);
            match rest {
                Rest::Reset if resets < 2 || part.len() == 1 => {}
                Rest::TooLarge | Rest::RefusedEvents | Rest::Reset => {
                    return Ok(Some(Left {
                        part: std::mem::take(&mut part),
                        rest,
                        message,
                        size,
                        is_numbered,
                    }));
                }
                Rest::Refused => return Err(Failure::permanent(Error::EventsRefused(message))),
                Rest::Unanswered if unanswered >= MOST_UNANSWERED => {
                    return Err(Failure::permanent(Error::Receiver(format!(
                        "{message}; gave up after {unanswered} such tries, since it may have taken the events each time"
                    ))));
                }
                Rest::Retry | Rest::Unanswered => {}
                Rest::Failed | Rest::Nothing => {
                    return Err(Failure::permanent(Error::Receiver(message)));
                }
            }
            Err(Failure {
                wait: verdict.wait,
                ..Failure::temporary(Error::Receiver(message))
            })
        });
        self.figures.retries += retries;
        result
    }

    /// Notes which events of a part were taken, and which were refused. The others stay in the part.
    /// Commits as far as all events are settled.
    fn note(
        &mut self,
        ledger: &mut Ledger,
        part: &mut Vec<usize>,
        taken: Taken,
        rest: Rest,
    ) -> Result<(), Error> {
        let mut refusal = None;
        let mut items = match taken {
            Taken::None => return Ok(()),
            Taken::Items(items) => items,
            Taken::All => {
                self.numbering.told(0);
                part.iter().map(|_| Item::Taken).collect()
            }
            Taken::Before { number, code } => {
                let certain = self.numbering.certain(number, code, rest, part.len());
                (0..certain).map(|_| Item::Taken).collect()
            }
        }
        .into_iter();
        part.retain(|&place| match items.next() {
            Some(Item::Taken) => {
                self.is_proven = true;
                ledger.fates[place] = Fate::Taken;
                false
            }
            Some(Item::Refused(why)) if self.dead_letters.is_some() => {
                ledger.fates[place] = Fate::Refused(why);
                false
            }
            Some(Item::Refused(why)) => {
                refusal.get_or_insert(why);
                true
            }
            Some(Item::Open) | None => true,
        });
        self.settle(ledger)?;
        refusal.map_or(Ok(()), |why| Err(refused(&why)))
    }

    /// Settles the events up to the first one that is open, and commits those that are not in a row
    /// of refused ones: the row may get too long.
    fn settle(&mut self, ledger: &mut Ledger) -> Result<(), Error> {
        let (most, what) = if self.is_proven {
            (MOST_IN_A_ROW, "more than 100 events in a row")
        } else {
            (MOST_PROBES, "every event")
        };
        if !ledger.settle(most) {
            return Err(refuses(what, ledger.last_refusal()));
        }
        let until = ledger.settled - ledger.row;
        if until - ledger.committed >= self.commit_every {
            self.commit(ledger, until)?;
        }
        Ok(())
    }

    /// Commits the events up to a place, after it has written the dead letters among them.
    fn commit(&mut self, ledger: &mut Ledger, until: usize) -> Result<(), Error> {
        if until <= ledger.committed {
            return Ok(());
        }
        let refused = ledger.refused(until);
        if let Some(dead_letters) = &mut self.dead_letters
            && !refused.is_empty()
        {
            let path = dead_letters.shown();
            dead_letters.append(refused.iter().map(|&(event, _)| event))?;
            for (event, why) in refused {
                self.figures.dead_letters += 1;
                let id = excerpt(event.id.to_string().as_bytes());
                (ledger.warn)(&format!(
                    "the event {id} was refused and is now in {path}: {why}"
                ));
            }
        }
        let (settled, following) = ledger.events.split_at(until);
        let events = &settled[ledger.committed..];
        (ledger.commit)(Acknowledged { events }, following)?;
        ledger.committed = until;
        Ok(())
    }
}

/// The error for an event that is refused, without a file for dead letters.
fn refused(why: &str) -> Error {
    Error::EventsRefused(format!(
        "{why}; if only single events are at fault, --dead-letter FILE puts those aside"
    ))
}

/// The error for a receiver that refuses too many events for these to be at fault.
fn refuses(what: &str, why: &str) -> Error {
    Error::EventsRefused(format!(
        "the receiver refuses {what}, so the events are not at fault: {why}"
    ))
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
