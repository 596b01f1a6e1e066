//! `--check`: everything that a run needs, tried one after the other, each with a line that says how
//! it is. Nothing is delivered, and nothing is changed.
//!
//! A line begins with one of four words: `ok`; `warn`, for what a run would go on with; `FAIL`, for
//! what would end it; `skip`, for what these options do not use or what cannot be tried after a
//! failure. Then comes the name of the step, which does not change, and a colon. The exit code is
//! that of the first failure: the one that a run would end with, except that of an empty list a run
//! only warns.
//!
//! Each request is made once: somebody is waiting for the result.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ::time::OffsetDateTime;

use crate::checkpoint::{Checkpoint, file};
use crate::clock::Clock;
use crate::config::values::{CheckpointPlace, TokenSource};
use crate::config::{Config, Destination, Post};
use crate::delivery::Target;
use crate::delivery::post::Receiver;
use crate::error::{Error, Exit};
use crate::event::Event;
use crate::format::{FORMATS, Verdict};
use crate::fs;
use crate::report::metrics;
use crate::retry::is_passing;
use crate::run::{CERTAINLY_RETAINED, RETENTION, read_token, refuse_other_organization};
use crate::secret::Secret;
use crate::source::client::Client;
use crate::source::page::Page;
use crate::source::{PageRequest, Source};
use crate::text::{excerpt, one_line, span};
use crate::time;

/// By how much the clocks may differ: by the overlap, within these bounds. The boundary goes by the
/// server's clock; only where an answer has no `Date` it goes by ours, and a late event then needs
/// the overlap as it is. Times such as `--since 1h` and those of the metrics are off by as much.
const CLOCKS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// How a step went.
enum Finding {
    Fine(String),
    /// A run would go on with this.
    Warn(String),
    /// A run would end with this.
    Fail(Exit, String),
    /// There was nothing to try, or it could not be tried.
    Skip(String),
}

use Finding::{Fail, Fine, Skip, Warn};

fn skip(why: &str) -> Finding {
    Skip(why.to_owned())
}

impl From<Error> for Finding {
    fn from(error: Error) -> Self {
        Fail(error.exit(), error.to_string())
    }
}

/// The steps so far.
struct Steps<'a> {
    out: &'a mut dyn Write,
    /// The first failure.
    exit: Exit,
}

impl Steps<'_> {
    /// Writes a step's line.
    fn tell(&mut self, step: &str, finding: Finding) -> Result<(), Error> {
        let (word, text) = match finding {
            Fine(text) => ("ok", text),
            Warn(text) => ("warn", text),
            Skip(text) => ("skip", text),
            Fail(exit, text) => {
                if self.exit == Exit::Success {
                    self.exit = exit;
                }
                ("FAIL", text)
            }
        };
        let line = one_line(&format!("{word:<5} {step}: {text}"));
        writeln!(self.out, "{line}").map_err(Error::of_stdout)
    }
}

/// Tries everything, and writes a line about each step to `out`. Of a configuration that is wrong
/// nothing else can be told. Gives the exit code.
///
/// # Errors
/// If `out` cannot be written.
pub fn check(
    config: Result<Config, Error>,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    let mut steps = Steps {
        out,
        exit: Exit::Success,
    };
    match config {
        Ok(config) => try_all(&config, clock, &mut steps)?,
        Err(error) => steps.tell("configuration", error.into())?,
    }
    Ok(steps.exit)
}

fn try_all(config: &Config, clock: &dyn Clock, steps: &mut Steps) -> Result<(), Error> {
    steps.tell("configuration", configuration(config))?;
    let endpoint = config.endpoint.to_string();
    let place = config.checkpoint.as_ref();
    let checkpoint = place.map(|place| file::read(place, &endpoint));
    let known = match &checkpoint {
        Some(Ok(Some(checkpoint))) => checkpoint.last_timestamp,
        _ => None,
    };
    let listed = source(config, known, clock, steps)?;
    if let (Some(place), Some(checkpoint)) = (place, checkpoint) {
        let finding = trust(place, checkpoint, listed.as_ref(), clock);
        steps.tell("checkpoint", finding)?;
        steps.tell("directory", directory(place))?;
        steps.tell("lock", lock(place))?;
    } else {
        steps.tell("checkpoint", skip("none, by --no-checkpoint"))?;
    }
    steps.tell("receiver", receiver(config))?;
    if let Destination::Post(post) = &config.destination
        && let Some(path) = &post.dead_letter
    {
        steps.tell("dead letters", dead_letters(path))?;
    }
    if let Some(path) = &config.metrics {
        steps.tell("metrics", metrics_file(path))?;
    }
    Ok(())
}

/// The steps with the token: what the source answers, if it does. `known` is the newest event's time
/// that an earlier run delivered.
fn source(
    config: &Config,
    known: Option<OffsetDateTime>,
    clock: &dyn Clock,
    steps: &mut Steps,
) -> Result<Option<Listed>, Error> {
    let listed = match read_token(&config.token) {
        Err(error) => {
            steps.tell("token", error.into())?;
            Err(skip("there is no token to ask with"))
        }
        Ok(token) => {
            steps.tell("token", token_place(config))?;
            Listed::ask(config, &token, clock)
        }
    };
    match listed {
        Ok(listed) => {
            let organization = listed.first.iter().find_map(Event::organization);
            let of_whom = match excerpt(organization.unwrap_or_default().as_bytes()) {
                nobody if nobody.is_empty() => nobody,
                somebody => format!(", which is that of {somebody}"),
            };
            let text = format!("{} takes the token{of_whom}", config.endpoint);
            steps.tell("source", Fine(text))?;
            steps.tell("events", listed.events(config, known))?;
            steps.tell("clock", listed.clock(config))?;
            Ok(Some(listed))
        }
        Err(finding) => {
            steps.tell("source", finding)?;
            steps.tell("events", skip("the source told nothing"))?;
            steps.tell("clock", skip("the source told nothing"))?;
            Ok(None)
        }
    }
}

/// What was meant.
fn configuration(config: &Config) -> Finding {
    let destination = match &config.destination {
        Destination::Stdout => "standard output".to_owned(),
        Destination::Exec(_) => "a program".to_owned(),
        Destination::Post(post) => {
            let name = FORMATS.iter().find(|known| known.1 == post.format);
            let name = name.map_or("", |known| known.0);
            format!("{} as {name}", post.url.origin())
        }
    };
    Fine(format!("from {} to {destination}", config.endpoint))
}

/// Where the token is, and who else can get at it.
fn token_place(config: &Config) -> Finding {
    match &config.token {
        TokenSource::Environment(_) => Fine("in $TFC_ORG_TOKEN".to_owned()),
        TokenSource::Stdin => Fine("from standard input".to_owned()),
        TokenSource::File(path) => {
            fs::exposure(path).map_or_else(|| Fine(format!("in {}", path.display())), Warn)
        }
    }
}

/// How long a request may take.
fn timeout(config: &Config) -> Duration {
    config.timeout.min(config.max_time.unwrap_or(Duration::MAX))
}

/// What the source lists when it is asked for everything retained.
struct Listed {
    /// `None` if it does not say.
    count: Option<u64>,
    /// `None` if there is no event.
    newest: Option<OffsetDateTime>,
    /// `None` if there is no event, or the last page could not be had.
    oldest: Option<OffsetDateTime>,
    /// The first page's.
    first: Vec<Event>,
    /// The server's clock when it first answered.
    date: Option<OffsetDateTime>,
    /// Ours at that time.
    now: OffsetDateTime,
}

impl Listed {
    /// Asks for the first page, as a first run does, and for the last one.
    fn ask(config: &Config, token: &Secret, clock: &dyn Clock) -> Result<Self, Finding> {
        let client = Client::new(
            &config.endpoint,
            config.proxy.as_ref(),
            token,
            timeout(config),
        );
        let page = |number| {
            let request = PageRequest {
                since: None,
                number,
                size: config.page_size,
            };
            client.page(&request, timeout(config))
        };
        let first = page(1).map_err(|failure| Error::Source(failure.error))?;
        let now = clock.now();
        let length = first.events.len() as u64;
        let is_all = first.next.is_none();
        let counted = first
            .total_count
            .map(|count| count.div_ceil(first.size.unwrap_or(length).max(1)));
        let last: Option<Page> = first
            .total_pages
            .or(counted)
            .filter(|&number| !is_all && number > 1)
            .and_then(|number| page(number).ok())
            .filter(|last| !last.events.is_empty());
        // Whatever order they are in.
        let times = || {
            let pages = [Some(&first), last.as_ref()].into_iter().flatten();
            pages.flat_map(|page| page.events.iter().map(|event| event.time))
        };
        Ok(Self {
            count: first.total_count.or(is_all.then_some(length)),
            newest: times().max(),
            oldest: times().min().filter(|_| is_all || last.is_some()),
            date: first.date,
            first: first.events,
            now,
        })
    }

    /// How many events there are, and how old. That there is none is the only sign of a token of
    /// the wrong kind.
    fn events(&self, config: &Config, known: Option<OffsetDateTime>) -> Finding {
        const KINDS: &str = "a user or team token is answered like that, too: it takes an organization token or an audit-trail token, and an organization with audit trails";
        let now = self.date.unwrap_or(self.now);
        let age = |time| format!("{} old", span_between(time, now));
        match (self.newest, self.oldest) {
            (Some(newest), oldest) => Fine(format!(
                "{} listed, the newest {}, the oldest {}",
                self.count
                    .map_or("an unknown number".to_owned(), |count| count.to_string()),
                age(newest),
                oldest.map_or("of unknown age".to_owned(), age),
            )),
            (None, _) if known.is_some_and(|last| last > time::before(now, CERTAINLY_RETAINED)) => {
                Warn(format!(
                    "none is listed, although some were before; {KINDS}"
                ))
            }
            (None, _) if known.is_some() => Warn("none is listed in 14 days".to_owned()),
            (None, _) if config.since.is_some() => Warn(format!("none is listed; {KINDS}")),
            (None, _) => Fail(
                Exit::TokenRefused,
                format!(
                    "none is listed; {KINDS} (if it is so new that nothing has happened in it, --since 1h makes this a warning)"
                ),
            ),
        }
    }

    fn clock(&self, config: &Config) -> Finding {
        let Some(date) = self.date else {
            return skip("the source's answer has no Date");
        };
        let difference = Duration::try_from((self.now - date).abs()).unwrap_or_default();
        let direction = if self.now < date {
            "behind"
        } else {
            "ahead of"
        };
        let text = format!("{} {direction} the source's", span(difference));
        if difference > config.overlap.clamp(CLOCKS.0, CLOCKS.1) {
            Warn(format!(
                "{text}; set it (NTP): spans such as --since 1h and the times of --metrics are off by as much"
            ))
        } else {
            Fine(text)
        }
    }
}

/// How long after a time another one is; nothing if it is before.
fn span_between(from: OffsetDateTime, to: OffsetDateTime) -> String {
    span(Duration::try_from(to - from).unwrap_or_default())
}

/// Whether the checkpoint can be trusted, and how far it is.
fn trust(
    place: &CheckpointPlace,
    checkpoint: Result<Option<Checkpoint>, Error>,
    listed: Option<&Listed>,
    clock: &dyn Clock,
) -> Finding {
    let path = place.path.display();
    let checkpoint = match checkpoint {
        Ok(Some(checkpoint)) => checkpoint,
        Ok(None) => return Fine(format!("none yet at {path}; the first run makes it")),
        Err(error) => return error.into(),
    };
    let now = clock.now();
    if let Some(listed) = listed
        && let Err(error) = refuse_other_organization(&listed.first, &checkpoint)
    {
        return error.into();
    }
    let completed = checkpoint.completed_at.map_or(
        "no run has delivered everything yet".to_owned(),
        |completed| {
            format!(
                "a run last delivered everything {} ago",
                span_between(completed, now)
            )
        },
    );
    let behind = match (
        checkpoint.last_timestamp,
        listed.and_then(|listed| listed.newest),
    ) {
        (None, _) => ", and no event was delivered".to_owned(),
        (Some(_), None) => String::new(),
        (Some(last), Some(newest)) if last >= newest => {
            ", and the newest event listed is delivered".to_owned()
        }
        (Some(last), Some(newest)) => format!(
            ", and the newest event delivered is {} older than the newest listed",
            span_between(last, newest)
        ),
    };
    let text = format!("{path}: {completed}{behind}");
    if checkpoint
        .completed_at
        .is_some_and(|completed| completed < time::before(now, RETENTION))
    {
        Warn(format!(
            "{text}; events are kept for 14 days, so that some may be gone"
        ))
    } else {
        Fine(text)
    }
}

/// Whether commits are possible. What a run would make, missing directories, is not made: then it is
/// the nearest directory above them that has to take something.
fn directory(place: &CheckpointPlace) -> Finding {
    let mut path = place.path.as_path();
    while place.create_parents
        && let Some(parent) = path.parent()
        && !parent.exists()
    {
        path = parent;
    }
    let shown = fs::directory(path).display();
    match fs::try_beside(path) {
        Ok(()) if path != place.path => {
            Fine(format!("a run can make {} in {shown}", path.display()))
        }
        Ok(()) => Fine(format!("{shown} can be written")),
        Err(error) => Fail(
            Exit::CheckpointUnusable,
            format!(
                "{shown} cannot be written: {error}; {}name another checkpoint with --checkpoint",
                fs::remedy(&error)
            ),
        ),
    }
}

fn lock(place: &CheckpointPlace) -> Finding {
    match file::is_unlocked(place) {
        Ok(()) => Fine("free".to_owned()),
        Err(error) => error.into(),
    }
}

/// Whether a file that refused events are appended to can be, or can be made.
fn dead_letters(path: &Path) -> Finding {
    let result = match fs::open_to_append(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => fs::try_beside(path),
        result => result.map(drop),
    };
    match result {
        Ok(()) => Fine(format!("{} can be written", path.display())),
        Err(error) => Fail(
            Exit::Usage,
            format!(
                "--dead-letter: cannot write {}: {error}; name another file",
                path.display()
            ),
        ),
    }
}

/// Whether the metrics can be replaced. A run that cannot only warns.
fn metrics_file(path: &Path) -> Finding {
    match metrics::read(path).and_then(|_| fs::try_beside(path)) {
        Ok(()) => Fine(format!("{} can be written", path.display())),
        Err(error) => Warn(format!("cannot write {}: {error}", path.display())),
    }
}

/// Whether something is there that events can be given to.
fn receiver(config: &Config) -> Finding {
    match &config.destination {
        Destination::Stdout => skip("events go to standard output"),
        Destination::Exec(command) => program(command),
        Destination::Post(post) => match Receiver::new(post, config.normalize, timeout(config)) {
            Ok(receiver) => match post.format.health(post.url.path()) {
                Some(path) => product(receiver, post, &path, timeout(config)),
                None => address(&receiver, post, timeout(config)),
            },
            Err(error) => error.into(),
        },
    }
}

/// Whether there is a shell, and whether it can read the command. Nothing of it is run.
fn program(command: &str) -> Finding {
    let output = Command::new("sh")
        .args(["-n", "-c", command])
        .env_remove("TFC_ORG_TOKEN")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Fine("sh can read the command; it was not run".to_owned())
        }
        Ok(output) => Fail(
            Exit::ReceiverFailed,
            format!(
                "--exec: sh cannot read the command: {}",
                excerpt(&output.stderr)
            ),
        ),
        Err(error) => Fail(
            Exit::ReceiverFailed,
            format!("--exec: cannot start sh: {error}"),
        ),
    }
}

/// A product that says how it is, and that takes a body without events for what it is, after it has
/// looked at the credential: Splunk's collector answers with its code 5, Elasticsearch and Loki with
/// 400 or 422.
fn product(mut receiver: Receiver, post: &Post, path: &str, timeout: Duration) -> Finding {
    let failed = |message| Fail(Exit::ReceiverFailed, message);
    let (status, said) = match receiver.ask(Some(path), timeout) {
        Ok(answer) => answer,
        Err(message) => return failed(message),
    };
    let origin = post.url.origin();
    if is_passing(status) {
        return failed(format!("{origin}: answered {status} to GET {path}: {said}"));
    }
    let said = match receiver.send(&[], &[], timeout) {
        Ok(Verdict::Failed { message, .. }) => return failed(message),
        Ok(Verdict::Refused(message)) => {
            return Fail(Exit::EventsRefused, message);
        }
        Ok(Verdict::RefusedEvents(said) | Verdict::TooLarge(said)) => said,
        Ok(Verdict::Accepted | Verdict::Each(_)) => format!("{origin}: accepted"),
        Err(error) => return error.into(),
    };
    let text = format!("{said}, as it should without events; to GET {path} it answered {status}");
    if (200..300).contains(&status) {
        Fine(text)
    } else {
        Warn(format!(
            "{text}, which need not matter: some let nobody do more there than write"
        ))
    }
}

/// An address of which no more is known than that it takes POST. A POST without events could make an
/// event of itself there.
fn address(receiver: &Receiver, post: &Post, timeout: Duration) -> Finding {
    let failed = |message| Fail(Exit::ReceiverFailed, message);
    let (status, said) = match receiver.ask(None, timeout) {
        Ok(answer) => answer,
        Err(message) => return failed(message),
    };
    let answered = format!("{} answered {status} to OPTIONS", post.url.origin());
    match status {
        401 | 403 | 407 => Warn(format!(
            "{answered}: {said}; either it does not take the credential (--header), or it does only for POST"
        )),
        300..=399 | 404 | 410 => Warn(format!(
            "{answered}; is the path right? Redirects are not followed"
        )),
        _ if is_passing(status) => failed(format!("{answered}: {said}")),
        _ => Fine(format!(
            "{answered}; whether it takes the credential and the events only a delivery can show"
        )),
    }
}
