//! The configuration of a run, decided from arguments and environment. Nothing else reads either.

pub mod proxy;
pub mod url;
pub mod values;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::time::UtcDateTime;

use crate::cli::{Args, When};
use crate::config::proxy::Proxy;
use crate::config::url::Url;
use crate::config::values::{
    CheckpointPlace, ClientFiles, Environment, Header, TokenSource, parse_token,
};
use crate::format::{Format, Label, Limits};
use crate::fs;
use crate::retry::Patience;

/// Delivery by POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// The receiver's address.
    pub url: Url,
    /// The proxy for its requests, if any.
    pub proxy: Option<Proxy>,
    /// The certificate for a receiver that asks for one.
    pub client: Option<ClientFiles>,
    /// The format of the bodies.
    pub format: Format,
    /// Headers for each request.
    pub headers: Vec<Header>,
    /// Bodies are compressed.
    pub gzip: bool,
    /// Labels for formats that have some.
    pub labels: Vec<Label>,
}

/// The receiver of the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// An HTTP server.
    Post(Box<Post>),
    /// The standard input of this shell command.
    Exec(String),
}

/// The destination as the checkpoint remembers it: `stdout`, `exec`, or the receiver's address
/// without its query. A generic receiver's path may be a secret, as a webhook's is, and is left out.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Exec(_) => f.write_str("exec"),
            Self::Post(post) if post.format.health(&post.url.path).is_some() => post.url.fmt(f),
            Self::Post(post) => f.write_str(&post.url.origin),
        }
    }
}

/// Everything that decides how a run goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Print the events that a run would deliver, and deliver nothing.
    pub dry_run: bool,
    /// The place of the token.
    pub token: TokenSource,
    /// The service's address.
    pub endpoint: Url,
    /// The proxy for requests to the service, if any.
    pub proxy: Option<Proxy>,
    /// The checkpoint; `None` with `--no-checkpoint`.
    pub checkpoint: Option<CheckpointPlace>,
    /// The time from which a first run delivers; `None` for everything retained.
    pub since: Option<UtcDateTime>,
    /// The span of `--since`, if it is one.
    pub since_span: Option<Duration>,
    /// The time before which events are delivered; `None` for all.
    pub until: Option<UtcDateTime>,
    /// How far a run looks back for late events.
    pub overlap: Duration,
    /// Events per page.
    pub page_size: u64,
    /// How many pages of a backlog are requested at once.
    pub connections: u64,
    /// The time limits and the retries.
    pub patience: Patience,
    /// The receiver.
    pub destination: Destination,
    /// The file for events that the receiver refuses for good.
    pub dead_letter: Option<PathBuf>,
    /// The limits of a batch.
    pub limits: Limits,
    /// Fields whose type varies are written with one type.
    pub normalize: bool,
    /// The file for the run's figures.
    pub metrics: Option<PathBuf>,
    /// Say what was done.
    pub verbose: bool,
    /// The terminal, if there is one, can clear a line.
    pub clears_lines: bool,
}

impl Config {
    /// Decides what arguments and environment mean together. Spans count back from `now`, and an empty
    /// variable counts as unset.
    ///
    /// # Errors
    /// One line that names the option or variable and the fault.
    pub fn new(args: &Args, environment: Environment, now: UtcDateTime) -> Result<Self, String> {
        let is_both = [("check", args.check && args.dry_run)];
        refuse(&is_both, "and --dry-run exclude each other")?;
        let environment = &|name: &str| environment(name).filter(|value| !value.is_empty());
        let [since, until] = [args.since, args.until].map(|when| Some(when?.resolve(now)));
        if until.is_some() && !args.no_checkpoint {
            return Err("--until goes with --no-checkpoint: a later run with the checkpoint would skip the events after it".to_owned());
        }
        refuse(&[("since", since > Some(now))], "lies in the future")?;
        let is_empty = until.is_some() && until <= since;
        refuse(&[("until", is_empty)], "is not after --since")?;
        let endpoint =
            Url::parse_endpoint(&args.endpoint).map_err(|fault| format!("--endpoint {fault}"))?;
        if endpoint.is_exposed() {
            return Err(
                "--endpoint: the token goes over https only, except to a loopback address"
                    .to_owned(),
            );
        }
        let config = Self {
            dry_run: args.dry_run,
            token: token_source(args, environment)?,
            proxy: Proxy::choose(environment, &endpoint)?,
            endpoint,
            checkpoint: checkpoint_place(args, environment)?,
            since,
            since_span: match args.since {
                Some(When::Ago(span)) => Some(span),
                _ => None,
            },
            until,
            overlap: args.overlap.unwrap_or(Duration::from_secs(10 * 60)),
            page_size: args.page_size,
            connections: args.connections,
            patience: Patience {
                timeout: args.timeout,
                retries: args.retries,
                deadline: args.max_time,
            },
            destination: destination(args, environment)?,
            dead_letter: args.dead_letter.clone(),
            limits: Limits {
                events: args.batch_events.unwrap_or(1000),
                bytes: args.batch_bytes.unwrap_or(1 << 20),
            },
            normalize: args.normalize,
            metrics: args.metrics.clone(),
            verbose: args.verbose,
            clears_lines: environment("TERM").is_some_and(|term| term != "dumb"),
        };
        config.refuse_shared_files()?;
        Ok(config)
    }

    /// Refuses a file that has two purposes: one would replace what the other keeps in it.
    fn refuse_shared_files(&self) -> Result<(), String> {
        let place = self.checkpoint.as_ref();
        let temporary = place.map(CheckpointPlace::temporary);
        let token = match &self.token {
            TokenSource::File(path) => Some(path.clone()),
            _ => None,
        };
        let files = [
            ("the checkpoint", place.map(|place| place.path.clone())),
            ("the checkpoint's lock", place.map(CheckpointPlace::lock)),
            ("the checkpoint's temporary file", temporary),
            ("--token-file", token),
            ("--dead-letter", self.dead_letter.clone()),
            ("--metrics", self.metrics.clone()),
        ];
        let mut seen: HashMap<PathBuf, &str> = HashMap::new();
        for (name, path) in files {
            let Some(path) = path else { continue };
            // The same directory may be named in other ways.
            let directory = fs::directory(&path);
            let directory = directory.canonicalize().unwrap_or(directory.to_owned());
            let place = directory.join(path.file_name().unwrap_or_default());
            if let Some(other) = seen.insert(place, name) {
                let shown = path.display();
                return Err(format!("{name} names the same file as {other}: {shown}"));
            }
        }
        Ok(())
    }
}

/// Refuses the first of these options for which the condition holds, for this reason.
fn refuse(options: &[(&str, bool)], reason: &str) -> Result<(), String> {
    match options.iter().find(|(_, is_wrong)| *is_wrong) {
        Some((name, _)) => Err(format!("--{name} {reason}")),
        None => Ok(()),
    }
}

fn token_source(args: &Args, environment: Environment) -> Result<TokenSource, String> {
    // A token that is not UTF-8 fails the check. A variable with white space only counts as unset.
    let token = environment("TFC_ORG_TOKEN").map(|token| token.to_string_lossy().into_owned());
    let token = token.filter(|token| !token.trim().is_empty());
    match (&args.token_file, token) {
        (Some(_), Some(_)) => {
            Err("both --token-file and $TFC_ORG_TOKEN are given: remove one".to_owned())
        }
        (Some(path), None) if path == Path::new("-") => Ok(TokenSource::Stdin),
        (Some(path), None) => Ok(TokenSource::File(path.clone())),
        (None, Some(token)) => parse_token(&token)
            .map(TokenSource::Environment)
            .map_err(|fault| format!("$TFC_ORG_TOKEN {fault}")),
        (None, None) => Err("no token: put an organization token or audit-trail token into $TFC_ORG_TOKEN or a file for --token-file".to_owned()),
    }
}

fn checkpoint_place(
    args: &Args,
    environment: Environment,
) -> Result<Option<CheckpointPlace>, String> {
    if args.no_checkpoint {
        let excluded = [
            ("checkpoint", args.checkpoint.is_some()),
            ("require-checkpoint", args.require_checkpoint),
            ("lock-wait", args.lock_wait.is_some()),
            ("overlap", args.overlap.is_some()),
        ];
        refuse(&excluded, "and --no-checkpoint exclude each other")?;
        return Ok(None);
    }
    let named = args.checkpoint.clone();
    let path = named.or_else(|| default_checkpoint(environment)).ok_or(
        "no place for the checkpoint: name one with --checkpoint, or set $XDG_STATE_HOME or $HOME",
    )?;
    Ok(Some(CheckpointPlace {
        path,
        create_parents: args.checkpoint.is_none(),
        required: args.require_checkpoint,
        lock_wait: args.lock_wait.unwrap_or_default(),
    }))
}

/// Returns the place for a checkpoint that was not named, `None` without a home directory.
fn default_checkpoint(environment: Environment) -> Option<PathBuf> {
    // systemd sets it for a unit with `StateDirectory=`. Several are separated by a colon; the first
    // is the unit's main one.
    if let Some(directories) = environment("STATE_DIRECTORY") {
        let first = std::env::split_paths(&directories).next()?;
        return Some(first.join("checkpoint.json"));
    }
    // The XDG Base Directory Specification has relative paths ignored.
    let state = environment("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|path| path.is_absolute());
    let home = || environment("HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(home()?.join(".local/state")))?;
    Some(state.join("tfc-audit/checkpoint.json"))
}

fn destination(args: &Args, environment: Environment) -> Result<Destination, String> {
    if let Some(address) = &args.post {
        let post = post(args, address, environment)?;
        return Ok(Destination::Post(Box::new(post)));
    }
    let for_post = [
        ("format", args.format.is_some()),
        ("header", !args.header.is_empty()),
        ("gzip", args.gzip),
        ("label", !args.label.is_empty()),
        ("allow-plain-http", args.allow_plain_http),
        ("client-cert", args.client_cert.is_some()),
        ("client-key", args.client_key.is_some()),
    ];
    refuse(&for_post, "goes with --post")?;
    if let Some(command) = &args.exec {
        if command.trim().is_empty() {
            return Err("--exec: the command is empty".to_owned());
        }
        return Ok(Destination::Exec(command.clone()));
    }
    let for_batches = [
        ("batch-events", args.batch_events.is_some()),
        ("batch-bytes", args.batch_bytes.is_some()),
    ];
    refuse(&for_batches, "goes with --post or --exec")?;
    Ok(Destination::Stdout)
}

fn post(args: &Args, address: &str, environment: Environment) -> Result<Post, String> {
    let is_both = [("post", args.exec.is_some())];
    refuse(&is_both, "and --exec exclude each other")?;
    let mut url = Url::parse(address).map_err(|fault| format!("--post {fault}"))?;
    let headers = args.header.iter().map(|text| Header::parse(text));
    let headers: Vec<_> = headers
        .collect::<Result<_, _>>()
        .map_err(|fault| format!("--header: {fault}"))?;
    if url.is_exposed() && !headers.is_empty() && !args.allow_plain_http {
        return Err("--header values would go over plain http, where everybody on the way can read them; use https, or --allow-plain-http if that is meant".to_owned());
    }
    let format = args.format.unwrap_or(Format::Ndjson);
    check_labels(&args.label, format)?;
    let client = client_files(args, &url)?;
    url.path = format.path(&url.path);
    if format == Format::Elasticsearch && url.path == "/_bulk" {
        return Err("--post has no index or data stream: --format elasticsearch takes one at the end of the address, such as /logs-tfc.audit-default".to_owned());
    }
    let proxy = Proxy::choose(environment, &url)?;
    if client.is_some() && proxy.as_ref().is_some_and(Proxy::is_https) {
        return Err("--client-cert: an https proxy would be shown the certificate, too; use an http proxy, or name the receiver in NO_PROXY".to_owned());
    }
    Ok(Post {
        proxy,
        url,
        client,
        format,
        headers,
        gzip: args.gzip,
        labels: args.label.clone(),
    })
}

/// Refuses labels that the format cannot take. Loki's names are documented at
/// <https://grafana.com/docs/loki/latest/get-started/labels/>.
fn check_labels(labels: &[Label], format: Format) -> Result<(), String> {
    let takes_some = matches!(format, Format::Loki | Format::SplunkHec | Format::Otlp);
    let is_wrong = [("label", !takes_some && !labels.is_empty())];
    refuse(&is_wrong, "goes with --format splunk-hec, loki or otlp")?;
    let mut names = HashSet::new();
    if let Some((name, _)) = labels.iter().find(|(name, _)| !names.insert(name)) {
        return Err(format!("--label: {name:?} is given more than once"));
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_loki_name =
        |name: &str| name.chars().all(is_word) && !name.starts_with(|c: char| c.is_ascii_digit());
    match labels.iter().find(|(name, _)| !is_loki_name(name)) {
        Some((name, _)) if format == Format::Loki => Err(format!(
            "--label: {name:?} is not a label name of Loki: use letters, digits and _, but no digit at the start"
        )),
        _ => Ok(()),
    }
}

fn client_files(args: &Args, url: &Url) -> Result<Option<ClientFiles>, String> {
    match (args.client_cert.clone(), args.client_key.clone()) {
        (None, None) => Ok(None),
        (Some(_), None) => Err("--client-cert goes with --client-key".to_owned()),
        (None, Some(_)) => Err("--client-key goes with --client-cert".to_owned()),
        (Some(_), Some(_)) if !url.is_https => {
            Err("--client-cert: a certificate is shown over https only".to_owned())
        }
        (Some(certificate), Some(key)) => Ok(Some(ClientFiles { certificate, key })),
    }
}

#[cfg(test)]
mod tests;
