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

use crate::checkpoint::{Checkpoint, file};
use crate::clock::Clock;
use crate::config::values::{CheckpointPlace, Header, TokenSource};
use crate::config::{Config, Destination};
use crate::delivery::post::Receiver;
use crate::delivery::{Target, dead_letters, exec, stdout};
use crate::error::{Error, Exit};
use crate::event::Event;
use crate::format::verdict::Rest;
use crate::format::{Format, loki};
use crate::fs;
use crate::report::metrics;
use crate::retry::is_retryable;
use crate::run::{self, CERTAINLY_RETAINED, CLOCKS_AGREE};
use crate::source::client::Client;
use crate::source::page::Page;
use crate::source::{PageRequest, Source};
use crate::text::{age, excerpt, one_line, span};
use crate::time;

/// Tries one thing that a run needs, and leaves it as it is.
type Step = fn(&mut Check) -> Finding;

/// The steps in their order.
const STEPS: [(&str, Step); 11] = [
    ("configuration", configuration),
    ("token", token),
    ("service", service),
    ("events", events),
    ("clock", clock),
    ("checkpoint", checkpoint),
    ("directory", directory),
    ("lock", lock),
    ("receiver", receiver),
    ("dead letters", dead_letters_file),
    ("metrics", metrics_file),
];

/// The text of an `ok` line, or a line with another word.
type Finding = Result<String, Flaw>;

/// A step that is not `ok`.
enum Flaw {
    Warn(String),
    Fail(Error),
    Skip(&'static str),
}

use Flaw::{Fail, Skip, Warn};

impl From<Error> for Flaw {
    fn from(error: Error) -> Self {
        Fail(error)
    }
}

/// Tries everything, and writes a line about each step to standard output. A wrong configuration is
/// the only line. Returns the exit code.
///
/// # Errors
/// If standard output cannot be written.
pub fn check(config: Result<Config, Error>, clock: &dyn Clock) -> Result<Exit, Error> {
    let mut out = stdout::open()?;
    // The exit code of the first failure.
    let mut exit = None;
    let mut write = |name: &str, finding: Finding| {
        let (word, text) = match finding {
            Ok(text) => ("ok", text),
            Err(Warn(text)) => ("warn", text),
            Err(Skip(text)) => ("skip", text.to_owned()),
            Err(Fail(error)) => {
                exit.get_or_insert(error.exit());
                ("FAIL", error.to_string())
            }
        };
        let line = one_line(&format!("{word:<5} {name}: {text}"));
        writeln!(out, "{line}").map_err(Error::Stdout)
    };
    match config {
        Err(error) => write("configuration", Err(error.into()))?,
        Ok(config) => {
            let mut check = Check {
                config: &config,
                clock,
                client: None,
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
fn configuration(check: &mut Check) -> Finding {
    if let Destination::Post(post) = &check.config.destination {
        for header in &post.headers {
            if let Header::File(path) = header
                && let Some(fault) = fs::exposure(path)
            {
                return Err(Warn(format!("--header: {fault}")));
            }
        }
    }
    Ok("arguments and environment are valid".to_owned())
}

/// The options, and the results of steps that later ones need.
struct Check<'a> {
    config: &'a Config,
    clock: &'a dyn Clock,
    client: Option<Client>,
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
    let token = run::read_token(check.config, check.clock)?;
    check.client = Some(Client::new(check.config, &token));
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
    let client = check.client.as_ref();
    let client = client.ok_or(Skip("there is no token to ask with"))?;
    // As a first run does.
    let request = PageRequest {
        since: None,
        number: 1,
        size: check.config.page_size,
    };
    let answer = client.page(&request, check.config.patience.timeout);
    let page = answer.map_err(|failure| failure.error)?;
    let page = page.ok_or(Skip("it has no page 1"))?;
    let organization = page.events.iter().find_map(Event::organization);
    let whose = organization.map_or(String::new(), |id| format!(" of the organization {id}"));
    check.page = Some(page);
    let endpoint = &check.config.endpoint;
    Ok(format!("{endpoint} accepts the token{whose}"))
}

/// Says how many events are listed. An empty list is the only sign of a wrong kind of token.
fn events(check: &mut Check) -> Finding {
    let page = check.page()?;
    if let Some(newest) = page.events.iter().map(|event| event.time).max() {
        let count = page.total_count.unwrap_or(page.events.len() as u64);
        let age = age(newest, page.date.unwrap_or_else(|| check.clock.now()));
        return Ok(format!("{count} listed, the newest {age} old"));
    }
    let before = check.checkpoint().ok().flatten();
    let last = before.and_then(|before| before.last_timestamp);
    let retained = time::before(check.clock.now(), CERTAINLY_RETAINED);
    if last.is_some_and(|last| last < retained) {
        return Err(Warn("none is listed in 14 days".to_owned()));
    }
    Err(Fail(run::no_event()))
}

/// Compares this machine's clock with the service's.
fn clock(check: &mut Check) -> Finding {
    let date = check.page()?.date;
    let date = date.ok_or(Skip("the service's answer has no Date"))?;
    let now = check.clock.now();
    let difference = (now - date).unsigned_abs();
    let side = if now < date { "behind" } else { "ahead of" };
    let text = format!("{} {side} the service's", span(difference));
    if difference > CLOCKS_AGREE {
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
        run::refuse_other_organization(&page.events, &checkpoint)?;
    }
    let now = check.clock.now();
    if let Some(gap) = run::gap(&checkpoint, now) {
        return Err(Warn(format!("{path}: {gap}")));
    }
    let ago = |time: Option<_>| time.map_or("none".to_owned(), |time| age(time, now) + " ago");
    let newest = ago(checkpoint.last_timestamp);
    let complete = ago(checkpoint.completed_at);
    Ok(format!(
        "{path}: newest event delivered: {newest}; last complete run: {complete}"
    ))
}

/// Tries to write a file beside the checkpoint. Directories that a run would make are not made: the
/// nearest one that exists has to be writable instead.
fn directory(check: &mut Check) -> Finding {
    let place = check.place()?;
    let directory = fs::directory(&place.path);
    let mut above = directory.ancestors();
    let nearest = above.find(|above| above.exists() || !place.create_parents);
    let directory = nearest.unwrap_or(directory);
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
    let post = match &check.config.destination {
        Destination::Stdout => return Err(Skip("events go to standard output")),
        Destination::Exec(command) => return program(command),
        Destination::Post(post) => post,
    };
    let mut receiver = Receiver::new(post, &check.config.patience, check.clock)?;
    let mut answered = format!("{} answered", post.url.origin);
    // OTLP has no path for health, and a request without records is an ordinary one.
    if post.format != Format::Otlp {
        let health = post.format.health(&post.url.path);
        let (status, said) = receiver.ask(health.as_deref(), check.config.patience.timeout)?;
        let asked = health.as_ref().map(|path| format!("GET {path}"));
        let asked = asked.as_deref().unwrap_or("OPTIONS");
        answered = format!("{answered} {status} to {asked}");
        if post.format == Format::Loki && loki::is_starting(status, &said) {
            return Err(Warn(format!("{answered}: {said}; it has just started")));
        }
        if is_retryable(status) {
            return Err(Fail(Error::Receiver(format!("{answered}: {said}"))));
        }
        if health.is_none() {
            return match status {
                300..=399 | 401 | 403 | 404 | 407 | 410 => Err(Warn(format!(
                    "{answered}; check the path and the credential (--header), unless they are for POST only"
                ))),
                _ => Ok(format!(
                    "{answered}; only a delivery can show whether it accepts the credential and the events"
                )),
            };
        }
    }
    let verdict = receiver.send(&[], post.format.nothing(), check.config.patience.timeout)?;
    let said = verdict.message;
    Err(Fail(match verdict.rest {
        Rest::Nothing => {
            let said = if said.is_empty() { "accepted" } else { &said };
            return Ok(format!(
                "{answered}, and accepts the credential; a delivery without events: {said}"
            ));
        }
        Rest::Refused => Error::EventsRefused(said),
        Rest::RefusedEvents | Rest::TooLarge => Error::EventsRefused(format!(
            "{said}; an unknown answer to a delivery without events: is the address right?"
        )),
        Rest::Retry | Rest::Unanswered | Rest::Reset | Rest::Failed => Error::Receiver(said),
    }))
}

/// Has the shell read the command of `--exec` without running any of it.
fn program(command: &str) -> Finding {
    let failed = |fault| Fail(Error::Receiver(format!("--exec: {fault}")));
    let sh = |args: &[&str]| {
        let mut sh = Command::new("sh");
        let output = sh.args(args).env_remove("TFC_ORG_TOKEN").output();
        output.map_err(|error| failed(format!("cannot start sh: {error}")))
    };
    let read = sh(&["-n", "-c", command])?;
    if !read.status.success() {
        let said = excerpt(&read.stderr);
        return Err(failed(format!("sh cannot read the command: {said}")));
    }
    // A name of a program, and no variable, quote or other word of the shell.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    let name = command.split_whitespace().next().unwrap_or_default();
    let find = ["-c", "command -v -- \"$0\"", name];
    if name.chars().all(is_plain) && !sh(&find)?.status.success() {
        return Err(failed(format!("there is no program {name}")));
    }
    exec::unnamed(&[b' '; 4096]).map_err(|error| Error::Receiver(exec::no_batch(&error)))?;
    Ok("sh can read the command, and its program is there; it was not run".to_owned())
}

/// Tries to open the file of dead letters, or to make a file beside it.
fn dead_letters_file(check: &mut Check) -> Finding {
    let path = check.config.dead_letter.as_ref();
    let path = path.ok_or(Skip("--dead-letter is not given"))?;
    let shown = path.display();
    let written = match fs::open_to_append(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        opened => match fs::try_beside(path) {
            // The directory of a file that is there need not be writable, but needs space.
            Err(error) if opened.is_ok() && error.kind() != ErrorKind::StorageFull => Ok(()),
            tried => tried,
        },
    };
    written.map_err(|error| dead_letters::unusable(path, &error))?;
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
    let text = format!("{shown} can be written");
    if path.extension().is_none_or(|extension| extension != "prom") {
        let unread = "but node exporter reads only files that end in .prom";
        return Err(Warn(format!("{text}, {unread}")));
    }
    Ok(text)
}
