//! What the API client and delivery by POST have in common: how ureq is set up, and how its errors
//! and answers are put into words.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use ureq::config::Config;
use ureq::http::{Response, Uri, header::HeaderMap};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body, Error, Proxy, RequestBuilder};

use crate::clock::{Clock, SystemClock};
use crate::retry::named_wait;
use crate::text::excerpt;

/// The largest body of an answer that is read, after decompression. A page of 1,000 events is about
/// 0.6 MB.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// How long connecting may take at most, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long addresses are used without asking for them again: as long as name servers let them be
/// kept at least, mostly.
const ADDRESSES_LAST: Duration = Duration::from_secs(30);

/// Connections to one side, kept alive between requests.
#[derive(Debug)]
pub struct Connection {
    agent: Agent,
    timeout: Duration,
}

impl Connection {
    /// Prepares an agent that leaves every decision to us: statuses are answers, redirects are not
    /// followed, every request has a time limit, and what goes to this machine goes through no
    /// proxy. Nothing is sent yet.
    #[must_use]
    pub fn new(loopback: bool, timeout: Duration) -> Self {
        let proxy = if loopback {
            None
        } else {
            Proxy::try_from_env()
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .user_agent(concat!("tfc-audit/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy)
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::PlatformVerifier)
                    .build(),
            )
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), Addresses::new());
        Self { agent, timeout }
    }

    /// The agent to make requests with.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Gives a request a shorter time limit, if it has to be. It then gets TLS settings of its own
    /// on a new connection, so that only the last ones before `--max-time` are treated so.
    #[must_use]
    pub fn limit<B>(&self, request: RequestBuilder<B>, timeout: Duration) -> RequestBuilder<B> {
        if timeout >= self.timeout {
            request
        } else {
            request.config().timeout_global(Some(timeout)).build()
        }
    }
}

/// Looks the addresses of a host up, and not again for a while. ureq asks before every request, also
/// where a connection is open or the host is an address, and on a thread of its own, for the sake of
/// the time limit.
#[derive(Debug)]
struct Addresses {
    clock: SystemClock,
    /// Of the last host, and when they were found.
    found: Mutex<Option<(Uri, Duration, ResolvedSocketAddrs)>>,
}

impl Addresses {
    fn new() -> Self {
        Self {
            clock: SystemClock::start(),
            found: Mutex::new(None),
        }
    }
}

impl Resolver for Addresses {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.scheme().zip(uri.authority());
        let host = host.and_then(|(scheme, host)| DefaultResolver::host_and_port(scheme, host));
        if let Some(address) = host.and_then(|host| host.parse().ok()) {
            let mut addresses = self.empty();
            addresses.push(address);
            return Ok(addresses);
        }
        let now = self.clock.elapsed();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((host, at, addresses)) = &*found
            && (host.scheme(), host.authority()) == (uri.scheme(), uri.authority())
            && now.saturating_sub(*at) < ADDRESSES_LAST
        {
            return Ok(addresses.clone());
        }
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        *found = Some((uri.clone(), now, addresses.clone()));
        Ok(addresses)
    }
}

/// Reads an answer's body, up to a limit, in place of what is in `bytes`.
///
/// # Errors
/// If it breaks off or is too large.
pub fn read_body(response: Response<Body>, mut bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    let body = response.into_body();
    let length = body
        .content_length()
        .filter(|&length| length <= LARGEST_BODY);
    let mut reader = body.into_with_config().limit(LARGEST_BODY).reader();
    // With an announced length, nothing is copied because the buffer has to grow, and what was
    // written to before need not be cleared.
    let length = length.and_then(|length| usize::try_from(length).ok());
    bytes.resize(length.unwrap_or_default(), 0);
    reader.read_exact(&mut bytes)?;
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a request that brought no whole answer is worth another try.
#[must_use]
pub fn is_passing(error: &Error) -> bool {
    !matches!(
        error,
        Error::BodyExceedsLimit(_)
            | Error::LargeResponseHeader(..)
            | Error::Rustls(_)
            | Error::Tls(_)
            | Error::BadUri(_)
            | Error::Http(_)
    )
}

/// An error in words, safe to show.
#[must_use]
pub fn describe(error: &Error) -> String {
    match error {
        Error::BodyExceedsLimit(limit) => format!("the answer is larger than {} MiB", limit >> 20),
        Error::Io(error) => excerpt(error.to_string().as_bytes()),
        other => excerpt(other.to_string().as_bytes()),
    }
}

/// A header's value, if it is there and is text.
#[must_use]
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The wait that an answer asks for.
#[must_use]
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    named_wait(|name| header(headers, name), OffsetDateTime::now_utc())
}

/// The wait after an answer that was the last one of the rate limit's window: HCP Terraform sends
/// `x-ratelimit-remaining`, and `x-ratelimit-reset` in seconds.
#[must_use]
pub fn spent(headers: &HeaderMap) -> Option<Duration> {
    let is_spent = header(headers, "x-ratelimit-remaining").is_some_and(|left| left.trim() == "0");
    is_spent.then(|| wait(headers)).flatten()
}

/// Where a redirect leads, as ` to ADDRESS`: without what follows `?` or `#`, which may be secret.
/// Empty for any other answer.
#[must_use]
pub fn redirect(response: &Response<Body>) -> String {
    let location = response
        .status()
        .is_redirection()
        .then(|| header(response.headers(), "location"))
        .flatten();
    let address = location.and_then(|location| location.split(['?', '#']).next());
    address
        .map(|address| format!(" to {}", excerpt(address.as_bytes())))
        .unwrap_or_default()
}
