//! Requests for pages: made at once, or ahead of need on threads of their own.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Error;
use crate::retry::{Failure, GaveUp, LONGEST_NAMED_WAIT, Patience, retry};
use crate::source::gate::Gate;
use crate::source::page::Page;
use crate::source::{PageRequest, Source, SourceError};

/// What the walk asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The page.
    pub request: PageRequest,
    /// Other answers promise that the page holds events. So an empty one is tried again.
    pub is_promised: bool,
}

/// An answer to the request for a page.
#[derive(Debug)]
pub enum Answer {
    /// The page.
    Page(Page),
    /// There is no such page, by the service's message.
    Missing(String),
}

/// An answer, and its cost.
#[derive(Debug)]
pub struct Fetched {
    /// The answer, or the error that ends the run.
    pub answer: Result<Answer, Error>,
    /// The number of retries.
    pub retries: u64,
    /// The time of the request, retries and waits included.
    pub took: Duration,
}

/// The pages of the service.
pub trait Pages {
    /// Requests a page and waits for it.
    fn get(&self, ask: Ask) -> Fetched;

    /// Begins to request a page, beside everything else. Dropping it leaves the request to itself.
    fn begin(&self, ask: Ask) -> Box<dyn Pending + '_>;
}

/// A request that has begun.
pub trait Pending {
    /// Tells if the answer is there.
    fn is_ready(&self) -> bool;

    /// Waits for the answer.
    fn wait(self: Box<Self>) -> Fetched;
}

/// Everything that a request for a page needs.
pub struct Asking<S, C> {
    /// The service.
    pub source: S,
    /// The clock.
    pub clock: C,
    /// Time limits and retries.
    pub patience: Patience,
    /// What all requests wait for.
    pub gate: Gate,
}

impl<S: Source, C: Clock> Asking<S, C> {
    /// Requests a page, with retries.
    pub fn get(&self, ask: Ask) -> Fetched {
        let (mut retries, began) = (0, self.clock.elapsed());
        let result = retry(&self.clock, &self.patience, &mut retries, |timeout| {
            self.attempt(ask, timeout)
        });
        let answer = match result {
            Ok(page) => Ok(Answer::Page(page)),
            Err(GaveUp::OutOfTime) => Err(Error::OutOfTime),
            Err(GaveUp::Failed { error, why }) => match error {
                SourceError::NoSuchPage(message) => Ok(Answer::Missing(message)),
                SourceError::Refused(message) => Err(SourceError::Refused(message + &why)),
                SourceError::Failed(message) => Err(SourceError::Failed(message + &why)),
            }
            .map_err(Error::Source),
        };
        Fetched {
            answer,
            retries,
            took: self.clock.elapsed().saturating_sub(began),
        }
    }

    fn attempt(&self, ask: Ask, timeout: Duration) -> Result<Page, Failure<SourceError>> {
        self.gate.pass(&self.clock, self.patience.deadline);
        let left = self.patience.left(&self.clock);
        let timeout = left.map_or(timeout, |left| left.min(timeout));
        let answer = self.source.page(&ask.request, timeout);
        if let Some(limit) = self.source.limit() {
            self.gate.allow(limit);
        }
        let pause = match &answer {
            Ok(page) => page.pause,
            Err(failure) => {
                failure.wait.inspect(|_| self.gate.slow_down());
                failure.wait
            }
        };
        if let Some(pause) = pause.filter(|&pause| pause <= LONGEST_NAMED_WAIT) {
            self.gate.shut(&self.clock, pause);
        }
        match answer {
            Ok(page) if ask.is_promised && is_hole(&page, ask.request.number) => {
                let number = ask.request.number;
                let message = format!("page {number} is empty, although it was announced");
                Err(Failure::temporary(SourceError::Failed(message)))
            }
            answer => answer,
        }
    }
}

/// Tells if a promised page is empty and does not say that the list has become shorter. It says so
/// after retention has removed the last event of the last page.
fn is_hole(page: &Page, number: u64) -> bool {
    let is_shorter_now = page
        .total_pages
        .is_some_and(|total| (1..number).contains(&total));
    page.events.is_empty() && page.next.is_none() && !is_shorter_now
}

/// Requests to the service over the network. Each that is made ahead has a thread of its own.
///
/// Nobody waits for the threads: one that is in a request when the run ends, ends with the process.
pub struct Threads<S, C>(Arc<Asking<S, C>>);

impl<S, C> Threads<S, C> {
    /// Prepares requests; nothing is requested yet.
    pub fn new(source: S, clock: C, patience: Patience) -> Self {
        Self(Arc::new(Asking {
            source,
            clock,
            patience,
            gate: Gate::default(),
        }))
    }
}

impl<S, C> Pages for Threads<S, C>
where
    S: Source + Send + Sync + 'static,
    C: Clock + Send + Sync + 'static,
{
    fn get(&self, ask: Ask) -> Fetched {
        self.0.get(ask)
    }

    fn begin(&self, ask: Ask) -> Box<dyn Pending + '_> {
        let asking = Arc::clone(&self.0);
        let thread = thread::Builder::new().spawn(move || asking.get(ask));
        Box::new(match thread {
            Ok(thread) => Begun::Thread(thread),
            // Where no thread can be started, this one makes the request.
            Err(_) => Begun::Answered(self.get(ask)),
        })
    }
}

/// A request that was made ahead.
enum Begun {
    Thread(JoinHandle<Fetched>),
    Answered(Fetched),
}

impl Pending for Begun {
    fn is_ready(&self) -> bool {
        match self {
            Self::Thread(thread) => thread.is_finished(),
            Self::Answered(_) => true,
        }
    }

    fn wait(self: Box<Self>) -> Fetched {
        match *self {
            Self::Answered(fetched) => fetched,
            // A broken thread must not look like the end of the list.
            Self::Thread(thread) => thread.join().unwrap_or_else(|_| Fetched {
                answer: Err(Error::Source(SourceError::Failed(
                    "the thread that requested a page broke off".to_owned(),
                ))),
                retries: 0,
                took: Duration::ZERO,
            }),
        }
    }
}
