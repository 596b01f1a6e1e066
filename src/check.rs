//! `--check`: tries everything that a run needs, and writes a line about each step.
//!
//! Nothing is delivered and nothing is changed. Each line begins with one of four words:
//!
//! - `ok`: this was tried, and a run can use it.
//! - `warn`: a run would go on, but somebody should know.
//! - `FAIL`: a run would end here. The line says what to do.
//! - `skip`: the options do not use this, or an earlier failure leaves nothing to try.
//!
//! The name of the step and a colon follow. Names and their order never change. The exit code is
//! that of the first failure, which is the code that a run would end with. Each request is made once,
//! since somebody waits for the result.

use std::io::{ErrorKind, Write};
use std::process::Command;
use std::time::Duration;

use crate::checkpoint::{Checkpoint, file};
use crate::clock::Clock;
use crate::config::values::{CheckpointPlace, Header, TokenSource};
use crate::config::{Config, Destination};
use crate::delivery::Target;
use crate::delivery::exec;
use crate::delivery::post::Receiver;
use crate::error::{Error, Exit};
use crate::event::Event;
use crate::format::verdict::{Rest, Verdict};
use crate::format::{Format, loki};
use crate::fs;
use crate::report::metrics;
use crate::retry::is_retryable;
use crate::run::{CERTAINLY_RETAINED, RETENTION, read_token, refuse_other_organization};
use crate::secret::Secret;
use crate::source::client::Client;
use crate::source::page::Page;
use crate::source::{Answer, PageRequest, Source};
use crate::text::{age, excerpt, one_line, span};
use crate::time;

/// Tries one thing that a run needs, and leaves it as it is.
type Step = fn(&mut Check) -> Finding;

/// The steps that a valid configuration allows, in their order.
const STEPS: [(&str, Step); 10] = [
    ("token", token),
    ("service", service),
    ("events", events),
    ("clock", clock),
    ("checkpoint", checkpoint),
    ("directory", directory),
    ("lock", lock),
    ("receiver", receiver),
    ("dead letters", dead_letters),
    ("metrics", metrics_file),
];

/// How far this machine's clock may be from the service's. Beyond it, `--since 1h` and the times of
/// `--metrics` mislead.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The text of an `ok` line, or a line with another word.
type Finding = Result<String, Flaw>;

/// A step that is not `ok`.
enum Flaw {
    Warn(String),
    Fail(Exit, String),
    Skip(&'static str),
}

use Flaw::{Fail, Skip, Warn};

impl From<Error> for Flaw {
    fn from(error: Error) -> Self {
        Fail(error.exit(), error.to_string())
    }
}

/// Tries everything, and writes a line about each step to `out`. A wrong configuration is the only
/// line. Returns the exit code.
///
/// # Errors
/// If `out` cannot be written.
pub fn check(
    config: Result<Config, Error>,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Exit, Error> {
    // The exit code of the first failure.
    let mut exit = None;
    let mut write = |name: &str, finding: Finding| {
        let (word, text) = match finding {
            Ok(text) => ("ok", text),
            Err(Warn(text)) => ("warn", text),
            Err(Skip(text)) => ("skip", text.to_owned()),
            Err(Fail(code, text)) => {
                exit.get_or_insert(code);
                ("FAIL", text)
            }
        };
        let line = one_line(&format!("{word:<5} {name}: {text}"));
        writeln!(out, "{line}").map_err(Error::of_stdout)
    };
    match config {
        Err(error) => write("configuration", Err(error.into()))?,
        Ok(config) => {
            write("configuration", configuration(&config))?;
            let mut check = Check {
                config: &config,
                clock,
                token: None,
                page: None,
            };
            for (name, step) in STEPS {
                write(name, step(&mut check))?;
            }
        }
    }
    Ok(exit.unwrap_or(Exit::Success))
}

/// Warns of files with headers that others can read or write.
fn configuration(config: &Config) -> Finding {
    let headers = match &config.destination {
        Destination::Post(post) => &post.headers[..],
        _ => &[],
    };
    let mut files = headers.iter().filter_map(|header| match header {
        Header::File(path) => Some(path),
        Header::Given(..) => None,
    });
    match files.find_map(|path| fs::exposure(path)) {
        Some(fault) => Err(Warn(format!("--header: {fault}"))),
        None => Ok("arguments and environment are valid".to_owned()),
    }
}

/// The options, and the results of steps that later ones need.
struct Check<'a> {
    config: &'a Config,
    clock: &'a dyn Clock,
    token: Option<Secret>,
    /// The first page of everything retained, which holds the newest events.
    page: Option<Page>,
}

impl Check<'_> {
    fn place(&self) -> Result<&CheckpointPlace, Flaw> {
        let place = self.config.checkpoint.as_ref();
        place.ok_or(Skip("--no-checkpoint is given"))
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, Flaw> {
        let endpoint = self.config.endpoint.to_string();
        Ok(file::read(self.place()?, &endpoint)?)
    }

    fn page(&self) -> Result<&Page, Flaw> {
        let page = self.page.as_ref();
        page.ok_or(Skip("the service did not answer"))
    }
}

/// Says where the token is, and warns of a file that others can read or write.
fn token(check: &mut Check) -> Finding {
    let limit = check.config.patience.left(check.clock);
    check.token = Some(read_token(&check.config.token, limit)?);
    match &check.config.token {
        TokenSource::Environment(_) => Ok("in $TFC_ORG_TOKEN".to_owned()),
        TokenSource::Stdin => Ok("from standard input".to_owned()),
        TokenSource::File(path) => match fs::exposure(path) {
            Some(exposed) => Err(Warn(exposed)),
            None => Ok(format!("in {}", path.display())),
        },
    }
}

/// Asks the service, and names the organization of the token as far as its events do.
fn service(check: &mut Check) -> Finding {
    let config = check.config;
    let token = check.token.as_ref();
    let token = token.ok_or(Skip("there is no token to ask with"))?;
    // As a first run does.
    let request = PageRequest {
        since: None,
        number: 1,
        size: config.page_size,
    };
    let answer = Client::new(config, token).page(&request, config.patience.timeout);
    let page = match answer.map_err(|failure| failure.error)? {
        Answer::Page(page) => page,
        Answer::Missing(message) => return Err(Error::Source(message).into()),
    };
    let organization = page.events.iter().find_map(Event::organization);
    let whose = organization.map_or(String::new(), |organization| {
        format!(" of the organization {organization}")
    });
    check.page = Some(page);
    Ok(format!("{} accepts the token{whose}", config.endpoint))
}

/// Says how many events are listed. An empty list is the only sign of a wrong kind of token.
fn events(check: &mut Check) -> Finding {
    const NONE: &str = "none is listed; the service answers a user or team token like this: use an organization token or an audit-trail token of an organization that has audit trails";
    let page = check.page()?;
    if let Some(newest) = page.events.iter().map(|event| event.time).max() {
        let count = page.total_count.unwrap_or(page.events.len() as u64);
        let age = age(newest, page.date.unwrap_or_else(|| check.clock.now()));
        return Ok(format!("{count} listed, the newest {age} old"));
    }
    let before = check.checkpoint().ok().flatten();
    let last = before.and_then(|before| before.last_timestamp);
    let retained = time::before(check.clock.now(), CERTAINLY_RETAINED);
    Err(if last.is_some_and(|last| last < retained) {
        Warn("none is listed in 14 days".to_owned())
    } else {
        Fail(Exit::TokenRefused, NONE.to_owned())
    })
}

/// Compares this machine's clock with the service's.
fn clock(check: &mut Check) -> Finding {
    let date = check.page()?.date;
    let date = date.ok_or(Skip("the service's answer has no Date"))?;
    let now = check.clock.now();
    let difference = (now - date).unsigned_abs();
    let side = if now < date { "behind" } else { "ahead of" };
    let text = format!("{} {side} the service's", span(difference));
    if difference > CLOCK_TOLERANCE {
        let effect = "--since 1h and the times of --metrics are off by as much";
        return Err(Warn(format!("{text}; set it (NTP): {effect}")));
    }
    Ok(text)
}

/// Says how far earlier runs got, if the checkpoint belongs to the token's organization.
fn checkpoint(check: &mut Check) -> Finding {
    let path = check.place()?.path.display();
    let Some(checkpoint) = check.checkpoint()? else {
        return Ok(format!("none yet at {path}; the first run creates it"));
    };
    if let Some(page) = &check.page {
        refuse_other_organization(&page.events, &checkpoint)?;
    }
    let now = check.clock.now();
    let newest = checkpoint.last_timestamp.map_or_else(
        || "no event is delivered".to_owned(),
        |last| format!("the newest event delivered is {} old", age(last, now)),
    );
    let Some(completed) = checkpoint.completed_at else {
        return Ok(format!("{path}: {newest}; no run was complete yet"));
    };
    let age = age(completed, now);
    let text = format!("{path}: {newest}; the last complete run was {age} ago");
    if completed < time::before(now, RETENTION) {
        let loss = "the service keeps events for 14 days, so some may be gone";
        return Err(Warn(format!("{text}; {loss}")));
    }
    Ok(text)
}

/// Tries to write a file beside the checkpoint. Directories that a run would make are not made: the
/// nearest one that exists has to be writable instead.
fn directory(check: &mut Check) -> Finding {
    let place = check.place()?;
    let mut directory = fs::directory(&place.path);
    if place.create_parents {
        let mut above = directory.ancestors();
        directory = above.find(|above| above.exists()).unwrap_or(directory);
    }
    let shown = directory.display();
    fs::try_beside(&directory.join("checkpoint")).map_err(|error| {
        let what = format!("{shown} cannot be written");
        file::unusable(place, &what, &error)
    })?;
    Ok(format!("{shown} can be written"))
}

/// Looks at the lock.
fn lock(check: &mut Check) -> Finding {
    file::is_unlocked(check.place()?)?;
    Ok("free".to_owned())
}

/// Asks the receiver without delivering an event.
///
/// Splunk, Elasticsearch and Loki get a delivery without events. They look at the credential first,
/// and then refuse it in words of their own: any other answer comes from another product, or from
/// another path. At any other address such a POST could become an event, so `OPTIONS` has to do.
fn receiver(check: &mut Check) -> Finding {
    let failed = |message| Fail(Exit::ReceiverFailed, message);
    let post = match &check.config.destination {
        Destination::Stdout => return Err(Skip("events go to standard output")),
        Destination::Exec(command) => return program(command).map_err(failed),
        Destination::Post(post) => post,
    };
    let timeout = check.config.patience.timeout;
    let limit = check.config.patience.left(check.clock);
    let mut receiver = Receiver::new(post, timeout, limit, check.clock)?;
    // OTLP has no path for health, and a request without records is an ordinary one.
    if post.format == Format::Otlp {
        let answered = format!("{} answered", post.url.origin);
        return without_events(&mut receiver, post.format, timeout, &answered);
    }
    let health = post.format.health(&post.url.path);
    let (status, said) = receiver.ask(health.as_deref(), timeout).map_err(failed)?;
    let asked = health
        .as_ref()
        .map_or("OPTIONS".to_owned(), |path| format!("GET {path}"));
    let answered = format!("{} answered {status} to {asked}", post.url.origin);
    if post.format == Format::Loki && loki::is_starting(status, &said) {
        return Err(Warn(format!("{answered}: {said}; it has just started")));
    }
    if is_retryable(status) {
        return Err(failed(format!("{answered}: {said}")));
    }
    if health.is_some() {
        return without_events(&mut receiver, post.format, timeout, &answered);
    }
    match status {
        300..=399 | 401 | 403 | 404 | 407 | 410 => Err(Warn(format!(
            "{answered}; check the path and the credential (--header), unless they are for POST only"
        ))),
        _ => Ok(format!(
            "{answered}; only a delivery can show whether it accepts the credential and the events"
        )),
    }
}

/// Posts a delivery without events. `answered` says what the receiver has answered before.
fn without_events(
    receiver: &mut Receiver,
    format: Format,
    timeout: Duration,
    answered: &str,
) -> Finding {
    let Verdict { rest, message, .. } = receiver.send(&[], format.nothing(), timeout)?;
    let unknown = "an unknown answer to a delivery without events: is the address right?";
    let (exit, fault) = match rest {
        Rest::Nothing => {
            let said = if message.is_empty() {
                "accepted"
            } else {
                &message
            };
            return Ok(format!(
                "{answered}, and accepts the credential; a delivery without events: {said}"
            ));
        }
        Rest::Refused => (Exit::EventsRefused, message),
        Rest::RefusedEvents | Rest::TooLarge => {
            (Exit::EventsRefused, format!("{message}; {unknown}"))
        }
        Rest::Retry | Rest::Unanswered | Rest::Reset | Rest::Failed => {
            (Exit::ReceiverFailed, message)
        }
    };
    Err(Fail(exit, fault))
}

/// Has the shell read the command of `--exec` without running any of it.
fn program(command: &str) -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-n", "-c", command])
        .env_remove("TFC_ORG_TOKEN")
        .output()
        .map_err(|error| format!("--exec: cannot start sh: {error}"))?;
    if !output.status.success() {
        let said = excerpt(&output.stderr);
        return Err(format!("--exec: sh cannot read the command: {said}"));
    }
    // A name of a program, and no variable, quote or other word of the shell.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    let name = command.split_whitespace().next().unwrap_or_default();
    let find = Command::new("sh")
        .args(["-c", "command -v -- \"$0\"", name])
        .output();
    if name.chars().all(is_plain) && !find.is_ok_and(|found| found.status.success()) {
        return Err(format!("--exec: there is no program {name}"));
    }
    exec::unnamed(&[b' '; 4096]).map_err(|error| exec::no_batch(&error))?;
    Ok(
        "sh can read the command, its program is there, and a batch can be written; it was not run"
            .to_owned(),
    )
}

/// Tries to open the file of dead letters, or to make a file beside it.
fn dead_letters(check: &mut Check) -> Finding {
    let path = check.config.dead_letter.as_ref();
    let path = path.ok_or(Skip("--dead-letter is not given"))?;
    let shown = path.display();
    let written = match fs::open_to_append(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => fs::try_beside(path),
        // The directory of a file that is there need not be writable, but there has to be space.
        Ok(_) => match fs::try_beside(path) {
            Err(error) if error.kind() == ErrorKind::StorageFull => Err(error),
            _ => Ok(()),
        },
        Err(error) => Err(error),
    };
    written.map_err(|error| {
        Error::Usage(format!(
            "--dead-letter: cannot write {shown}: {error}; name another file"
        ))
    })?;
    Ok(format!("{shown} can be written"))
}

/// Tries to make a file beside the metrics. A run that cannot replace them only warns.
fn metrics_file(check: &mut Check) -> Finding {
    let path = check.config.metrics.as_ref();
    let path = path.ok_or(Skip("--metrics is not given"))?;
    let shown = path.display();
    metrics::read(path)
        .and_then(|_| fs::try_beside(path))
        .map_err(|error| Warn(format!("cannot write {shown}: {error}")))?;
    if path.extension().is_none_or(|extension| extension != "prom") {
        return Err(Warn(format!(
            "{shown} can be written, but node exporter reads only files that end in .prom"
        )));
    }
    Ok(format!("{shown} can be written"))
}
