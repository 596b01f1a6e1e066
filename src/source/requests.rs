//! Requests for pages: made at once, or ahead of need on threads of their own.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Error;
use crate::retry::{Failure, LONGEST_NAMED_WAIT, Patience, retry};
use crate::source::page::Page;
use crate::source::{PageRequest, Source};

/// What the walk asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The page.
    pub request: PageRequest,
    /// Other answers promise that the page holds events. So an empty one is tried again.
    pub is_promised: bool,
}

/// An answer, and its cost.
#[derive(Debug)]
pub struct Fetched {
    /// The answer, or the error that ends the run.
    pub answer: Result<Option<Page>, Error>,
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
}

impl<S: Source, C: Clock> Asking<S, C> {
    /// Requests a page, with retries.
    pub fn get(&self, ask: Ask) -> Fetched {
        let (mut retries, began) = (0, self.clock.elapsed());
        let answer = retry(&self.clock, &self.patience, &mut retries, |timeout| {
            self.attempt(ask, timeout)
        });
        Fetched {
            answer,
            retries,
            took: self.clock.elapsed().saturating_sub(began),
        }
    }

    fn attempt(&self, ask: Ask, timeout: Duration) -> Result<Option<Page>, Failure> {
        let gate = self.source.gate();
        gate.pass(&self.clock, self.patience.deadline);
        let timeout = timeout.min(self.patience.left(&self.clock));
        let answer = self.source.page(&ask.request, timeout);
        let pause = match &answer {
            Ok(page) => page.as_ref().and_then(|page| page.pause),
            Err(failure) => {
                failure.wait.inspect(|_| gate.slow_down());
                failure.wait
            }
        };
        if let Some(pause) = pause.filter(|&pause| pause <= LONGEST_NAMED_WAIT) {
            gate.shut(&self.clock, pause);
        }
        match answer {
            Ok(Some(page)) if ask.is_promised && is_hole(&page, ask.request.number) => {
                let number = ask.request.number;
                let message = format!("page {number} is empty, although it was announced");
                Err(Failure::temporary(Error::Source(message)))
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
                answer: Err(Error::Source(
                    "the thread that requested a page broke off".to_owned(),
                )),
                retries: 0,
                took: Duration::ZERO,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::ThreadId;

    use ::time::UtcDateTime;

    use super::*;
    use crate::event::{Event, EventId};
    use crate::source::gate::Gate;

    /// A clock that stands still: no retry waits.
    struct Still;

    impl Clock for Still {
        fn now(&self) -> UtcDateTime {
            UtcDateTime::UNIX_EPOCH
        }
        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep(&self, _: Duration) {}
        fn chance(&self) -> f64 {
            0.0
        }
    }

    /// A list that reports each request, and answers when the test permits.
    struct Held {
        asked: Sender<(u64, ThreadId)>,
        let_go: Mutex<Receiver<Page>>,
        gate: Gate,
    }

    impl Source for Held {
        fn page(&self, request: &PageRequest, _: Duration) -> Result<Option<Page>, Failure> {
            let asked = (request.number, thread::current().id());
            self.asked.send(asked).unwrap();
            let let_go = self.let_go.lock().unwrap();
            let page = let_go.recv().expect("let go by the test");
            Ok(Some(page))
        }

        fn gate(&self) -> &Gate {
            &self.gate
        }
    }

    type Bench = (
        Threads<Held, Still>,
        Receiver<(u64, ThreadId)>,
        Sender<Page>,
    );

    fn threads(retries: u32) -> Bench {
        let (asked, all_asked) = channel();
        let (go, let_go) = channel();
        let source = Held {
            asked,
            let_go: Mutex::new(let_go),
            gate: Gate::default(),
        };
        let patience = Patience {
            timeout: Duration::from_secs(30),
            retries,
            deadline: None,
        };
        (Threads::new(source, Still, patience), all_asked, go)
    }

    fn ask(number: u64, is_promised: bool) -> Ask {
        Ask {
            request: PageRequest {
                since: None,
                number,
                size: 1,
            },
            is_promised,
        }
    }

    fn page(events: usize) -> Page {
        let page = Arc::new("{}".into());
        let event = Event::new(&page, 0..2, EventId::new("a"), UtcDateTime::UNIX_EPOCH);
        Page {
            events: vec![event; events],
            ..Page::default()
        }
    }

    fn events(fetched: Fetched) -> usize {
        match fetched.answer {
            Ok(Some(page)) => page.events.len(),
            other => panic!("not a page: {other:?}"),
        }
    }

    fn fault(fetched: Fetched) -> String {
        match fetched.answer {
            Err(Error::Source(fault)) => fault,
            other => panic!("not a failure: {other:?}"),
        }
    }

    #[test]
    fn a_request_ahead_runs_on_another_thread_until_it_is_ready() {
        let (threads, asked, go) = threads(0);
        let (first, second) = (threads.begin(ask(3, false)), threads.begin(ask(2, false)));
        let ((one, its), (other, others)) = (asked.recv().unwrap(), asked.recv().unwrap());
        assert_eq!(one.min(other), 2);
        assert!(its != others && ![its, others].contains(&thread::current().id()));
        assert!(!first.is_ready() && !second.is_ready());
        go.send(page(4)).unwrap();
        go.send(page(4)).unwrap();
        while !first.is_ready() {
            thread::yield_now();
        }
        assert_eq!((events(first.wait()), events(second.wait())), (4, 4));
    }

    #[test]
    fn a_request_that_is_needed_now_takes_no_thread() {
        let (threads, asked, go) = threads(0);
        go.send(page(4)).unwrap();
        assert_eq!(events(threads.get(ask(1, false))), 4);
        assert_eq!(asked.recv().unwrap(), (1, thread::current().id()));
    }

    #[test]
    fn a_thread_that_breaks_off_is_an_error_and_not_the_end_of_the_list() {
        let (threads, _asked, go) = threads(0);
        // The source panics.
        drop(go);
        let fault = fault(threads.begin(ask(3, false)).wait());
        assert!(fault.contains("broke off"), "{fault}");
    }

    #[test]
    fn a_request_that_nobody_wants_any_more_keeps_nobody() {
        let (threads, asked, go) = threads(0);
        let pending = threads.begin(ask(3, false));
        asked.recv().unwrap();
        drop(pending);
        drop(threads);
        go.send(page(4)).unwrap();
        // Its thread ends and drops the list.
        assert_eq!(asked.iter().count(), 0);
    }

    #[test]
    fn a_promised_page_that_is_empty_is_requested_again() {
        let (threads, asked, go) = threads(2);
        for events in [0, 0, 4] {
            go.send(page(events)).unwrap();
        }
        let fetched = threads.get(ask(3, true));
        assert_eq!((fetched.retries, events(fetched)), (2, 4));
        drop(threads);
        assert_eq!(asked.iter().count(), 3);
    }

    #[test]
    fn a_promised_page_that_stays_empty_is_an_error() {
        let (threads, _asked, go) = threads(2);
        (0..3).for_each(|_| go.send(page(0)).unwrap());
        let fault = fault(threads.get(ask(3, true)));
        assert_eq!(
            fault,
            "page 3 is empty, although it was announced; gave up after 3 attempts"
        );
        // Nobody said that there is such a page.
        go.send(page(0)).unwrap();
        assert_eq!(events(threads.get(ask(3, false))), 0);
    }

    #[test]
    fn an_empty_page_within_the_list_is_a_hole() {
        for (events, next, total_pages, expected) in [
            (0, None, None, true),
            (0, None, Some(3), true),
            (0, None, Some(0), true),
            // The list has become shorter.
            (0, None, Some(2), false),
            (0, Some(4), None, false),
            (1, None, None, false),
        ] {
            let page = Page {
                next,
                total_pages,
                ..page(events)
            };
            assert_eq!(is_hole(&page, 3), expected, "{page:?}");
        }
    }
}
