//! The whole run against a model, in memory: random worlds, random faults, and after each program
//! the guarantee: complete, in order, never twice without a crash, and it always ends.
//!
//! A program is a service ([`world`]) and some runs; [`scheduler`] has what they run on, and
//! [`checks`] what has to hold.
//!
//! The real walk, delivery, checkpoint and retries run. The source, the target, the store and the
//! clock are the model's, and so is the scheduler: which of the requests that were made ahead is
//! answered next is a matter of chance, so that every interleaving can come up.
//!
//! What it leaves out is what no client could tell, and each place says why: counts that are too
//! small to prove anything, events that appear late, are stamped in the future or are removed by
//! retention while ties change their order, last pages that nobody announces while the list changes,
//! and, where the source lists by arrival, events that were late by more than the overlap and runs
//! with a time limit.
//!
//! `TFC_AUDIT_MODEL_PROGRAMS` asks for so many other programs; a failure prints the program, and
//! [`regressions`] keeps those that were worth keeping.

#![expect(
    clippy::unwrap_used,
    reason = "a model that breaks its own rules has to fail"
)]

mod checks;
mod scheduler;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config as Settings, RngAlgorithm, TestError, TestRng, TestRunner};

use checks::check;
use world::{Counts, Manners, Order, Percent, Since, Sizes};

const ENDPOINT: &str = "https://app.terraform.io";
/// The smallest overlap of any run, in seconds.
const SMALLEST_OVERLAP: i64 = 60;
/// The smallest page of any run.
const SMALLEST_PAGE: usize = 3;
/// No run asks more often than this: there are at most some hundred pages.
const MOST_REQUESTS: usize = 3000;

/// One run, and what happens before and during it.
#[derive(Clone, Debug)]
struct Run {
    /// Seconds since the last run.
    pause: i64,
    /// Events that arrived meanwhile: each so many seconds after the one before.
    arrived: Vec<i64>,
    /// So many events in one second, after so many of the arrived ones.
    crowd: Option<(usize, usize)>,
    percent: Percent,
    burst: usize,
    /// Late events are late by at most so many seconds.
    most_late: i64,
    page_size: u64,
    overlap: u64,
    connections: u64,
    batch: usize,
    max_time: Option<u64>,
    /// At which delivery the target fails.
    failing_delivery: Option<usize>,
    /// At which commit the disk is full.
    failing_commit: Option<usize>,
    /// At which request, delivery or commit (before or after it has its effect) the run is killed.
    kill: Option<(Place, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Request,
    BeforeDelivery,
    AfterDelivery,
    BeforeCommit,
    AfterCommit,
}

fn manners() -> impl Strategy<Value = Manners> {
    (
        (
            prop_oneof![2 => Just(Order::ByTime), 1 => Just(Order::Swapped), 1 => Just(Order::ByArrival)],
            any::<bool>(),
        ),
        prop_oneof![Just(Since::Inclusive), Just(Since::Exclusive), Just(Since::Ignored)],
        prop_oneof![
            7 => Just(Counts::True),
            1 => Just(Counts::Absent),
            1 => (1..30_u64).prop_map(Counts::Less),
            1 => (1..30_u64).prop_map(Counts::More),
            1 => (1..30_u64).prop_map(Counts::Lag),
            1 => Just(Counts::WithoutSince),
        ],
        prop_oneof![4 => Just(Sizes::Honoured), 1 => (3..8_u64).prop_map(Sizes::Clamped), 1 => (3..8_u64).prop_map(Sizes::Ignored)],
        (any::<bool>(), any::<bool>(), prop_oneof![3 => Just(0_i64), 1 => Just(5)]),
    )
        .prop_map(|((order, shuffles_ties), since, counts, sizes, (tells_size, denies_past_end, delay))| Manners {
            order,
            // Out of order and in another order each time, a page of a few events has no cut.
            shuffles_ties: shuffles_ties && order == Order::ByTime,
            since,
            counts,
            sizes,
            // A page that is not announced can be told to be missing only by the size of the last.
            tells_size: tells_size || matches!(counts, Counts::Lag(_)),
            denies_past_end,
            // Listed by arrival they stand where the late ones do.
            delay: if order == Order::ByArrival { 0 } else { delay },
        })
}

fn percent() -> impl Strategy<Value = Percent> {
    // Not more arrivals for a request than it can bring: a list that grows faster has no end.
    let seldom = || prop_oneof![3 => Just(0_u32), 1 => 1..30_u32];
    let rarely = || prop_oneof![3 => Just(0_u32), 1 => 1..4_u32];
    (
        seldom(),
        rarely(),
        seldom(),
        rarely(),
        seldom(),
        seldom(),
        seldom(),
    )
        .prop_map(
            |(arrival, burst, late, future, retention, empty, failure)| Percent {
                arrival,
                burst,
                late,
                future,
                retention,
                empty,
                failure,
            },
        )
}

fn run() -> impl Strategy<Value = Run> {
    let gap = prop_oneof![3 => Just(0_i64), 2 => 1..3_i64, 1 => 3..400_i64];
    let fault = || prop_oneof![4 => Just(None), 1 => (1..6_usize).prop_map(Some)];
    let place = prop_oneof![
        Just(Place::Request),
        Just(Place::BeforeDelivery),
        Just(Place::AfterDelivery),
        Just(Place::BeforeCommit),
        Just(Place::AfterCommit),
    ];
    (
        (
            0..7200_i64,
            proptest::collection::vec(gap, 0..150),
            prop_oneof![2 => Just(None), 1 => (0..100_usize, 2..60_usize).prop_map(Some)],
            percent(),
            2..30_usize,
            prop_oneof![3 => Just(SMALLEST_OVERLAP), 1 => Just(3000_i64)],
        ),
        (
            3..12_u64,
            prop_oneof![
                Just(SMALLEST_OVERLAP.unsigned_abs()),
                Just(600),
                Just(86_400)
            ],
            prop_oneof![1 => Just(1_u64), 3 => 2..6_u64, 1 => Just(16)],
            prop_oneof![3 => 1..40_usize, 1 => Just(usize::MAX)],
            prop_oneof![4 => Just(None), 1 => (2..20_u64).prop_map(Some)],
        ),
        (
            fault(),
            fault(),
            prop_oneof![2 => Just(None), 1 => (place, 1..20_usize).prop_map(Some)],
        ),
    )
        .prop_map(
            |(
                (pause, arrived, crowd, percent, burst, most_late),
                (page_size, overlap, connections, batch, max_time),
                (failing_delivery, failing_commit, kill),
            )| Run {
                pause,
                arrived,
                crowd,
                percent,
                burst,
                most_late,
                page_size,
                overlap,
                connections,
                batch,
                max_time,
                failing_delivery,
                failing_commit,
                kill,
            },
        )
}

#[test]
fn every_event_is_delivered_once_and_in_order_in_random_worlds() {
    let asked = std::env::var("TFC_AUDIT_MODEL_PROGRAMS")
        .ok()
        .and_then(|text| text.parse().ok());
    let settings = Settings {
        cases: asked.unwrap_or(320),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Settings::default()
    };
    // The same programs each time, unless more were asked for.
    let mut runner = match asked {
        Some(_) => TestRunner::new(settings),
        None => {
            TestRunner::new_with_rng(settings, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        }
    };
    let programs = (
        manners(),
        proptest::collection::vec(run(), 1..6),
        any::<u64>(),
    );
    let result = runner.run(&programs, |(manners, runs, seed)| {
        check(&manners, &runs, seed).map_err(TestCaseError::fail)
    });
    match result {
        Err(TestError::Fail(reason, program)) => panic!("{reason}\n{program:?}"),
        Err(failure) => panic!("{failure}"),
        Ok(()) => {}
    }
}

/// Programs that failed once. They lead there only as long as the model rolls its dice in the same
/// places: who changes it has to see them fail again, with what they were for taken out.
mod regressions {
    use super::*;

    /// A run in which nothing happens.
    fn uneventful() -> Run {
        Run {
            pause: 0,
            arrived: Vec::new(),
            crowd: None,
            percent: Percent::default(),
            burst: 2,
            most_late: SMALLEST_OVERLAP,
            page_size: 3,
            overlap: SMALLEST_OVERLAP.unsigned_abs(),
            connections: 1,
            batch: 1,
            max_time: None,
            failing_delivery: None,
            failing_commit: None,
            kill: None,
        }
    }

    /// A service whose ties change their order, and that lists an event so many seconds after its time.
    fn shuffling(delay: i64) -> Manners {
        Manners {
            order: Order::ByTime,
            shuffles_ties: true,
            since: Since::Inclusive,
            counts: Counts::True,
            sizes: Sizes::Honoured,
            tells_size: false,
            denies_past_end: false,
            delay,
        }
    }

    /// Reads `3*0 1` as `0 0 0 1`.
    fn gaps(text: &str) -> Vec<i64> {
        let run = |word: &str| {
            let (times, gap) = word.split_once('*').unwrap_or(("1", word));
            std::iter::repeat_n(gap.parse().unwrap(), times.parse().unwrap())
        };
        text.split(' ').flat_map(run).collect()
    }

    /// The events of a burst were older than the answers before it, since they appeared a little
    /// after their time: they stood in for what was missed.
    #[test]
    fn late_arrivals_do_not_hide_missed_events() {
        let runs = [Run {
            pause: 72,
            arrived: gaps("20*0 1 20*0 1 20*0 1 300 0 2 0 142 53 2"),
            percent: Percent {
                burst: 2,
                ..Percent::default()
            },
            burst: 14,
            page_size: 4,
            ..uneventful()
        }];
        check(&shuffling(5), &runs, 71_271).unwrap();
    }

    /// Two bursts pushed newer events onto a window's further pages. A crowd that was split there was
    /// neither counted nor read whole, and yet linked page 1.
    #[test]
    fn what_arrivals_push_before_a_window_links_nothing() {
        let runs = [Run {
            pause: 111,
            arrived: gaps(
                "4*0 1 2*0 2*1 4*0 1 6*0 1 9*0 4*1 6*0 1 0 3*1 0 2*1 3*0 2*1 2*0 1 3*0 2*1 0 \
                 2*1 11*0 1 4*0 2*1 0 1 0 2*1 9*0 4*1 0 7*1 9*0 1 8*0 5*1 5*0 146 1 343 0",
            ),
            percent: Percent {
                burst: 2,
                empty: 22,
                ..Percent::default()
            },
            burst: 19,
            page_size: 7,
            connections: 3,
            ..uneventful()
        }];
        check(&shuffling(0), &runs, 8_714_546_129_631_344_112).unwrap();
    }
}
