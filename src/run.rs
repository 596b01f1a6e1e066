//! One run, from the lock to the last commit.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use ::time::UtcDateTime;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::file::{self, CheckpointFile, Commits, Store};
use crate::clock::{Clock, SystemClock, within};
use crate::config::values::{TokenSource, parse_token};
use crate::config::{Config, Destination};
use crate::delivery::dead_letters::DeadLetters;
use crate::delivery::exec::Exec;
use crate::delivery::post::Receiver;
use crate::delivery::stdout::{self, Stdout};
use crate::delivery::{Acknowledged, Delivery, Figures, Learnt, Target};
use crate::error::{Error, Exit};
use crate::event::Event;
use crate::format::{Encoder, Format};
use crate::report::Report;
use crate::retry::Patience;
use crate::secret::Secret;
use crate::source::PageRequest;
use crate::source::client::Client;
use crate::source::requests::{Ask, Pages, Threads};
use crate::text::excerpt;
use crate::time;
use crate::walk::{Scope, Walk};

/// How long the service keeps events, by its documentation.
const RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Up to this age, a delivered event is expected to be listed still.
pub const CERTAINLY_RETAINED: Duration = Duration::from_secs(13 * 24 * 60 * 60);
/// Clocks that differ by no more agree.
pub const CLOCKS_AGREE: Duration = Duration::from_secs(60);
/// The most that the service's clock is believed to be ahead of this machine's.
const LARGEST_LEAD: Duration = Duration::from_secs(24 * 60 * 60);
/// How far `since` looks behind the boundary: the documentation does not say if it is inclusive.
const INCLUSIVE_EITHER_WAY: Duration = Duration::from_secs(1);

/// Does what the configuration asks for, in this order: lock, checkpoint, receiver, token, service.
///
/// Nothing is read or opened before the lock is held, since another run may be changing it. `report`,
/// `watch` and `warn` hear of the run as it happens, whatever the outcome.
///
/// Returns the exit code; a warning has explained one that is not [`Exit::Success`].
///
/// # Errors
/// Why the run ended early. What was delivered until then is committed.
pub fn run(
    config: &Config,
    clock: &SystemClock,
    report: &mut Report,
    watch: &dyn Fn(&Report),
    warn: &mut dyn FnMut(&str),
) -> Result<Exit, Error> {
    let place = config.checkpoint.as_ref().filter(|_| !config.dry_run);
    let mut store = place
        .map(|place| CheckpointFile::lock(place, clock, &config.patience))
        .transpose()?;
    let mut checkpoint = resume(config, warn)?;
    let destination = config.destination.to_string();
    let former = checkpoint.destination.clone();
    let is_proven = former.as_ref() == Some(&destination) && checkpoint.last_timestamp.is_some();
    let encoder = encoder(config, warn);
    let mut target = target(config, clock)?;
    let dead_letters = config.dead_letter.as_deref().filter(|_| !config.dry_run);
    let dead_letters = dead_letters
        .map(|path| DeadLetters::open(path, *clock))
        .transpose()?;
    let token = read_token(config, clock)?;
    // Only events that can be committed may be delivered, so the first commit is tried before
    // anything is asked of the service. It does not name a new receiver yet, which has taken nothing.
    store.commit(&checkpoint).map_err(Error::Checkpoint)?;
    checkpoint.destination = Some(destination.clone());
    let notice = former
        .filter(|former| *former != destination)
        .zip(checkpoint.last_timestamp)
        .map(|(former, last)| changed_destination(&former, &destination, last));
    let drain = Drain {
        config,
        pages: &Threads::new(Client::new(config, &token), *clock, config.patience),
        delivery: Delivery {
            target: &mut *target,
            encoder,
            clock,
            patience: patience_with_receiver(config),
            limits: match config.destination {
                Destination::Stdout => stdout::BATCH,
                _ => config.limits,
            },
            dead_letters,
            is_proven,
            figures: Figures::default(),
            learnt: Learnt::default(),
        },
        checkpoint: &mut checkpoint,
        commits: Commits::new(&mut store),
        notice,
        report,
        watch,
        warn,
    };
    drain.run()
}

/// The checkpoint that the run continues from: the file's, or a new one.
fn resume(config: &Config, warn: &mut dyn FnMut(&str)) -> Result<Checkpoint, Error> {
    let endpoint = config.endpoint.to_string();
    let before = match &config.checkpoint {
        Some(place) => file::read(place, &endpoint)?,
        None => None,
    };
    let mut checkpoint = before.unwrap_or_else(|| Checkpoint::new(endpoint));
    let takes_since = config.since.is_none_or(|since| checkpoint.start_at(since));
    if !takes_since && config.verbose {
        warn("--since has no effect: the checkpoint says where to continue");
    }
    Ok(checkpoint)
}

/// The warning about a new destination, with the way to send the events up to `last` there, too.
fn changed_destination(former: &str, destination: &str, last: UtcDateTime) -> String {
    // `--until` excludes its own time.
    let until = time::format(time::floor_second(last) + Duration::from_secs(1));
    let former = excerpt(former.as_bytes());
    format!(
        "events went to {former} until now, and go to {destination} from now on; to send the earlier ones there, too, run once with --no-checkpoint --until {until} in place of --checkpoint (add --since TIME for less than everything retained)"
    )
}

/// The encoder of the bodies.
fn encoder(config: &Config, warn: &mut dyn FnMut(&str)) -> Encoder {
    let (format, labels) = match &config.destination {
        Destination::Post(post) if config.dry_run && post.format == Format::Otlp => {
            warn("--dry-run prints the events as ndjson, since otlp is binary");
            (Format::Ndjson, &[][..])
        }
        Destination::Post(post) => (post.format, &post.labels[..]),
        Destination::Stdout | Destination::Exec(_) => (Format::Ndjson, &[][..]),
    };
    Encoder::new(format, config.normalize, labels)
}

/// The receiver's side of the run; a dry run prints instead.
fn target<'a>(config: &'a Config, clock: &'a SystemClock) -> Result<Box<dyn Target + 'a>, Error> {
    Ok(match &config.destination {
        Destination::Post(post) if !config.dry_run => {
            Box::new(Receiver::new(post, &config.patience, clock)?)
        }
        Destination::Exec(command) if !config.dry_run => Box::new(Exec {
            command,
            clock: *clock,
        }),
        _ => Box::new(Stdout::of_process(*clock)?),
    })
}

/// `--timeout` applies to HTTP only: a program, or the reader of standard output, may take as long as
/// the run.
fn patience_with_receiver(config: &Config) -> Patience {
    let mut patience = config.patience;
    if config.dry_run || !matches!(config.destination, Destination::Post(_)) {
        patience.timeout = Duration::MAX;
    }
    patience
}

/// The part of a run that tests drive in memory: from the first page to the last commit.
pub struct Drain<'a> {
    /// The options for reading and for the boundary.
    pub config: &'a Config,
    /// The pages of the service.
    pub pages: &'a dyn Pages,
    /// The receiver.
    pub delivery: Delivery<'a>,
    /// What was delivered before.
    pub checkpoint: &'a mut Checkpoint,
    /// The place for what is delivered now.
    pub commits: Commits<'a>,
    /// A warning for a run whose checkpoint fits what the service lists.
    pub notice: Option<String>,
    /// Hears of the run as it happens, whatever the outcome.
    pub report: &'a mut Report,
    /// Sees the report whenever it changes.
    pub watch: &'a dyn Fn(&Report),
    /// Is told what somebody should know.
    pub warn: &'a mut dyn FnMut(&str),
}

impl Drain<'_> {
    /// Delivers every event that the checkpoint does not know, oldest first, and commits after each
    /// batch.
    ///
    /// Returns the exit code; a warning has explained one that is not [`Exit::Success`].
    ///
    /// # Errors
    /// Why the run ended early. What was delivered until then is committed.
    pub fn run(mut self) -> Result<Exit, Error> {
        let result = self.drain();
        let Report { missing, told, .. } = *self.report;
        if let Some(missing) = missing.filter(|_| missing != told) {
            (self.warn)(&missing.to_string());
        }
        match result {
            Err(Error::NotCommitted { .. }) => result,
            // A failed commit is the worse of two errors: the next run repeats events.
            result => self.commits.finish(self.checkpoint).and(result),
        }
    }

    fn drain(&mut self) -> Result<Exit, Error> {
        let (config, pages, clock) = (self.config, self.pages, self.delivery.clock);
        let checkpoint = &mut *self.checkpoint;
        let (report, watch, warn) = (&mut *self.report, self.watch, &mut *self.warn);
        report.newest = checkpoint.last_timestamp;
        let deadline = config.patience.deadline;
        let resume_at = checkpoint.resume_at.take().filter(|_| deadline.is_some());
        let mut start = |checkpoint: &Checkpoint| {
            let from = checkpoint.boundary_start;
            let since = resume_at.or(from);
            let since = since.map(|since| time::before(since, INCLUSIVE_EITHER_WAY));
            let scope = Scope {
                since,
                from,
                until: config.until,
                page_size: config.page_size,
                connections: config.connections,
            };
            let (known, skipped) = (checkpoint.known(), checkpoint.known_before(since));
            let mut walk = Walk::new(pages, clock, config.patience, scope, known, skipped);
            let started = walk.start();
            report.walk = walk.figures();
            started.map(|()| walk)
        };
        let mut walk = start(checkpoint)?;
        let now = clock.now();
        let server_time = walk.server_time().min(now + LARGEST_LEAD);
        // A span counts back from the service's time: this machine's clock may be ahead of it.
        if let Some(span) = config.since_span
            && server_time + CLOCKS_AGREE < now
            && checkpoint.start_at(time::before(server_time, span))
        {
            walk = start(checkpoint)?;
        }
        watch(report);
        // An event that is stamped in the future says nothing about the present.
        let retained = time::before(server_time, CERTAINLY_RETAINED)..=server_time;
        let expects_known = checkpoint.boundary.range(retained).next().is_some();
        // A clock that is ahead, here or there, must not hide the present.
        let settled_by = server_time.min(now);
        refuse_other_organization(walk.first_events(), checkpoint)?;
        let notices = [
            self.notice.take(),
            gap(checkpoint, server_time),
            too_old(config, server_time),
        ];
        notices.iter().flatten().for_each(|notice| warn(notice));
        let is_empty = walk.first_events().is_empty();
        // What lies before `resume_at` is not read, and so not settled.
        let hold = resume_at.and(checkpoint.boundary_start);
        let delivered = self.deliver_all(&mut walk, settled_by, hold);
        let (checkpoint, commits) = (&mut *self.checkpoint, &mut self.commits);
        let is_out_of_time = matches!(&delivered, Err(error) if error.exit() == Exit::OutOfTime);
        let is_in_vain = is_out_of_time && self.report.delivered == 0 && resume_at.is_none();
        if is_in_vain {
            checkpoint.resume_at = checkpoint.newest_known(config.page_size);
        }
        if is_in_vain || resume_at.is_some() {
            commits.commit(checkpoint)?;
        }
        let exit = delivered?;
        self.delivery.finish()?;
        if exit != Exit::Success {
            return Ok(exit);
        }
        if expects_known && !walk.known_met() {
            return Err(Error::TokenRefused(
                "the service no longer lists any event that it listed before: another kind of token, audit trails switched off, or data removed? What is new was delivered".to_owned(),
            ));
        }
        if resume_at.is_some() {
            return Err(Error::NotLookedBack);
        }
        let lists_nothing = is_empty && checkpoint.last_timestamp.is_none();
        if lists_nothing && !(checkpoint.boundary_start.is_some() && has_events(pages)?) {
            return Err(no_event());
        }
        checkpoint.complete(server_time, settled_by, config.overlap);
        commits.commit(checkpoint)?;
        Ok(exit)
    }

    /// Delivers window after window. The boundary moves up to `hold` at most, and stays behind
    /// `settled_by`.
    fn deliver_all(
        &mut self,
        walk: &mut Walk,
        settled_by: UtcDateTime,
        hold: Option<UtcDateTime>,
    ) -> Result<Exit, Error> {
        let (report, watch, warn) = (&mut *self.report, self.watch, &mut *self.warn);
        let mut exit = Exit::Success;
        loop {
            let window = walk.next_window(report.delivered > 0);
            report.walk = walk.figures();
            watch(report);
            let Some(window) = window? else {
                return Ok(exit);
            };
            if let Some(missing) = window.missing {
                report.missing = Some(missing);
                exit = Exit::SourceFailed;
                // Told at once: a run that is killed later must not keep it to itself. The final
                // number follows at the end.
                if report.told.is_none() {
                    warn(&missing.to_string());
                    report.told = Some(missing);
                }
            }
            let mut commit = |acknowledged: Acknowledged, following: &[Event]| {
                let next = following.first().map(|next| next.time);
                let rest = next.into_iter().chain(window.rest).chain(hold).min();
                let overlap = self.config.overlap;
                self.checkpoint
                    .advance(&acknowledged, rest, settled_by, overlap);
                report.newest = self.checkpoint.last_timestamp;
                report.delivered += acknowledged.events().len() as u64;
                watch(report);
                self.commits
                    .acknowledged(acknowledged.events(), self.checkpoint)
            };
            let delivered = self
                .delivery
                .deliver(window.events, &mut commit, &mut *warn);
            report.delivery = self.delivery.figures;
            if !delivered? {
                exit = Exit::SourceFailed;
            }
        }
    }
}

/// Returns the warning if no run was complete for longer than the service keeps events.
pub fn gap(checkpoint: &Checkpoint, now: UtcDateTime) -> Option<String> {
    let retained = time::before(now, RETENTION);
    let completed = checkpoint.completed_at.filter(|&at| at < retained)?;
    let completed = time::format(completed);
    Some(format!(
        "the last complete run was at {completed}, more than the 14 days ago that the service keeps events: events since then may be gone"
    ))
}

/// Returns the warning if `--until` asks for events that are retained no longer.
fn too_old(config: &Config, now: UtcDateTime) -> Option<String> {
    let until = config
        .until
        .filter(|&until| until <= time::before(now, RETENTION))?;
    let until = time::format(until);
    Some(format!(
        "--until is {until}, and the service keeps events for 14 days only"
    ))
}

/// Asks for one event of everything retained: nothing since a time is not nothing at all.
fn has_events(pages: &dyn Pages) -> Result<bool, Error> {
    let ask = Ask {
        request: PageRequest {
            since: None,
            number: 1,
            size: 1,
        },
        is_promised: false,
    };
    let answer = pages.get(ask).answer?;
    Ok(answer.is_some_and(|page| !page.events.is_empty()))
}

/// The error for a service that lists nothing of all that is retained.
pub fn no_event() -> Error {
    Error::TokenRefused(
        "the service lists no event at all, as it does for a user or team token: use an organization token or an audit-trail token, and an organization that has audit trails".to_owned(),
    )
}

/// Refuses a token of another organization: the checkpoint knows no event of the first page, and
/// every one belongs to another organization.
///
/// # Errors
/// [`Error::Checkpoint`], which names both.
pub fn refuse_other_organization(events: &[Event], checkpoint: &Checkpoint) -> Result<(), Error> {
    let Some(own) = &checkpoint.organization_id else {
        return Ok(());
    };
    let mut other = String::new();
    for event in events {
        match event.organization() {
            Some(organization) if organization != *own => other = organization,
            _ => return Ok(()),
        }
    }
    let known = checkpoint.known();
    if events.is_empty() || events.iter().any(|it| known.contains(it.id.identity())) {
        return Ok(());
    }
    let [own, other] = [own, &other].map(|id| excerpt(id.as_bytes()));
    Err(Error::Checkpoint(format!(
        "the checkpoint belongs to the organization {own}, and the token to {other}; nothing was delivered. Give each organization a checkpoint of its own"
    )))
}

/// Reads the token from its file, standard input or the environment, within `--max-time`: a pipe may
/// have no writer.
///
/// # Errors
/// [`Error::Usage`] if it cannot be read or is no token; the message does not repeat it.
/// [`Error::Stuck`] if it takes too long.
pub fn read_token(config: &Config, clock: &dyn Clock) -> Result<Secret, Error> {
    let (place, path) = match &config.token {
        TokenSource::Environment(token) => return Ok(token.clone()),
        TokenSource::File(path) => (path.display().to_string(), Some(path.clone())),
        TokenSource::Stdin => ("standard input".to_owned(), None),
    };
    let read = within(config.patience.left(clock), || match path {
        Some(path) => File::open(path).and_then(read_short),
        None => read_short(io::stdin()),
    });
    let unusable = |fault| Error::Usage(format!("--token-file: {fault}"));
    let text = read.and_then(Option::transpose);
    let text = text.map_err(|error| unusable(format!("cannot read {place}: {error}")))?;
    let text = text.ok_or_else(|| Error::Stuck(format!("the token from {place}")))?;
    parse_token(&text).map_err(|fault| unusable(format!("the token in {place} {fault}")))
}

/// Reads at most 16 KiB, which no token fills.
fn read_short(reader: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(16 * 1024).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
