//! What the program runs on: pages whose next answer is a matter of chance, a clock, a target
//! and a disk; and the kill.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use ::time::UtcDateTime;
use tfc_audit::checkpoint::Checkpoint;
use tfc_audit::checkpoint::file::{Commits, Store};
use tfc_audit::clock::Clock;
use tfc_audit::config::Config;
use tfc_audit::delivery::{Delivery, Figures, Learnt, Target};
use tfc_audit::error::{Error, Exit};
use tfc_audit::event::Event;
use tfc_audit::format::verdict::{Rest, Verdict};
use tfc_audit::format::{Encoder, Format, Limits};
use tfc_audit::report::Report;
use tfc_audit::run::Drain;
use tfc_audit::source::gate::Gate;
use tfc_audit::source::requests::{Ask, Asking, Fetched, Pages, Pending};

use super::world::{Dice, ModelSource, World, number};
use super::{ENDPOINT, Place, Run};
use crate::support::configure;

/// The model's time starts here, in seconds.
pub const START: i64 = 1_800_000_000;

/// Thrown through the program, which then does nothing more.
pub struct Killed;

/// Counts interactions and kills at the one that was asked for.
#[derive(Default)]
pub struct Executioner {
    pub at: Option<(Place, usize)>,
    pub met: Cell<usize>,
}

impl Executioner {
    pub fn at(&self, place: Place) {
        if let Some((_, k)) = self.at.filter(|at| at.0 == place) {
            self.met.set(self.met.get() + 1);
            if self.met.get() == k {
                resume_unwind(Box::new(Killed));
            }
        }
    }
}

/// Pages whose threads are the model's: which request is answered next is a matter of chance.
pub struct ModelPages<'a> {
    pub asking: Asking<ModelSource<'a>, &'a ModelClock>,
    pub dice: RefCell<Dice>,
    pub begun: RefCell<Vec<Rc<Begun>>>,
}

/// A request on a thread, and its answer once there is one.
pub struct Begun {
    pub ask: Ask,
    pub fetched: RefCell<Option<Fetched>>,
}

impl ModelPages<'_> {
    /// Any of the requests that have begun is answered, if there is one.
    pub fn answer_any(&self) {
        let next = {
            let mut begun = self.begun.borrow_mut();
            let count = begun.len() as u64;
            let chosen = self.dice.borrow_mut().roll(count);
            (count > 0).then(|| begun.swap_remove(usize::try_from(chosen).unwrap()))
        };
        if let Some(next) = next {
            let fetched = self.asking.get(next.ask);
            *next.fetched.borrow_mut() = Some(fetched);
        }
    }

    /// So much time goes by for the requests, while something else is done.
    pub fn answer_some(&self) {
        let answers = self.dice.borrow_mut().roll(4);
        (0..answers).for_each(|_| self.answer_any());
    }
}

impl Pages for ModelPages<'_> {
    fn get(&self, ask: Ask) -> Fetched {
        self.answer_some();
        self.asking.get(ask)
    }

    fn begin(&self, ask: Ask) -> Box<dyn Pending + '_> {
        let begun = Rc::new(Begun {
            ask,
            fetched: RefCell::default(),
        });
        self.begun.borrow_mut().push(Rc::clone(&begun));
        Box::new(ModelPending { pages: self, begun })
    }
}

pub struct ModelPending<'a> {
    pub pages: &'a ModelPages<'a>,
    pub begun: Rc<Begun>,
}

impl Pending for ModelPending<'_> {
    fn is_ready(&self) -> bool {
        self.pages.answer_some();
        self.begun.fetched.borrow().is_some()
    }

    fn wait(self: Box<Self>) -> Fetched {
        self.pages.answer_some();
        loop {
            if let Some(fetched) = self.begun.fetched.borrow_mut().take() {
                return fetched;
            }
            self.pages.answer_any();
        }
    }
}

/// Time passes only when somebody waits for it.
pub struct ModelClock(pub Cell<Duration>);

impl ModelClock {
    pub fn seconds(&self) -> i64 {
        START + i64::try_from(self.0.get().as_secs()).unwrap()
    }
}

impl Clock for &ModelClock {
    fn now(&self) -> UtcDateTime {
        UtcDateTime::from_unix_timestamp(self.seconds()).unwrap()
    }
    fn elapsed(&self) -> Duration {
        self.0.get()
    }
    fn sleep(&self, span: Duration) {
        self.0.set(self.0.get() + span);
    }
    fn chance(&self) -> f64 {
        0.5
    }
}

/// What arrived, in its order, and how much of it is in the checkpoint.
#[derive(Default)]
pub struct Arrived {
    pub events: Vec<(i64, u64)>,
    pub committed: usize,
}

pub struct ModelTarget<'a> {
    pub clock: &'a ModelClock,
    pub arrived: &'a RefCell<Arrived>,
    pub executioner: &'a Executioner,
    pub calls: usize,
    pub fails_at: Option<usize>,
}

impl Target for ModelTarget<'_> {
    fn send(&mut self, events: &[Event], _: &[u8], _: Duration) -> Result<Verdict, Error> {
        self.executioner.at(Place::BeforeDelivery);
        self.clock.sleep(Duration::from_millis(100));
        self.calls += 1;
        if self.fails_at == Some(self.calls) {
            return Ok(Verdict::new(Rest::Failed, "down".to_owned()));
        }
        self.arrived.borrow_mut().events.extend(
            events
                .iter()
                .map(|event| (event.time.unix_timestamp(), number(&event.id.to_string()))),
        );
        self.executioner.at(Place::AfterDelivery);
        Ok(Verdict::accepted())
    }
}

/// A disk that holds one checkpoint.
pub struct ModelStore<'a> {
    pub disk: &'a RefCell<Option<Vec<u8>>>,
    pub arrived: &'a RefCell<Arrived>,
    pub executioner: &'a Executioner,
    pub calls: usize,
    pub fails_at: Option<usize>,
}

impl Store for ModelStore<'_> {
    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<u64, String> {
        self.executioner.at(Place::BeforeCommit);
        self.calls += 1;
        if self.fails_at == Some(self.calls) {
            return Err("no space".to_owned());
        }
        let json = checkpoint.to_json();
        let size = json.len() as u64;
        *self.disk.borrow_mut() = Some(json);
        let mut arrived = self.arrived.borrow_mut();
        arrived.committed = arrived.events.len();
        drop(arrived);
        self.executioner.at(Place::AfterCommit);
        Ok(size)
    }
}

/// Drives the program through a run; `None` if it was killed.
pub fn drive(
    run: &Run,
    world: &RefCell<World>,
    clock: &ModelClock,
    disk: &RefCell<Option<Vec<u8>>>,
    arrived: &RefCell<Arrived>,
    warn: &mut dyn FnMut(&str),
) -> Result<Option<Result<Exit, Error>>, String> {
    let deadline = run
        .max_time
        .map(|span| (&clock).elapsed() + Duration::from_secs(span));
    let mut config = Config {
        overlap: Duration::from_secs(run.overlap),
        page_size: run.page_size,
        connections: run.connections,
        ..configure([])?.expect("a run")
    };
    config.patience.deadline = deadline;
    let patience = config.patience;
    let executioner = Executioner {
        at: run.kill,
        ..Executioner::default()
    };
    let mut checkpoint = match &*disk.borrow() {
        Some(json) => Checkpoint::parse(json, ENDPOINT)?,
        None => Checkpoint::new(ENDPOINT.to_owned()),
    };
    let mut report = Report::default();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let source = ModelSource {
            world,
            clock,
            executioner: &executioner,
            gate: Gate::default(),
        };
        let pages = ModelPages {
            asking: Asking {
                source,
                clock,
                patience,
            },
            dice: RefCell::new(Dice(world.borrow_mut().dice.roll(u64::MAX) | 1)),
            begun: RefCell::default(),
        };
        let mut target = ModelTarget {
            clock,
            arrived,
            executioner: &executioner,
            calls: 0,
            fails_at: run.failing_delivery,
        };
        let mut store = ModelStore {
            disk,
            arrived,
            executioner: &executioner,
            calls: 0,
            fails_at: run.failing_commit,
        };
        let limits = Limits {
            events: run.batch,
            bytes: usize::MAX,
        };
        let drain = Drain {
            config: &config,
            pages: &pages,
            delivery: Delivery {
                target: &mut target,
                encoder: Encoder::new(Format::Ndjson, false, &[]),
                clock: &clock,
                patience,
                limits,
                dead_letters: None,
                is_proven: false,
                figures: Figures::default(),
                learnt: Learnt::default(),
            },
            checkpoint: &mut checkpoint,
            commits: Commits::new(&mut store),
            notice: None,
            report: &mut report,
            watch: &|_| {},
            warn,
        };
        drain.run()
    }));
    match result {
        Ok(Ok(Exit::Success))
            if (report.waiting(), report.walk.found) != (Some(0), report.delivered) =>
        {
            Err(format!("events wait after the end: {report:?}"))
        }
        Ok(result) => Ok(Some(result)),
        Err(thrown) if thrown.is::<Killed>() => Ok(None),
        Err(panic) => resume_unwind(panic),
    }
}
