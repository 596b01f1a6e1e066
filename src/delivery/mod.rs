//! Delivery: sends events to the receiver, and commits those that it acknowledges.
//!
//! - **In order.** One request at a time. A batch that has to be split is sent from its older end.
//! - **Nothing is committed that was not acknowledged.** Only [`Delivery`] makes an
//!   [`Acknowledged`]: of events that the receiver took, or that are synced as dead letters.
//! - **Nothing is sent again that the receiver is known to have.** A [`Verdict`] says which events
//!   of a request were taken, also where the request failed. Those are noted in the ledger at
//!   once, and committed before the next request or wait, as far as all older ones are settled.
//! - **A body that is too large is halved.** So are all further ones in the run, but not below the
//!   largest one that was accepted.
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
pub mod stdout;

use std::time::Duration;

use crate::clock::Clock;
use crate::delivery::dead_letters::DeadLetters;
use crate::delivery::ledger::Ledger;
use crate::delivery::numbering::Numbering;
use crate::error::Error;
use crate::event::Event;
use crate::format::verdict::{Fate, Rest, Taken, Verdict};
use crate::format::{Encoder, Format, Limits};
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

/// Delivers events to a receiver. Nothing is sent before [`Delivery::deliver`].
pub struct Delivery<'a> {
    /// The receiver.
    pub target: &'a mut dyn Target,
    /// Makes the bodies for it.
    pub encoder: Encoder,
    /// The clock.
    pub clock: &'a dyn Clock,
    /// The time and the retries of each request.
    pub patience: Patience,
    /// The limits of a batch. A body that is too large lowers them.
    pub limits: Limits,
    /// The file for events that the receiver refuses for good.
    pub dead_letters: Option<DeadLetters>,
    /// The receiver has taken an event, in this run or in an earlier one.
    pub is_proven: bool,
    /// The numbers so far.
    pub figures: Figures,
    /// What the run has learnt about the receiver; nothing at first.
    pub learnt: Learnt,
}

/// What a run has learnt about its receiver.
#[derive(Default)]
pub struct Learnt {
    /// Events that were refused before the receiver was proven, and their fates.
    held: (Vec<Event>, Vec<Fate>),
    /// The size of the largest body that was accepted, before compression.
    largest_accepted: usize,
    numbering: Numbering,
}

impl Delivery<'_> {
    /// Delivers events in their order. Commits after each acknowledged request, or after a batch of
    /// them if requests hold one event each. Events that cannot be read are put aside first. Returns
    /// false if there are such events and no place for them.
    ///
    /// # Errors
    /// If some events could not be delivered. The events acknowledged before are committed.
    pub fn deliver(
        &mut self,
        mut events: Vec<Event>,
        commit: Commit,
        warn: &mut dyn FnMut(&str),
    ) -> Result<bool, Error> {
        let unreadable = events.extract_if(.., |event| event.fault.is_some());
        let unreadable: Vec<_> = unreadable.collect();
        let are_kept =
            unreadable.is_empty() || self.put_aside(&unreadable, &events, commit, warn)?;
        let (mut all, mut fates) = std::mem::take(&mut self.learnt.held);
        let held = all.len();
        all.extend(events);
        fates.resize(all.len(), Fate::Open);
        let mut ledger = Ledger {
            events: &all,
            fates,
            committed: 0,
            settled: held,
            row: held,
            commit,
            warn,
        };
        match self.send_all(&mut ledger) {
            sent @ Err(Error::NotCommitted { .. } | Error::DeadLetter(_)) => sent?,
            // A failed commit is the worse of two errors: the next run repeats events.
            sent if self.is_proven => self.commit(ledger.settled, &mut ledger).and(sent)?,
            sent => {
                sent?;
                let fates = ledger.fates;
                self.learnt.held = (all, fates);
            }
        }
        Ok(are_kept)
    }

    /// Puts events that cannot be read among the dead letters, and commits them. `following` are
    /// the other events of their window, which are still to be delivered. Returns false if there is no
    /// file for dead letters.
    fn put_aside(
        &mut self,
        unreadable: &[Event],
        following: &[Event],
        commit: Commit,
        warn: &mut dyn FnMut(&str),
    ) -> Result<bool, Error> {
        let mut fate = "is not delivered (--dead-letter FILE keeps it)".to_owned();
        if let Some(dead_letters) = &mut self.dead_letters {
            let path = dead_letters.append(unreadable.iter())?;
            self.figures.dead_letters += unreadable.len() as u64;
            fate = format!("is now in {path}");
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
        let (held, _) = &self.learnt.held;
        let events = unreadable;
        let following = if held.is_empty() { following } else { held };
        commit(Acknowledged { events }, following)?;
        Ok(true)
    }

    /// Ends delivery.
    ///
    /// # Errors
    /// If the receiver has refused every event of the run.
    pub fn finish(&mut self) -> Result<(), Error> {
        match self.learnt.held.1.last() {
            Some(Fate::Refused(why)) => Err(refuses("every event", why)),
            _ => Ok(()),
        }
    }

    /// Sends batch after batch.
    fn send_all(&mut self, ledger: &mut Ledger) -> Result<(), Error> {
        // Where batches have to end, since the receiver refused longer ones: the oldest on top.
        let mut ends = vec![ledger.events.len()];
        while let Some(&end) = ends.last() {
            if end <= ledger.settled {
                ends.pop();
                continue;
            }
            let is_probe = !self.is_proven && ledger.row > 0;
            let end = if is_probe { ledger.settled + 1 } else { end };
            ends.extend(self.send_batch(ledger, end)?);
        }
        Ok(())
    }

    /// Sends the open events before `end`, as many as the limits allow, and retries them. Notes at
    /// once which events were taken. If the others cannot go together, this returns where the next
    /// batches have to end, the later end first.
    fn send_batch(&mut self, ledger: &mut Ledger, end: usize) -> Result<Vec<usize>, Error> {
        let (clock, patience) = (self.clock, self.patience);
        let mut batch = ledger.open(end);
        let (mut retries, mut resets, mut unanswered) = (0, 0, 0);
        let mut is_numbered = false;
        let result = retry(clock, &patience, &mut retries, |timeout| {
            let events = ledger.pick(&batch);
            let (body, count) = self.encoder.encode(&events, self.limits, clock.now());
            let size = body.len();
            batch.truncate(count);
            let verdict = self.target.send(&events[..count], &body, timeout);
            self.figures.requests += 1;
            self.figures.bytes += size as u64;
            let verdict = verdict?;
            let (rest, message) = (verdict.rest, verdict.message);
            is_numbered = matches!(verdict.taken, Taken::Before { .. });
            self.note(ledger, &mut batch, verdict.taken, rest)?;
            if batch.len() < count {
                self.learnt.largest_accepted = self.learnt.largest_accepted.max(size);
            }
            if batch.is_empty() {
                return Ok(None);
            }
            resets += u32::from(rest == Rest::Reset);
            unanswered += u32::from(rest == Rest::Unanswered);
            Err(match rest {
                Rest::TooLarge | Rest::RefusedEvents => return Ok(Some((rest, message, size))),
                Rest::Reset if resets > 1 && batch.len() > 1 => {
                    return Ok(Some((rest, message, size)));
                }
                Rest::Refused => Error::EventsRefused(message).into(),
                Rest::Failed | Rest::Nothing => Error::Receiver(message).into(),
                Rest::Unanswered if unanswered >= MOST_UNANSWERED => Error::Receiver(format!(
                    "{message}; gave up after {unanswered} such tries, since it may have taken the events each time"
                ))
                .into(),
                Rest::Retry | Rest::Reset | Rest::Unanswered => Failure {
                    wait: verdict.wait,
                    ..Failure::temporary(Error::Receiver(message))
                },
            })
        });
        self.figures.retries += retries;
        let Some((rest, message, size)) = result? else {
            return Ok(Vec::new());
        };
        let is_too_large = rest != Rest::RefusedEvents;
        let is_alone = batch.len() == 1;
        let is_refused = is_alone || !is_too_large && !is_numbered;
        if is_refused && self.dead_letters.is_none() {
            let id = shown_id(&ledger.events[batch[0]]);
            let which = is_alone.then(|| format!("the event {id} was refused: "));
            return Err(refused(&(which.unwrap_or_default() + &message)));
        }
        if is_alone {
            self.learnt.numbering.told(1);
            ledger.fates[batch[0]] = Fate::Refused(message);
            self.settle(ledger)?;
            return Ok(Vec::new());
        }
        let accepted = self.learnt.largest_accepted;
        if is_too_large && accepted < size {
            self.limits.bytes = accepted.max(size / 2);
            return Ok(Vec::new());
        }
        // A body of this size was accepted before, so only this batch is divided: it may have too many
        // events, or the connection broke off by chance.
        let place = if is_numbered { 1 } else { batch.len() / 2 };
        Ok(vec![batch[batch.len() - 1] + 1, batch[place]])
    }

    /// Notes which events of a batch were taken, and which were refused. The others stay in the batch.
    /// Commits as far as all events are settled.
    fn note(
        &mut self,
        ledger: &mut Ledger,
        batch: &mut Vec<usize>,
        taken: Taken,
        rest: Rest,
    ) -> Result<(), Error> {
        let count = batch.len();
        let fates = match taken {
            Taken::None => return Ok(()),
            Taken::Items(fates) => fates,
            Taken::All => {
                self.learnt.numbering.told(0);
                vec![Fate::Taken; count]
            }
            Taken::Before { number, code } => {
                vec![Fate::Taken; self.learnt.numbering.certain(number, code, rest, count)]
            }
        };
        let mut refusal = None;
        for (&place, fate) in batch.iter().zip(fates) {
            match fate {
                Fate::Refused(why) if self.dead_letters.is_none() => {
                    let id = shown_id(&ledger.events[place]);
                    refusal.get_or_insert(format!("the event {id} was refused: {why}"));
                }
                fate => {
                    self.is_proven |= fate == Fate::Taken;
                    ledger.fates[place] = fate;
                }
            }
        }
        batch.retain(|&place| ledger.fates[place] == Fate::Open);
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
        ledger.settle(most).map_err(|why| refuses(what, &why))?;
        // A commit after each single event would cost more than its delivery.
        let commit_every = match self.encoder.format {
            Format::Json => self.limits.events,
            _ => 1,
        };
        let until = ledger.settled - ledger.row;
        if until - ledger.committed >= commit_every {
            self.commit(until, ledger)?;
        }
        Ok(())
    }

    /// Commits the events up to a place, after it has written the dead letters among them.
    fn commit(&mut self, until: usize, ledger: &mut Ledger) -> Result<(), Error> {
        if until <= ledger.committed {
            return Ok(());
        }
        let (settled, following) = ledger.events.split_at(until);
        let events = &settled[ledger.committed..];
        let fates = events.iter().zip(&ledger.fates[ledger.committed..]);
        let refused = fates.filter_map(|(event, fate)| match fate {
            Fate::Refused(why) => Some((event, why)),
            _ => None,
        });
        let refused: Vec<_> = refused.collect();
        if let Some(dead_letters) = &mut self.dead_letters
            && !refused.is_empty()
        {
            let path = dead_letters.append(refused.iter().map(|&(event, _)| event))?;
            self.figures.dead_letters += refused.len() as u64;
            for (event, why) in refused {
                let id = shown_id(event);
                (ledger.warn)(&format!(
                    "the event {id} was refused and is now in {path}: {why}"
                ));
            }
        }
        (ledger.commit)(Acknowledged { events }, following)?;
        ledger.committed = until;
        Ok(())
    }
}

/// An error that is not the receiver's own ends all tries.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::permanent(error)
    }
}

/// An event's `id`, safe to show.
fn shown_id(event: &Event) -> String {
    excerpt(event.id.to_string().as_bytes())
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
