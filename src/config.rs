//! What was meant: arguments and environment as one validated configuration. Nothing else reads
//! either.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use ureq::http::Uri;

use crate::cli::Args;
use crate::timestamp;

/// The environment, as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `$TFC_ORG_TOKEN`.
    pub token: Option<Secret>,
    /// `$STATE_DIRECTORY`, which systemd sets for a unit with `StateDirectory=`.
    pub state_directory: Option<OsString>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `$HOME`.
    pub home: Option<OsString>,
}

impl Environment {
    /// Reads this process's environment.
    #[must_use]
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            // What is no UTF-8 is no token either; reading it lossily makes that an error below.
            token: std::env::var_os("TFC_ORG_TOKEN")
                .map(|token| Secret::new(token.to_string_lossy().into_owned())),
            state_directory: path("STATE_DIRECTORY"),
            xdg_state_home: path("XDG_STATE_HOME"),
            home: path("HOME"),
        }
    }
}

/// A text that is never shown: it has no `Display`, and its `Debug` does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text into care.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the header that it is meant for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// An http or https address in one spelling: scheme and host in lower case, no default port, no
/// slash at the end, and neither user, query nor fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    loopback: bool,
    https: bool,
}

impl Url {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it; a message never repeats what could be a secret in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text
            .parse()
            .map_err(|_| "is not an http or https address".to_owned())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("is not an http or https address".to_owned()),
        };
        let authority = uri.authority().ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("holds a user name; credentials are never part of an address".to_owned());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("has a query or a fragment".to_owned());
        }
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err("has no host".to_owned());
        }
        let scheme = if https { "https" } else { "http" };
        let port = match authority.port_u16() {
            Some(port) if port != if https { 443 } else { 80 } => format!(":{port}"),
            _ => String::new(),
        };
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            text: format!("{scheme}://{host}{port}{path}"),
            loopback: is_loopback(&host),
            https,
        })
    }

    /// Whether it names this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Whether what is sent there can be read on the way.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.https && !self.loopback
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `localhost`, 127.0.0.0/8 and `[::1]`.
fn is_loopback(host: &str) -> bool {
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Where the token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The environment, already read.
    Environment(Secret),
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// Where the checkpoint is, and what is to be done if it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPlace {
    /// The file.
    pub path: PathBuf,
    /// Whether missing directories above it may be made: for a default place, not for a named one.
    pub create_parents: bool,
    /// Whether its absence is an error.
    pub required: bool,
    /// How long to wait for another run to end.
    pub lock_wait: Duration,
}

/// A run, as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the token comes from.
    pub token: TokenSource,
    /// The service.
    pub endpoint: Url,
    /// The checkpoint; `None` with `--no-checkpoint`.
    pub checkpoint: Option<CheckpointPlace>,
    /// Where a first run starts; `None` for everything retained.
    pub since: Option<OffsetDateTime>,
    /// Only events before this time.
    pub until: Option<OffsetDateTime>,
    /// How far a run looks back for late events.
    pub overlap: Duration,
    /// Events for each page.
    pub page_size: u64,
    /// How long the run may take.
    pub max_time: Option<Duration>,
    /// How long one request may take.
    pub timeout: Duration,
    /// How often a request is tried again.
    pub retries: u32,
    /// Whether to say what was done.
    pub verbose: bool,
}

impl Config {
    /// Decides what arguments and environment mean. `now` is what spans count back from.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn new(
        args: &Args,
        environment: &Environment,
        now: OffsetDateTime,
    ) -> Result<Self, String> {
        let when = |name: &str, text: &Option<String>| {
            text.as_deref()
                .map(|text| parse_when(text, now).map_err(|fault| format!("--{name}: {fault}")))
                .transpose()
        };
        if args.until.is_some() && !args.no_checkpoint {
            return Err("--until goes with --no-checkpoint: a checkpoint would leave out what comes after it".to_owned());
        }
        let (since, until) = (when("since", &args.since)?, when("until", &args.until)?);
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err("--until is not after --since".to_owned());
        }
        Ok(Self {
            token: token_source(args, environment)?,
            endpoint: endpoint(
                args.endpoint
                    .as_deref()
                    .unwrap_or("https://app.terraform.io"),
            )?,
            checkpoint: checkpoint_place(args, environment)?,
            since,
            until,
            overlap: span("overlap", args.overlap.as_ref(), 10 * 60, 1, 24 * 60 * 60)?,
            page_size: number("page-size", args.page_size.as_ref(), 1000, 1, 1000)?,
            max_time: args
                .max_time
                .as_ref()
                .map(|text| span("max-time", Some(text), 0, 1, u64::MAX))
                .transpose()?,
            timeout: span("timeout", args.timeout.as_ref(), 30, 1, 24 * 60 * 60)?,
            retries: u32::try_from(number("retries", args.retries.as_ref(), 5, 0, 1000)?)
                .unwrap_or(u32::MAX),
            verbose: args.verbose,
        })
    }
}

/// Reads an RFC 3339 time, or a span back from now.
fn parse_when(text: &str, now: OffsetDateTime) -> Result<OffsetDateTime, String> {
    if let Some(time) = timestamp::parse(text) {
        return Ok(time);
    }
    let span = timestamp::parse_span(text).map_err(|_| {
        format!("{text:?} is neither a time such as 2026-01-02T03:04:05Z nor a span such as 90s, 10m, 36h or 7d")
    })?;
    Ok(timestamp::before(now, span))
}

/// Reads a span option with its default and limits, all in seconds.
fn span(
    name: &str,
    text: Option<&String>,
    default: u64,
    least: u64,
    most: u64,
) -> Result<Duration, String> {
    let Some(text) = text else {
        return Ok(Duration::from_secs(default));
    };
    let span = timestamp::parse_span(text).map_err(|fault| format!("--{name}: {fault}"))?;
    if (least..=most).contains(&span.as_secs()) {
        return Ok(span);
    }
    let most = if most == u64::MAX {
        String::new()
    } else {
        format!(" and at most {}h", most / 3600)
    };
    Err(format!(
        "--{name}: {text:?} is out of range: at least {least}s{most}"
    ))
}

/// Reads a number option with its default and limits.
fn number(
    name: &str,
    text: Option<&String>,
    default: u64,
    least: u64,
    most: u64,
) -> Result<u64, String> {
    let Some(text) = text else { return Ok(default) };
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!(
            "--{name}: {text:?} is not a number from {least} to {most}"
        )),
    }
}

fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|fault| format!("--endpoint {fault}"))?;
    if url.is_exposed() {
        return Err(
            "--endpoint: the token goes over https only; plain http is for this machine".to_owned(),
        );
    }
    Ok(url)
}

fn token_source(args: &Args, environment: &Environment) -> Result<TokenSource, String> {
    match (&args.token_file, &environment.token) {
        (Some(_), Some(_)) => Err("both --token-file and $TFC_ORG_TOKEN are given: remove one".to_owned()),
        (Some(file), None) if file.is_empty() => Err("--token-file: the file's name is empty".to_owned()),
        (Some(file), None) if file == "-" => Ok(TokenSource::Stdin),
        (Some(file), None) => Ok(TokenSource::File(file.into())),
        (None, Some(token)) => check_token(token.expose())
            .map(|()| TokenSource::Environment(token.clone()))
            .map_err(|fault| format!("$TFC_ORG_TOKEN {fault}")),
        (None, None) => Err("no token: put an organization token or audit-trail token into $TFC_ORG_TOKEN or a file for --token-file".to_owned()),
    }
}

/// Checks that a token can be sent in a header; the message does not repeat it.
///
/// # Errors
/// What is wrong with it.
pub fn check_token(token: &str) -> Result<(), &'static str> {
    if token.is_empty() {
        Err("is empty")
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("holds a character that no token has: a blank, a line break or one that is not ASCII")
    } else {
        Ok(())
    }
}

fn checkpoint_place(
    args: &Args,
    environment: &Environment,
) -> Result<Option<CheckpointPlace>, String> {
    if args.no_checkpoint {
        let with = |given, name: &str| {
            if given {
                Err(format!("--no-checkpoint and --{name} exclude each other"))
            } else {
                Ok(())
            }
        };
        with(args.checkpoint.is_some(), "checkpoint")?;
        with(args.require_checkpoint, "require-checkpoint")?;
        with(args.lock_wait.is_some(), "lock-wait")?;
        with(args.overlap.is_some(), "overlap")?;
        return Ok(None);
    }
    let path = match &args.checkpoint {
        Some(named) if named.is_empty() || named.ends_with('/') => {
            return Err("--checkpoint: this is not the name of a file".to_owned());
        }
        Some(named) => PathBuf::from(named),
        None => default_checkpoint(environment).ok_or(
            "no place for the checkpoint, for there is no $HOME: name one with --checkpoint",
        )?,
    };
    Ok(Some(CheckpointPlace {
        path,
        create_parents: args.checkpoint.is_none(),
        required: args.require_checkpoint,
        lock_wait: span("lock-wait", args.lock_wait.as_ref(), 0, 0, u64::MAX)?,
    }))
}

fn default_checkpoint(environment: &Environment) -> Option<PathBuf> {
    if let Some(directories) = &environment.state_directory {
        // systemd separates several by a colon; the first is the unit's main one.
        let first = std::env::split_paths(directories).next()?;
        return Some(first.join("checkpoint.json"));
    }
    let state = environment.xdg_state_home.as_ref().map(PathBuf::from);
    // The XDG Base Directory Specification has relative paths ignored.
    let state = state.filter(|path| path.is_absolute());
    let state =
        state.or_else(|| Some(PathBuf::from(environment.home.as_ref()?).join(".local/state")))?;
    Some(state.join("tfc-audit/checkpoint.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            token: Some(Secret::new("t0ken".into())),
            home: Some("/home/ann".into()),
            ..Environment::default()
        }
    }

    fn now() -> OffsetDateTime {
        timestamp::parse("2026-01-02T03:04:05Z").unwrap()
    }

    fn config_in(line: &str, environment: &Environment) -> Result<Config, String> {
        match crate::cli::parse(line.split_whitespace().map(ToOwned::to_owned))? {
            crate::cli::Command::Run(args) => Config::new(&args, environment, now()),
            crate::cli::Command::Print(text) => panic!("{text}"),
        }
    }

    fn config(line: &str) -> Result<Config, String> {
        config_in(line, &environment())
    }

    #[test]
    fn defaults() {
        let config = config("").unwrap();
        assert_eq!(config.endpoint.to_string(), "https://app.terraform.io");
        assert_eq!(
            (config.page_size, config.retries, config.max_time),
            (1000, 5, None)
        );
        assert_eq!(
            (config.overlap.as_secs(), config.timeout.as_secs()),
            (600, 30)
        );
        let place = config.checkpoint.unwrap();
        assert_eq!(
            place.path.to_str(),
            Some("/home/ann/.local/state/tfc-audit/checkpoint.json")
        );
        assert!(place.create_parents && !place.required && place.lock_wait.is_zero());
    }

    #[test]
    fn the_checkpoint_lies_where_the_environment_says() {
        let path = |environment: &Environment| {
            config_in("", environment).map(|config| config.checkpoint.unwrap().path)
        };
        let mut environment = environment();
        environment.xdg_state_home = Some("relative".into());
        assert_eq!(
            path(&environment).unwrap(),
            PathBuf::from("/home/ann/.local/state/tfc-audit/checkpoint.json")
        );
        environment.xdg_state_home = Some("/state".into());
        assert_eq!(
            path(&environment).unwrap(),
            PathBuf::from("/state/tfc-audit/checkpoint.json")
        );
        environment.state_directory = Some("/var/lib/tfc-audit:/var/lib/other".into());
        assert_eq!(
            path(&environment).unwrap(),
            PathBuf::from("/var/lib/tfc-audit/checkpoint.json")
        );
        assert!(
            !config_in("-c x", &environment)
                .unwrap()
                .checkpoint
                .unwrap()
                .create_parents
        );
        assert!(
            path(&Environment {
                token: environment.token,
                ..Environment::default()
            })
            .unwrap_err()
            .contains("--checkpoint")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let lines = [
            "--until 1h",
            "--no-checkpoint --since 1h --until 2h",
            "--no-checkpoint --checkpoint x",
            "--no-checkpoint --require-checkpoint",
            "--no-checkpoint --lock-wait 1s",
            "--no-checkpoint --overlap 1m",
            "--checkpoint=",
            "--checkpoint dir/",
            "--since yesterday",
            "--overlap 0s",
            "--overlap 25h",
            "--page-size 0",
            "--page-size 1001",
            "--page-size -1",
            "--retries x",
            "--timeout 0s",
            "--max-time 0s",
            "--endpoint app.terraform.io",
            "--endpoint ftp://app.terraform.io",
            "--endpoint http://app.terraform.io",
            "--endpoint http://localhost.example.com",
            "--endpoint https://user:hunter2@app.terraform.io",
            "--endpoint https://app.terraform.io/?token=hunter2",
            "--endpoint https://app.terraform.io/#x",
            "--token-file x",
        ];
        for line in lines {
            let message = config(line).expect_err(line);
            assert!(
                !message.contains('\n') && !message.contains("hunter2"),
                "{message}"
            );
        }
    }

    #[test]
    fn times_and_spans_back_from_now() {
        let since = |text: &str| {
            timestamp::format(config(&format!("--since {text}")).unwrap().since.unwrap())
        };
        assert_eq!(since("36h"), "2025-12-31T15:04:05.000Z");
        assert_eq!(
            since("2026-01-01T01:00:00+01:00"),
            "2026-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn an_address_has_one_spelling() {
        let spelling = |text: &str| Url::parse(text).unwrap().to_string();
        for text in ["https://app.terraform.io", "HTTPS://App.Terraform.IO:443/"] {
            assert_eq!(spelling(text), "https://app.terraform.io", "{text}");
        }
        assert_eq!(spelling("http://127.0.0.1:80/a/"), "http://127.0.0.1/a");
        assert_eq!(spelling("http://[::1]:8080"), "http://[::1]:8080");
        for text in ["http://localhost:1", "http://127.1.2.3", "http://[::1]:1"] {
            assert!(Url::parse(text).unwrap().is_loopback(), "{text}");
        }
    }

    #[test]
    fn a_token_is_neither_shown_nor_accepted_if_it_cannot_be_one() {
        let with = |token: &str| {
            config_in(
                "",
                &Environment {
                    token: Some(Secret::new(token.into())),
                    ..environment()
                },
            )
        };
        for token in ["", "hunter2\n", "hunter2\r\nX: y", "hunter 2", "hünter2"] {
            let message = with(token).unwrap_err();
            assert!(
                message.starts_with("$TFC_ORG_TOKEN") && !message.contains("nter"),
                "{message}"
            );
        }
        assert!(!format!("{:?}", with("hunter2").unwrap()).contains("hunter2"));
        assert!(
            config_in(
                "",
                &Environment {
                    token: None,
                    ..environment()
                }
            )
            .unwrap_err()
            .contains("no token")
        );
    }
}
