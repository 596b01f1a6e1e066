//! What was meant: arguments and environment as one validated configuration. Nothing else reads
//! either.

pub mod proxy;
pub mod url;
pub mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ::time::OffsetDateTime;

use crate::cli::Args;
use crate::config::proxy::Proxy;
use crate::config::url::Url;
use crate::config::values::{
    CheckpointPlace, ClientFiles, Header, TokenSource, check_token, parse_header,
};
use crate::format::{FORMATS, Format, Label, Limits};
use crate::secret::Secret;
use crate::time;

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
    /// The variables that name proxies.
    pub proxies: proxy::Variables,
    /// `$TERM`.
    pub terminal: Option<OsString>,
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
            proxies: proxy::Variables::new(|name| {
                std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
            }),
            terminal: path("TERM"),
        }
    }
}

/// Delivery by POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Where to.
    pub url: Url,
    /// By way of which proxy.
    pub proxy: Option<Proxy>,
    /// How the run proves who it is, if the receiver asks.
    pub client: Option<ClientFiles>,
    /// In which format.
    pub format: Format,
    /// With which headers.
    pub headers: Vec<Header>,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// Labels for formats that have some.
    pub labels: Vec<Label>,
    /// Where refused events go.
    pub dead_letter: Option<PathBuf>,
}

/// Where events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To standard output.
    Stdout,
    /// To a receiver.
    Post(Box<Post>),
    /// To the standard input of a shell command.
    Exec(String),
}

/// A run, as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that was meant or not"
)]
pub struct Config {
    /// Whether to print what would be delivered and deliver nothing.
    pub dry_run: bool,
    /// Where the token comes from.
    pub token: TokenSource,
    /// The service.
    pub endpoint: Url,
    /// By way of which proxy the service is asked.
    pub proxy: Option<Proxy>,
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
    /// How many pages of a backlog are asked for at once.
    pub connections: u64,
    /// How long the run may take.
    pub max_time: Option<Duration>,
    /// How long one request may take.
    pub timeout: Duration,
    /// How often a request is tried again.
    pub retries: u32,
    /// Where events go.
    pub destination: Destination,
    /// How large a batch may be.
    pub limits: Limits,
    /// Whether fields whose type varies get one type.
    pub normalize: bool,
    /// Where the run's figures go.
    pub metrics: Option<PathBuf>,
    /// Whether to say what was done.
    pub verbose: bool,
    /// Whether the terminal, if there is one, can clear a line.
    pub clears_lines: bool,
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
        if since.is_some_and(|since| since > now) {
            return Err("--since lies in the future".to_owned());
        }
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err("--until is not after --since".to_owned());
        }
        let endpoint = endpoint(
            args.endpoint
                .as_deref()
                .unwrap_or("https://app.terraform.io"),
        )?;
        if args.check && args.dry_run {
            return Err("--check and --dry-run exclude each other".to_owned());
        }
        Ok(Self {
            dry_run: args.dry_run,
            token: token_source(args, environment)?,
            proxy: environment.proxies.choose(&endpoint)?,
            endpoint,
            checkpoint: checkpoint_place(args, environment)?,
            since,
            until,
            overlap: span("overlap", args.overlap.as_ref(), 10 * 60, 1, 24 * 60 * 60)?,
            page_size: number("page-size", args.page_size.as_ref(), 1000, 1, 1000)?,
            connections: number("connections", args.connections.as_ref(), 4, 1, 16)?,
            max_time: args
                .max_time
                .as_ref()
                .map(|text| span("max-time", Some(text), 0, 1, u64::MAX))
                .transpose()?,
            timeout: span("timeout", args.timeout.as_ref(), 30, 1, 24 * 60 * 60)?,
            retries: u32::try_from(number("retries", args.retries.as_ref(), 5, 0, 1000)?)
                .unwrap_or(u32::MAX),
            destination: destination(args, environment)?,
            limits: limits(args)?,
            normalize: args.normalize,
            metrics: metrics_file(args)?,
            verbose: args.verbose,
            clears_lines: environment
                .terminal
                .as_ref()
                .is_some_and(|terminal| terminal != "dumb"),
        })
    }
}

/// The file of `--metrics`, which a run with an error elsewhere in its configuration writes, too.
///
/// # Errors
/// If it has no name.
pub fn metrics_file(args: &Args) -> Result<Option<PathBuf>, String> {
    let name = args.metrics.as_ref();
    name.map(|name| file("metrics", name)).transpose()
}

/// Refuses what cannot be the name of a file, such as a variable of a script that was not set.
fn file(option: &str, name: &str) -> Result<PathBuf, String> {
    if name.is_empty() || name.ends_with('/') {
        return Err(format!("--{option}: {name:?} is not the name of a file"));
    }
    Ok(name.into())
}

/// Reads an RFC 3339 time, or a span back from now.
fn parse_when(text: &str, now: OffsetDateTime) -> Result<OffsetDateTime, String> {
    if let Some(time) = time::parse(text) {
        return Ok(time);
    }
    let span = time::parse_span(text).map_err(|_| {
        format!("{text:?} is neither a time such as 2026-01-02T03:04:05Z nor a span such as 90s, 10m, 36h or 7d")
    })?;
    Ok(time::before(now, span))
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
    let span = time::parse_span(text).map_err(|fault| format!("--{name}: {fault}"))?;
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
    let url = Url::parse_endpoint(text).map_err(|fault| format!("--endpoint {fault}"))?;
    if url.is_exposed() {
        return Err(
            "--endpoint: the token goes over https only; plain http is for this machine".to_owned(),
        );
    }
    Ok(url)
}

fn limits(args: &Args) -> Result<Limits, String> {
    if args.post.is_none() && args.exec.is_none() {
        goes_with(
            args.batch_events.is_some(),
            "batch-events",
            "--post or --exec",
        )?;
        goes_with(
            args.batch_bytes.is_some(),
            "batch-bytes",
            "--post or --exec",
        )?;
    }
    let limit = |name, text: &Option<String>, default| {
        number(name, text.as_ref(), default, 1, 1 << 30)
            .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
    };
    Ok(Limits {
        events: limit("batch-events", &args.batch_events, 1000)?,
        bytes: limit("batch-bytes", &args.batch_bytes, 1 << 20)?,
    })
}

/// Refuses an option that means nothing without another.
fn goes_with(given: bool, name: &str, other: &str) -> Result<(), String> {
    if given {
        Err(format!("--{name} goes with {other}"))
    } else {
        Ok(())
    }
}

fn destination(args: &Args, environment: &Environment) -> Result<Destination, String> {
    let Some(post) = &args.post else {
        goes_with(args.format.is_some(), "format", "--post")?;
        goes_with(!args.header.is_empty(), "header", "--post")?;
        goes_with(args.gzip, "gzip", "--post")?;
        goes_with(!args.label.is_empty(), "label", "--post")?;
        goes_with(args.dead_letter.is_some(), "dead-letter", "--post")?;
        goes_with(args.allow_plain_http, "allow-plain-http", "--post")?;
        goes_with(args.client_cert.is_some(), "client-cert", "--post")?;
        goes_with(args.client_key.is_some(), "client-key", "--post")?;
        return match args.exec.as_deref() {
            None => Ok(Destination::Stdout),
            Some(command) if command.trim().is_empty() => {
                Err("--exec: the command is empty".to_owned())
            }
            Some(command) => Ok(Destination::Exec(command.to_owned())),
        };
    };
    if args.exec.is_some() {
        return Err("--post and --exec exclude each other".to_owned());
    }
    let name = args.format.as_deref().unwrap_or("ndjson");
    let format = FORMATS
        .iter()
        .find(|format| format.0 == name)
        .map(|format| format.1)
        .ok_or_else(|| {
            format!(
                "--format: {name:?} is none of {}",
                FORMATS.map(|format| format.0).join(", ")
            )
        })?;
    let url = Url::parse(post).map_err(|fault| format!("--post {fault}"))?;
    let headers: Vec<Header> = args
        .header
        .iter()
        .map(|text| match text.strip_prefix('@') {
            Some(name) => file("header", name).map(Header::File),
            None => parse_header(text)
                .map(|(name, value)| Header::Given(name, value))
                .map_err(|fault| format!("--header: one {fault}")),
        })
        .collect::<Result<_, _>>()?;
    if url.is_exposed() && !headers.is_empty() && !args.allow_plain_http {
        return Err("--header values would go over plain http, where everybody on the way can read them; use https, or --allow-plain-http if that is meant".to_owned());
    }
    if !matches!(format, Format::SplunkHec | Format::Loki) {
        goes_with(
            !args.label.is_empty(),
            "label",
            "--format splunk-hec or loki",
        )?;
    }
    let dead_letter = args.dead_letter.as_ref();
    let dead_letter = dead_letter
        .map(|name| file("dead-letter", name))
        .transpose()?;
    let client = client_files(args, &url)?;
    let url = url.with_path(|path| format.path(path));
    let labels = args
        .label
        .iter()
        .map(|text| label(text, format))
        .collect::<Result<_, _>>()?;
    Ok(Destination::Post(Box::new(Post {
        proxy: environment.proxies.choose(&url)?,
        url,
        client,
        format,
        headers,
        gzip: args.gzip,
        labels,
        dead_letter,
    })))
}

fn client_files(args: &Args, url: &Url) -> Result<Option<ClientFiles>, String> {
    match (&args.client_cert, &args.client_key) {
        (None, None) => Ok(None),
        (Some(_), None) => Err("--client-cert goes with --client-key".to_owned()),
        (None, Some(_)) => Err("--client-key goes with --client-cert".to_owned()),
        (Some(_), Some(_)) if !url.is_https() => {
            Err("--client-cert: a certificate is shown over https only".to_owned())
        }
        (Some(certificate), Some(key)) => Ok(Some(ClientFiles {
            certificate: file("client-cert", certificate)?,
            key: file("client-key", key)?,
        })),
    }
}

/// Reads `KEY=VALUE`. A name is what Loki takes for one:
/// <https://grafana.com/docs/loki/latest/get-started/labels/>.
fn label(text: &str, format: Format) -> Result<Label, String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("--label: {text:?} is not of the form KEY=VALUE"))?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_loki_name = name.chars().all(is_word) && !name.starts_with(|c: char| c.is_ascii_digit());
    if name.is_empty() || format == Format::Loki && !is_loki_name {
        return Err(format!(
            "--label: {name:?} is no name for a label: letters, digits and _, no digit first"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn token_source(args: &Args, environment: &Environment) -> Result<TokenSource, String> {
    match (&args.token_file, &environment.token) {
        (Some(_), Some(_)) => Err("both --token-file and $TFC_ORG_TOKEN are given: remove one".to_owned()),
        (Some(name), None) if name == "-" => Ok(TokenSource::Stdin),
        (Some(name), None) => file("token-file", name).map(TokenSource::File),
        (None, Some(token)) => check_token(token.expose())
            .map(|()| TokenSource::Environment(token.clone()))
            .map_err(|fault| format!("$TFC_ORG_TOKEN {fault}")),
        (None, None) => Err("no token: put an organization token or audit-trail token into $TFC_ORG_TOKEN or a file for --token-file".to_owned()),
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
        Some(name) => file("checkpoint", name)?,
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
        time::parse("2026-01-02T03:04:05Z").unwrap()
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
            "--check --dry-run",
            "--metrics=",
            "--metrics /",
            "--checkpoint=",
            "--checkpoint dir/",
            "--since yesterday",
            "--since 2030-01-01T00:00:00Z",
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
            "--endpoint https://app.terraform.io:https",
            "--endpoint https://app.terraform.io:65536",
            "--endpoint https://app.terraform.io:",
            "--endpoint http://[::1]x",
            "--token-file x",
            "--post http://localhost:1 --exec cat",
            "--format json",
            "--exec cat --format json",
            "--header a:b",
            "--gzip",
            "--label a=b",
            "--dead-letter x",
            "--exec cat --dead-letter x",
            "--allow-plain-http",
            "--batch-events 5",
            "--batch-bytes 5",
            "--exec=",
            "--post localhost:1",
            "--post https://user:hunter2@localhost",
            "--post http://localhost:1 --format csv",
            "--post http://localhost:1 --batch-events 0",
            "--post http://localhost:1 --header hunter2",
            "--post http://localhost:1 --header a:hünter2\u{7f}",
            "--post http://localhost:1 --header a\u{e9}:hunter2",
            "--post http://localhost:1 --header Content-Length:5",
            "--post http://siem.example.com --header Authorization:hunter2",
            "--post http://localhost:1 --label a=b",
            "--post http://localhost:1 --format loki --label a-b=c",
            "--post http://localhost:1 --format loki --label a",
            "--post http://localhost:1 --dead-letter=",
            "--post http://localhost:1 --header @",
            "--post https://localhost --client-cert= --client-key y",
            "--client-cert x --client-key y",
            "--post https://localhost --client-cert x",
            "--post https://localhost --client-key y",
            "--post http://localhost:1 --client-cert x --client-key y",
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
        let since =
            |text: &str| time::format(config(&format!("--since {text}")).unwrap().since.unwrap());
        assert_eq!(since("36h"), "2025-12-31T15:04:05.000Z");
        assert_eq!(
            since("2026-01-01T01:00:00+01:00"),
            "2026-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn an_address_has_one_spelling() {
        let spelling = |text: &str| {
            endpoint(text)
                .or_else(|_| Url::parse(text).map_err(str::to_owned))
                .unwrap()
                .to_string()
        };
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
    fn destinations() {
        let post = |line: &str| match config(line).unwrap().destination {
            Destination::Post(post) => post,
            other => panic!("{other:?}"),
        };
        assert_eq!(config("").unwrap().destination, Destination::Stdout);
        assert_eq!(
            config("--exec cat").unwrap().destination,
            Destination::Exec("cat".into())
        );
        let datadog =
            post("--post https://intake.example.com/api/v2/logs?key=hunter2 --format json-array");
        assert_eq!(
            datadog.url.expose(),
            "https://intake.example.com/api/v2/logs?key=hunter2"
        );
        assert_eq!(
            datadog.url.to_string(),
            "https://intake.example.com/api/v2/logs"
        );
        assert!(!format!("{datadog:?}").contains("hunter2"));
        let loki = post("--post http://loki.example.com:3100 --format loki --label env=a=b");
        assert_eq!(
            loki.url.to_string(),
            "http://loki.example.com:3100/loki/api/v1/push"
        );
        assert_eq!(loki.labels, [("env".to_owned(), "a=b".to_owned())]);
        let plain = post(
            "--post http://siem.example.com --header X-Key:hunter2 --allow-plain-http --header @file",
        );
        assert_eq!(
            plain.headers,
            [
                Header::Given("X-Key".into(), Secret::new("hunter2".into())),
                Header::File("file".into())
            ]
        );
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
