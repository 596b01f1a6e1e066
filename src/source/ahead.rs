//! Reading forward: page after page towards higher numbers, ahead of need where that is allowed.
//!
//! A reading requests a page only after the page before it has come. So it has no gaps: arrivals
//! push events towards higher numbers, and a later request can only repeat events. The time of a
//! request does not matter otherwise. So several readings run at once, each on its own thread, while
//! the walk and the delivery handle the oldest one.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Clock;
use crate::error::Error;
use crate::retry::{Failure, GaveUp, LONGEST_NAMED_WAIT, Patience, retry};
use crate::source::page::Page;
use crate::source::{PageRequest, Source, SourceError};

/// The position of a reading: its next page, as the pages before it tell.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The value of `since`; `None` for everything retained.
    pub since: Option<OffsetDateTime>,
    /// The number of the next page.
    pub number: u64,
    /// Events per page.
    pub size: u64,
    /// The page size in effect, by earlier answers.
    pub effective: u64,
    /// If there is a next page.
    pub more: More,
}

/// If there is another page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// The service announced it.
    Announced,
    /// The page before is full, and does not announce it.
    Perhaps,
    /// The list has ended.
    No,
}

impl Forward {
    /// The page size in effect by this answer: what it says, else the length of a page that has a
    /// successor, else what is known so far.
    #[must_use]
    pub fn effective_size(&self, page: &Page) -> u64 {
        let length = page.events.len() as u64;
        page.size
            .or(page.next.map(|_| length).filter(|&length| length > 0))
            .unwrap_or(self.effective)
    }

    /// Moves on to the page after this one.
    fn follow(&mut self, page: &Page) {
        self.effective = self.effective_size(page);
        self.more = match page.next {
            Some(next) if next > self.number => More::Announced,
            // Arrivals may have pushed events over the end of a full page.
            None if page.events.len() as u64 >= self.effective => More::Perhaps,
            _ => More::No,
        };
        self.number += 1;
    }
}

/// An answer to the request for a page.
#[derive(Debug)]
pub enum Answer {
    /// The page.
    Page(Page),
    /// There is no such page, by the service's message.
    Missing(String),
}

/// A page of a reading, and its cost.
#[derive(Debug)]
pub struct Fetched {
    /// The position of the reading before this page.
    pub place: Forward,
    /// The answer, or the error that ends the run.
    pub answer: Result<Answer, Error>,
    /// The number of retries.
    pub retries: u64,
    /// The time of the request, retries and waits included.
    pub took: Duration,
}

/// The pages of one reading, in their order.
pub trait Stream {
    /// Permits this number of further pages to be read ahead.
    fn read_ahead(&mut self, pages: u64);

    /// Waits for the next page; `None` where the list has ended or after an answer that was no page.
    fn next(&mut self) -> Option<Fetched>;
}

/// The service's pages, as readings.
pub trait Readings {
    /// Begins a reading. Nothing is requested yet; dropping the stream ends it.
    fn open(&self, from: Forward) -> Box<dyn Stream + '_>;
}

/// A pause that the service asked for, by [`Clock::elapsed`]. It holds for all readings, since the
/// rate limit applies to all requests of a token.
#[derive(Debug, Default)]
pub struct Gate {
    shut_until: Mutex<Duration>,
}

impl Gate {
    /// Waits until the pause is over, or the deadline is reached.
    fn pass(&self, clock: &dyn Clock, deadline: Option<Duration>) {
        loop {
            let until = *self.lock();
            let until = deadline.map_or(until, |deadline| until.min(deadline));
            let wait = until.saturating_sub(clock.elapsed());
            if wait.is_zero() {
                return;
            }
            clock.sleep(wait);
        }
    }

    fn shut(&self, clock: &dyn Clock, pause: Duration) {
        let mut until = self.lock();
        *until = (*until).max(clock.elapsed() + pause);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Duration> {
        self.shut_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that a request for a page needs.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The service.
    pub source: &'a dyn Source,
    /// The clock.
    pub clock: &'a dyn Clock,
    /// Time limits and retries.
    pub patience: Patience,
    /// The pause of all readings.
    pub gate: &'a Gate,
}

impl Asking<'_> {
    /// Requests the next page of a reading, with retries, and moves the reading there; `None` at the
    /// end of the list. If the page was announced, an empty answer or one that denies the page is a
    /// temporary failure.
    pub fn next(&self, reading: &mut Forward) -> Option<Fetched> {
        if reading.more == More::No {
            return None;
        }
        let place = reading.clone();
        let (mut retries, began) = (0, self.clock.elapsed());
        let answer = self.ask(&place, &mut retries);
        match &answer {
            Ok(Answer::Page(page)) => reading.follow(page),
            _ => reading.more = More::No,
        }
        Some(Fetched {
            place,
            answer,
            retries,
            took: self.clock.elapsed().saturating_sub(began),
        })
    }

    fn ask(&self, place: &Forward, retries: &mut u64) -> Result<Answer, Error> {
        let (number, is_announced) = (place.number, place.more == More::Announced);
        let request = PageRequest {
            since: place.since,
            number,
            size: place.size,
        };
        let result = retry(self.clock, &self.patience, retries, |timeout| {
            self.gate.pass(self.clock, self.patience.deadline);
            let left = self.patience.left(self.clock);
            let timeout = left.map_or(timeout, |left| left.min(timeout));
            let denied = |message: String| Failure {
                retryable: is_announced,
                ..Failure::permanent(SourceError::NoSuchPage(message))
            };
            let answer = self.source.page(&request, timeout);
            let pause = match &answer {
                Ok(page) => page.pause,
                Err(failure) => failure.wait,
            };
            if let Some(pause) = pause.filter(|&pause| pause <= LONGEST_NAMED_WAIT) {
                self.gate.shut(self.clock, pause);
            }
            match answer {
                Ok(page) if is_announced && is_hole(&page, number) => Err(denied(format!(
                    "page {number} is empty, although it was announced"
                ))),
                Err(Failure {
                    error: SourceError::NoSuchPage(message),
                    ..
                }) => Err(denied(message)),
                result => result,
            }
        });
        match result {
            Ok(page) => Ok(Answer::Page(page)),
            Err(GaveUp::OutOfTime) => Err(Error::OutOfTime),
            Err(GaveUp::Failed { error, why }) => match error {
                SourceError::NoSuchPage(message) => Ok(Answer::Missing(message + &why)),
                SourceError::Refused(message) => {
                    Err(Error::Source(SourceError::Refused(message + &why)))
                }
                SourceError::Failed(message) => {
                    Err(Error::Source(SourceError::Failed(message + &why)))
                }
            },
        }
    }
}

/// Tells if an announced page is empty and does not say that the list has become shorter. It says so
/// after retention has removed the last event of the last page.
fn is_hole(page: &Page, number: u64) -> bool {
    let is_shorter_now = page
        .total_pages
        .is_some_and(|total| (1..number).contains(&total));
    page.events.is_empty() && page.next.is_none() && !is_shorter_now
}

/// Readings of the service, each on its own thread as soon as it may read ahead.
///
/// Nobody waits for the threads: a thread that is in a request when the run ends, ends with the
/// process.
pub struct Threads {
    shared: Arc<Shared>,
}

struct Shared {
    source: Box<dyn Source + Send + Sync>,
    clock: Box<dyn Clock + Send + Sync>,
    patience: Patience,
    gate: Gate,
}

impl Shared {
    fn next(&self, reading: &mut Forward) -> Option<Fetched> {
        let asking = Asking {
            source: &*self.source,
            clock: &*self.clock,
            patience: self.patience,
            gate: &self.gate,
        };
        asking.next(reading)
    }
}

impl Threads {
    /// Prepares readings; nothing is requested yet.
    pub fn new(
        source: impl Source + Send + Sync + 'static,
        clock: impl Clock + Send + Sync + 'static,
        patience: Patience,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                source: Box::new(source),
                clock: Box::new(clock),
                patience,
                gate: Gate::default(),
            }),
        }
    }
}

impl Readings for Threads {
    fn open(&self, from: Forward) -> Box<dyn Stream + '_> {
        Box::new(ThreadStream {
            shared: Arc::clone(&self.shared),
            from,
            worker: None,
        })
    }
}

/// A reading that gets a thread when it may read ahead. Until then the caller's thread requests the
/// pages: a run that finds nothing new needs no other.
struct ThreadStream {
    shared: Arc<Shared>,
    from: Forward,
    worker: Option<Worker>,
}

struct Worker {
    /// Each permits a number of pages. The thread ends when this is dropped.
    permits: Sender<u64>,
    /// The pages, and `None` behind the last.
    pages: Receiver<Option<Fetched>>,
    /// The number of pages that are permitted and not yet taken.
    permitted: u64,
}

impl Stream for ThreadStream {
    fn read_ahead(&mut self, pages: u64) {
        if self.worker.is_none() && self.from.more != More::No {
            self.worker = Worker::start(&self.shared, &self.from).ok();
        }
        if let Some(worker) = &mut self.worker {
            worker.permit(pages);
        }
    }

    fn next(&mut self) -> Option<Fetched> {
        let Some(worker) = &mut self.worker else {
            return self.shared.next(&mut self.from);
        };
        if worker.permitted == 0 {
            worker.permit(1);
        }
        worker.permitted -= 1;
        match worker.pages.recv() {
            Ok(fetched) => fetched,
            // A broken thread must not look like the end of the list.
            Err(_) => Some(Fetched {
                place: self.from.clone(),
                answer: Err(Error::Source(SourceError::Failed(
                    "the thread that was reading pages broke off".to_owned(),
                ))),
                retries: 0,
                took: Duration::ZERO,
            }),
        }
    }
}

impl Worker {
    fn start(shared: &Arc<Shared>, from: &Forward) -> std::io::Result<Self> {
        let (permits, permitted) = channel();
        let (send, pages) = channel();
        let (shared, mut reading) = (Arc::clone(shared), from.clone());
        thread::Builder::new()
            .name("reading".to_owned())
            .spawn(move || {
                'all: while let Ok(pages) = permitted.recv() {
                    for _ in 0..pages {
                        let fetched = shared.next(&mut reading);
                        // The walk dropped the reading, or the list has ended.
                        if fetched.is_none() | send.send(fetched).is_err() {
                            break 'all;
                        }
                    }
                }
            })?;
        Ok(Self {
            permits,
            pages,
            permitted: 0,
        })
    }

    fn permit(&mut self, pages: u64) {
        self.permitted += pages;
        // If the thread has ended, its last message says why.
        let _ = self.permits.send(pages);
    }
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;

    use super::*;
    use crate::clock::SystemClock;

    /// A list of some pages. It reports each request, and answers when the test permits.
    struct Pages {
        count: u64,
        asked: Sender<(u64, ThreadId)>,
        let_go: Mutex<Receiver<()>>,
    }

    impl Source for Pages {
        fn page(&self, request: &PageRequest, _: Duration) -> Result<Page, Failure<SourceError>> {
            let number = request.number;
            self.asked.send((number, thread::current().id())).unwrap();
            let let_go = self.let_go.lock().unwrap();
            let_go.recv().expect("let go by the test");
            Ok(Page {
                next: (number < self.count).then_some(number + 1),
                size: Some(1),
                ..Page::default()
            })
        }
    }

    type Bench = (Threads, Receiver<(u64, ThreadId)>, Sender<()>);

    fn threads(count: u64) -> Bench {
        let (asked, all_asked) = channel();
        let (go, let_go) = channel();
        let source = Pages {
            count,
            asked,
            let_go: Mutex::new(let_go),
        };
        let patience = Patience {
            timeout: Duration::from_secs(30),
            retries: 0,
            deadline: None,
        };
        (
            Threads::new(source, SystemClock::start(), patience),
            all_asked,
            go,
        )
    }

    fn from_the_first() -> Forward {
        Forward {
            since: None,
            number: 1,
            size: 1,
            effective: 1,
            more: More::Perhaps,
        }
    }

    /// All requests, once all threads have ended and dropped the list.
    fn all(asked: &Receiver<(u64, ThreadId)>) -> Vec<u64> {
        asked.iter().map(|(number, _)| number).collect()
    }

    fn next_number(stream: &mut dyn Stream) -> Option<u64> {
        stream.next().map(|fetched| fetched.place.number)
    }

    #[test]
    fn no_more_is_read_ahead_than_is_permitted() {
        let (threads, asked, go) = threads(9);
        (0..9).for_each(|_| go.send(()).unwrap());
        let mut stream = threads.open(from_the_first());
        stream.read_ahead(2);
        assert_eq!(next_number(&mut *stream), Some(1));
        stream.read_ahead(1);
        assert_eq!(next_number(&mut *stream), Some(2));
        assert_eq!(next_number(&mut *stream), Some(3));
        // A page that was not permitted is read when the test waits for it.
        assert_eq!(next_number(&mut *stream), Some(4));
        drop(stream);
        drop(threads);
        assert_eq!(all(&asked), [1, 2, 3, 4]);
    }

    #[test]
    fn only_what_reads_ahead_takes_a_thread() {
        let (threads, asked, go) = threads(2);
        (0..2).for_each(|_| go.send(()).unwrap());
        let mut stream = threads.open(from_the_first());
        assert_eq!(next_number(&mut *stream), Some(1));
        stream.read_ahead(1);
        assert_eq!(next_number(&mut *stream), Some(2));
        let (first, second) = (asked.recv().unwrap().1, asked.recv().unwrap().1);
        assert_eq!(first, thread::current().id());
        assert_ne!(second, first);
    }

    #[test]
    fn a_reading_ends_with_the_list() {
        let (threads, asked, go) = threads(2);
        (0..2).for_each(|_| go.send(()).unwrap());
        let mut stream = threads.open(from_the_first());
        stream.read_ahead(5);
        assert_eq!(next_number(&mut *stream), Some(1));
        assert_eq!(next_number(&mut *stream), Some(2));
        assert_eq!(next_number(&mut *stream), None);
        drop(stream);
        drop(threads);
        assert_eq!(all(&asked), [1, 2]);
    }

    #[test]
    fn a_reading_that_nobody_wants_any_more_ends() {
        let (threads, asked, go) = threads(9);
        let mut stream = threads.open(from_the_first());
        stream.read_ahead(5);
        let (in_the_middle, _) = asked.recv().unwrap();
        drop(stream);
        drop(threads);
        go.send(()).unwrap();
        drop(go);
        assert_eq!((in_the_middle, all(&asked)), (1, vec![]));
    }

    /// A broken thread does not look like the end of the list.
    #[test]
    fn a_thread_that_breaks_off_is_an_error() {
        let (threads, _asked, go) = threads(9);
        drop(go);
        let mut stream = threads.open(from_the_first());
        stream.read_ahead(5);
        let answer = stream.next().unwrap().answer;
        assert!(
            matches!(answer, Err(Error::Source(SourceError::Failed(fault))) if fault.contains("broke off"))
        );
    }

    #[test]
    fn a_page_says_whether_there_is_another() {
        let page = |next, events, size| Page {
            next,
            events: vec![event(); events],
            size,
            ..Page::default()
        };
        let follow = |page: &Page| {
            let mut forward = Forward {
                number: 3,
                size: 2,
                effective: 2,
                ..from_the_first()
            };
            forward.follow(page);
            (forward.more, forward.number, forward.effective)
        };
        let cases = [
            (page(Some(4), 2, None), (More::Announced, 4, 2)),
            // An unknown size is that of a page with a successor.
            (page(Some(4), 1, None), (More::Announced, 4, 1)),
            (page(Some(4), 0, None), (More::Announced, 4, 2)),
            (page(Some(4), 2, Some(5)), (More::Announced, 4, 5)),
            (page(None, 2, None), (More::Perhaps, 4, 2)),
            (page(None, 1, None), (More::No, 4, 2)),
            (page(None, 2, Some(5)), (More::No, 4, 5)),
            (page(Some(3), 1, None), (More::No, 4, 1)),
        ];
        for (page, expected) in cases {
            assert_eq!(follow(&page), expected, "{page:?}");
        }
    }

    fn event() -> crate::event::Event {
        let id = crate::event::EventId::new("a");
        let page = Arc::new("{}".into());
        crate::event::Event::new(&page, 0..2, id, OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn only_an_empty_page_within_the_list_is_a_hole() {
        let empty = |next, total_pages| Page {
            next,
            total_pages,
            ..Page::default()
        };
        assert!(is_hole(&empty(None, None), 3));
        assert!(is_hole(&empty(None, Some(3)), 3));
        assert!(is_hole(&empty(None, Some(0)), 3));
        assert!(!is_hole(&empty(None, Some(2)), 3));
        assert!(!is_hole(&empty(Some(4), None), 3));
        let events = vec![event()];
        assert!(!is_hole(
            &Page {
                events,
                ..Page::default()
            },
            3
        ));
    }
}
