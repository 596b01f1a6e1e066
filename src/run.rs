//! One run, from the lock to the last commit.

use std::cell::LazyCell;
use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use ::time::OffsetDateTime;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::file::{self, CheckpointFile, NoStore, Store};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Destination, TokenSource, check_token};
use crate::delivery::exec::Exec;
use crate::delivery::post::Receiver;
use crate::delivery::stdout::{Preview, Stdout};
use crate::delivery::{Acknowledged, DeadLetters, Delivery, Target};
use crate::error::Error;
use crate::event::Event;
use crate::report::Report;
use crate::retry::Patience;
use crate::secret::Secret;
use crate::source::Missing;
use crate::source::ahead::{Readings, Threads};
use crate::source::client::Client;
use crate::text::excerpt;
use crate::time;
use crate::walk::{Scope, Walk};

/// How long the service keeps events (documented).
pub const RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Up to what age an event that was delivered is expected to be listed still.
pub const CERTAINLY_RETAINED: Duration = Duration::from_secs(13 * 24 * 60 * 60);
/// By how much `since` looks behind the boundary: nobody has shown whether it is inclusive.
const INCLUSIVE_EITHER_WAY: Duration = Duration::from_secs(1);

/// Does what the configuration asks for: locks and reads the checkpoint, and drains the source into
/// the destination. `report`, `watch` and `warn` hear of it as it happens, whatever the outcome.
///
/// # Errors
/// How the run ended, if not well. What was delivered until then is committed.
pub fn run(
    config: &Config,
    clock: &SystemClock,
    report: &mut Report,
    watch: &dyn Fn(&Report),
    warn: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let mut dead_letters = None;
    let is_dry = config.dry_run;
    let mut target: Box<dyn Target> = match &config.destination {
        Destination::Post(post) if is_dry => Box::new(Preview::of_process(post, config.normalize)?),
        Destination::Post(post) => {
            let receiver = Receiver::new(post, config.normalize, config.timeout)?;
            let path = post.dead_letter.clone();
            dead_letters = path.map(DeadLetters::open).transpose()?;
            Box::new(receiver)
        }
        Destination::Exec(command) if !is_dry => Box::new(Exec::new(
            command.clone(),
            config.normalize,
            config.max_time.is_some(),
        )),
        Destination::Stdout | Destination::Exec(_) => {
            Box::new(Stdout::of_process(config.normalize)?)
        }
    };
    let patience = Patience {
        timeout: config.timeout,
        retries: config.retries,
        deadline: config.max_time,
    };
    let token = read_token(&config.token)?;
    let endpoint = config.endpoint.to_string();
    let mut store: Box<dyn Store> = Box::new(NoStore);
    let mut checkpoint = Checkpoint::new(endpoint.clone(), config.since);
    if let Some(place) = &config.checkpoint {
        let lock = || CheckpointFile::lock(place, clock, config.max_time);
        let locked = (!is_dry).then(lock).transpose()?;
        if let Some(before) = file::read(place, &endpoint)? {
            checkpoint = before;
            let takes_since = config.since.is_none_or(|since| checkpoint.start_at(since));
            if !takes_since && config.verbose {
                warn("--since has no effect: the checkpoint says where to go on");
            }
        }
        if let Some(mut file) = locked {
            // What cannot be committed must not be delivered: the rename, too, has to be tried
            // before anything is fetched.
            file.commit(&checkpoint).map_err(Error::Checkpoint)?;
            store = Box::new(file);
        }
    }
    let client = Client::new(
        &config.endpoint,
        config.proxy.as_ref(),
        &token,
        config.timeout,
    );
    let readings = Threads::new(client, *clock, patience);
    // The time limit of a request is none for a program.
    let is_program = matches!(config.destination, Destination::Exec(_));
    let timeout = if is_program {
        Duration::MAX
    } else {
        config.timeout
    };
    let patient = Patience {
        timeout,
        ..patience
    };
    let mut delivery = Delivery::new(&mut *target, clock, patient, config.limits, dead_letters);
    let drain = Drain {
        clock,
        patience,
        overlap: config.overlap,
        since: config.since,
        until: config.until,
        page_size: config.page_size,
        connections: config.connections,
        watch,
    };
    report.newest = checkpoint.last_timestamp;
    let result = drain.run(
        &readings,
        &mut delivery,
        &mut checkpoint,
        &mut *store,
        report,
        warn,
    );
    report.newest = checkpoint.last_timestamp;
    result
}

/// The part of a run that tests drive in memory: from the first page to the last commit.
pub struct Drain<'a> {
    /// The clock.
    pub clock: &'a dyn Clock,
    /// How long the source is given.
    pub patience: Patience,
    /// `--overlap`.
    pub overlap: Duration,
    /// `--since`.
    pub since: Option<OffsetDateTime>,
    /// `--until`.
    pub until: Option<OffsetDateTime>,
    /// `--page-size`.
    pub page_size: u64,
    /// `--connections`.
    pub connections: u64,
    /// Is shown the report each time that there is something new in it.
    pub watch: &'a dyn Fn(&Report),
}

impl Drain<'_> {
    /// Delivers every event of the source that the checkpoint does not know, oldest first, and
    /// commits after each delivery.
    ///
    /// # Errors
    /// How the run ended, if not well. What was delivered until then is committed.
    pub fn run(
        &self,
        readings: &dyn Readings,
        delivery: &mut Delivery,
        checkpoint: &mut Checkpoint,
        store: &mut dyn Store,
        report: &mut Report,
        warn: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let scope = Scope {
            since: checkpoint
                .boundary_start
                .map(|start| time::before(start, INCLUSIVE_EITHER_WAY)),
            from: checkpoint.boundary_start,
            until: self.until,
            page_size: self.page_size,
            connections: self.connections,
        };
        let mut walk = Walk::new(
            readings,
            self.clock,
            self.patience,
            scope,
            checkpoint.known(),
        );
        let started = walk.start();
        report.walk = walk.figures();
        started?;
        (self.watch)(report);
        let server_time = walk.server_time();
        let expects_known = checkpoint
            .last_timestamp
            .is_some_and(|last| last > time::before(server_time, CERTAINLY_RETAINED));
        refuse_other_organization(walk.first_events(), checkpoint)?;
        if let Some(completed) = checkpoint
            .completed_at
            .filter(|&completed| completed < time::before(server_time, RETENTION))
        {
            warn(&format!(
                "the last complete run was at {}, longer ago than the 14 days that events are kept: events since then may be gone",
                time::format(completed)
            ));
        }
        let mut missing: Option<Missing> = None;
        let mut is_empty = walk.first_events().is_empty();
        loop {
            let stride = walk.next_stride(report.delivered > 0);
            report.walk = walk.figures();
            (self.watch)(report);
            let Some(stride) = stride? else { break };
            is_empty = is_empty && stride.events.is_empty();
            if let Some(missing) = stride.missing {
                // Said now, for the run may not live to its end.
                warn(&missing.to_string());
            }
            missing = stride.missing.or(missing);
            if !stride.events.is_empty() {
                let mut commit = |acknowledged: Acknowledged, following: &[Event]| {
                    let next = following.first().map(|next| next.time);
                    let rest = next.into_iter().chain(stride.rest).min();
                    let (rest, overlap) = self.look_back(rest, server_time);
                    checkpoint.advance(&acknowledged, rest, server_time, overlap);
                    let events = acknowledged.events().len();
                    store
                        .commit(checkpoint)
                        .map_err(|fault| Error::NotCommitted { events, fault })?;
                    report.delivered += events as u64;
                    (self.watch)(report);
                    Ok(())
                };
                let result = delivery.deliver(&stride.events, &mut commit, warn);
                report.delivery = delivery.figures();
                result?;
            }
        }
        let is_trusted = !expects_known || walk.known_met();
        if !is_trusted {
            warn(
                "the source no longer lists any event that it listed before: another kind of token, audit trails switched off, or data removed?",
            );
        }
        if is_empty && checkpoint.last_timestamp.is_none() && self.since.is_none() {
            warn(
                "the source lists no event at all. A user or team token is answered like that too: make sure that this is an organization token or audit-trail token, and that the organization has audit trails",
            );
        }
        if let Some(missing) = missing {
            return Err(Error::Incomplete(missing));
        }
        // An answer that leaves out what it should hold does not settle anything either.
        if is_trusted {
            checkpoint.complete(self.clock.now(), server_time, self.overlap);
        }
        store
            .commit(checkpoint)
            .map_err(|fault| Error::NotCommitted { events: 0, fault })
    }
}

impl Drain<'_> {
    /// Up to which time everything is settled, as far as what is still to come goes, and how far to
    /// look back from there.
    ///
    /// A run with `--max-time` in the middle of a backlog must not look back by the overlap: if the
    /// next one spent all its time on reading that again, none would ever get further. It need not,
    /// either: what is older than the overlap by the server's clock is too old to appear only now,
    /// and what is out of order by no more than half a page is not behind `rest`.
    fn look_back(
        &self,
        rest: Option<OffsetDateTime>,
        server_time: OffsetDateTime,
    ) -> (Option<OffsetDateTime>, Duration) {
        match rest.filter(|_| self.patience.deadline.is_some()) {
            Some(next) => (
                Some(next.min(time::before(server_time, self.overlap))),
                Duration::ZERO,
            ),
            None => (rest, self.overlap),
        }
    }
}

/// Refuses a source that belongs to somebody else: of the events on its first page the checkpoint
/// knows none, and every one is another organization's.
///
/// # Errors
/// [`Error::Checkpoint`], which names both.
pub fn refuse_other_organization(events: &[Event], checkpoint: &Checkpoint) -> Result<(), Error> {
    let Some(own) = &checkpoint.organization_id else {
        return Ok(());
    };
    let known = LazyCell::new(|| checkpoint.known());
    let others: Option<Vec<_>> = events
        .iter()
        .map(|event| {
            event
                .organization()
                .filter(|other| other != own && !known.contains(event.id.identity()))
        })
        .collect();
    match others.as_ref().and_then(|others| others.first()) {
        None => Ok(()),
        Some(other) => Err(Error::Checkpoint(format!(
            "the checkpoint belongs to the organization {}, and the token to {}; nothing was delivered. Give each organization a checkpoint of its own",
            excerpt(own.as_bytes()),
            excerpt(other.as_bytes())
        ))),
    }
}

/// Reads the token from where it is.
///
/// # Errors
/// If it cannot be read or is none; the message does not repeat it.
pub fn read_token(source: &TokenSource) -> Result<Secret, Error> {
    let (place, read) = match source {
        TokenSource::Environment(token) => return Ok(token.clone()),
        TokenSource::File(path) => (
            path.display().to_string(),
            File::open(path).and_then(read_short),
        ),
        TokenSource::Stdin => ("standard input".to_owned(), read_short(io::stdin())),
    };
    let text =
        read.map_err(|error| Error::Usage(format!("--token-file: cannot read {place}: {error}")))?;
    let token = text.trim_end_matches(['\n', '\r']);
    check_token(token)
        .map_err(|fault| Error::Usage(format!("--token-file: the token in {place} {fault}")))?;
    Ok(Secret::new(token.to_owned()))
}

/// Reads what is no longer than any token.
fn read_short(reader: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(16 * 1024).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
