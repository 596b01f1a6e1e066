//! What the API client and delivery by POST have in common: how ureq is set up, and how its errors
//! and answers are put into words.

pub mod tls;

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{Response, Uri, header::HeaderMap};
use ureq::tls::ClientCert;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body, Error, RequestBuilder, Timeout};

use crate::clock::{Clock, SystemClock};
use crate::config::proxy::Proxy;
use crate::retry::{self, named_wait};
use crate::text::excerpt;

/// How long connecting may take at most, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// By how much a request may overstay its time before its connection is taken away.
const GRACE: Duration = Duration::from_millis(200);
/// As many as `--connections` may be: none is closed between two requests.
const MOST_CONNECTIONS: usize = 16;
/// What to do where there is no connection.
const UNREACHABLE: &str = "is the address right, the other side up, and the way there open?";
/// How it shows that the other side went away.
const BROKEN_OFF: [ErrorKind; 4] = [
    ErrorKind::UnexpectedEof,
    ErrorKind::BrokenPipe,
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
];

/// How long addresses are used without asking for them again: as long as name servers let them be
/// kept at least, mostly.
const ADDRESSES_LAST: Duration = Duration::from_secs(30);

/// Connections to one side, kept alive between requests.
#[derive(Debug)]
pub struct Connection {
    agent: Mutex<Agent>,
    timeout: Duration,
    proxy: Option<Proxy>,
    shows_certificate: bool,
}

impl Connection {
    /// Prepares an agent that leaves every decision to us: statuses are answers, redirects are not
    /// followed, every request has a time limit, and it goes through the proxy that was chosen for
    /// it. Nothing is sent yet.
    #[must_use]
    pub fn new(proxy: Option<&Proxy>, client: Option<ClientCert>, timeout: Duration) -> Self {
        let shows_certificate = client.is_some();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .max_idle_connections(MOST_CONNECTIONS)
            .max_idle_connections_per_host(MOST_CONNECTIONS)
            .user_agent(concat!("tfc-audit/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy.map(Proxy::to_ureq))
            .tls_config(tls::config(client))
            .build();
        Self {
            agent: Mutex::new(agent(config)),
            timeout,
            proxy: proxy.cloned(),
            shows_certificate,
        }
    }

    /// Makes a request and gives its answer, whose body is still to be read.
    ///
    /// # Errors
    /// If there is none `timeout` after the start, whatever the other side does. ureq's own limit
    /// (see [`Connection::limit`]) leaves a gap: a proxy that answers CONNECT byte by byte is given
    /// the whole time again for each. So, where there is a proxy, somebody else looks at the clock,
    /// too, and takes the connections away.
    pub fn send(
        &self,
        timeout: Duration,
        request: impl FnOnce(&Agent) -> Result<Response<Body>, Error>,
    ) -> Result<Response<Body>, Error> {
        let lock = || self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = lock().clone();
        if self.proxy.is_none() {
            return request(&agent);
        }
        let (end, ended) = mpsc::channel::<()>();
        let watched = agent.clone();
        // Without a thread to be had, ureq's own limit has to do.
        let watch = thread::Builder::new().spawn(move || {
            let waited = ended.recv_timeout(timeout.saturating_add(GRACE));
            let is_over = waited == Err(RecvTimeoutError::Timeout);
            if is_over {
                watched.shutdown();
            }
            is_over
        });
        let answer = request(&agent);
        drop(end);
        if !watch.is_ok_and(|watch| watch.join().unwrap_or(true)) {
            return answer;
        }
        *lock() = self::agent(agent.config().clone());
        answer.map_err(|_| Error::Timeout(Timeout::Global))
    }

    /// Gives a request a shorter time limit, if it has to be. It then prepares TLS anew if it needs
    /// a new connection, so that only the last ones before `--max-time` are treated so.
    #[must_use]
    pub fn limit<B>(&self, request: RequestBuilder<B>, timeout: Duration) -> RequestBuilder<B> {
        if timeout >= self.timeout {
            request
        } else {
            request.config().timeout_global(Some(timeout)).build()
        }
    }

    /// An error in words: what failed and, where that is known, what to do. Safe to show.
    #[must_use]
    pub fn describe(&self, error: &Error) -> String {
        let words = match error {
            Error::BodyExceedsLimit(limit) => {
                format!("the answer is larger than {} MiB", limit >> 20)
            }
            Error::LargeResponseHeader(_, limit) => {
                format!(
                    "the headers of the answer are larger than {} KiB",
                    limit >> 10
                )
            }
            Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                format!("there was no connection in time; {UNREACHABLE}")
            }
            Error::Timeout(_) => {
                "there was no whole answer in time (--timeout, or --max-time)".to_owned()
            }
            Error::ConnectProxyFailed(_) => self.refused_by_proxy(error),
            Error::Protocol(error) => format!(
                "this is no proper HTTP ({})",
                excerpt(error.to_string().as_bytes())
            ),
            Error::BodyStalled => "this is no proper HTTP".to_owned(),
            other => match (tls::fault(other), other) {
                (Some(fault), _) => tls::describe(fault),
                (None, Error::Io(error)) if BROKEN_OFF.contains(&error.kind()) => {
                    let hint = if self.shows_certificate {
                        " (a server that does not accept the client certificate may do so)"
                    } else {
                        ""
                    };
                    format!("the connection broke off before the answer was whole{hint}")
                }
                (None, Error::Io(error)) => {
                    let text = excerpt(error.to_string().as_bytes());
                    format!("{text}; {UNREACHABLE}")
                }
                (None, Error::HostNotFound) => format!("{other}; {UNREACHABLE}"),
                (None, other) => excerpt(other.to_string().as_bytes()),
            },
        };
        match &self.proxy {
            Some(proxy) => format!("by way of the proxy {proxy}: {words}"),
            None => words,
        }
    }

    fn refused_by_proxy(&self, error: &Error) -> String {
        match (proxy_status(error), &self.proxy) {
            (Some(407), Some(proxy)) => format!(
                "the proxy answered 407, it wants a user name and a password: ${} takes them as http://USER:PASSWORD@HOST:PORT (special characters percent-encoded)",
                proxy.variable()
            ),
            (Some(status), _) => format!(
                "the proxy answered {status}: may it connect to this host and port, and can it? NO_PROXY names what is asked without it"
            ),
            (None, _) => "the proxy did not answer".to_owned(),
        }
    }
}

fn agent(config: Config) -> Agent {
    Agent::with_parts(config, DefaultConnector::default(), Addresses::new())
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
        let found = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((host, at, addresses)) = &*found()
            && (host.scheme(), host.authority()) == (uri.scheme(), uri.authority())
            && now.saturating_sub(*at) < ADDRESSES_LAST
        {
            return Ok(addresses.clone());
        }
        // Not under the lock: one that waits for a name server must not hold up the others.
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        *found() = Some((uri.clone(), now, addresses.clone()));
        Ok(addresses)
    }
}

/// The status by which a proxy refused to connect, from the only place where ureq has it: the text
/// `proxy server responded 407/407`.
fn proxy_status(error: &Error) -> Option<u16> {
    let Error::ConnectProxyFailed(text) = error else {
        return None;
    };
    text.split(|c: char| !c.is_ascii_digit())
        .find_map(|digits| digits.parse().ok())
}

/// Reads an answer's body, up to a limit that holds for what comes out of a compressed one, in place
/// of what is in `bytes`. What could be read is there also if there is an error.
///
/// # Errors
/// If it breaks off or is larger.
pub fn read_body(response: Response<Body>, most: u64, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let body = response.into_body();
    let length = body.content_length().filter(|&length| length <= most);
    let length = length.and_then(|length| usize::try_from(length).ok());
    let mut reader = body.into_with_config().limit(most).reader();
    // With an announced length, nothing is copied because the buffer has to grow, and what was
    // written to before need not be cleared.
    bytes.resize(length.unwrap_or_default(), 0);
    let mut read = 0;
    while read < bytes.len() {
        match reader.read(&mut bytes[read..]) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                bytes.truncate(read);
                return Err(error.into());
            }
        }
    }
    bytes.truncate(read);
    reader.read_to_end(bytes)?;
    Ok(())
}

/// Whether a request that brought no whole answer is worth another try.
#[must_use]
pub fn is_retryable(error: &Error) -> bool {
    match error {
        Error::BodyExceedsLimit(_)
        | Error::LargeResponseHeader(..)
        | Error::Tls(_)
        | Error::BadUri(_)
        | Error::Http(_) => false,
        Error::ConnectProxyFailed(_) => proxy_status(error).is_none_or(retry::is_retryable),
        other => !tls::fault(other).is_some_and(tls::is_permanent),
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
    named_wait(|name| header(headers, name), SystemClock::start().now())
}

/// The wait after an answer that was the last one of the rate limit's window: HCP Terraform sends
/// `x-ratelimit-remaining`, and `x-ratelimit-reset` in seconds.
#[must_use]
pub fn spent(headers: &HeaderMap) -> Option<Duration> {
    let is_spent = header(headers, "x-ratelimit-remaining").is_some_and(|left| left.trim() == "0");
    is_spent.then(|| wait(headers)).flatten()
}

/// Where a redirect leads, as ` to ADDRESS`: without what may be secret in it, which is the user's
/// name and password and what follows `?` or `#`. Empty for any other answer.
#[must_use]
pub fn redirect(response: &Response<Body>) -> String {
    let location = response
        .status()
        .is_redirection()
        .then(|| response.headers().get("location"))
        .flatten();
    location
        .map(|location| {
            let location = String::from_utf8_lossy(location.as_bytes());
            format!(" to {}", excerpt(public(&location).as_bytes()))
        })
        .unwrap_or_default()
}

/// An address without what may be secret in it.
fn public(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    match address.split_once("//") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}//{host}{path}")
        }
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_may_be_secret() {
        for (address, shown) in [
            ("https://a.example.com/b", "https://a.example.com/b"),
            (
                "https://u:hunter2@a.example.com/b@c?hunter2",
                "https://a.example.com/b@c",
            ),
            ("//u@hunter2@a.example.com?hunter2", "//a.example.com"),
            ("/login?hunter2#hunter2", "/login"),
            ("#hunter2", ""),
        ] {
            assert_eq!(public(address), shown);
        }
    }

    #[test]
    fn a_window_that_is_spent_is_waited_for() {
        for (left, reset, wait) in [
            ("0", Some("0.25"), Some(250)),
            ("1", Some("0.25"), None),
            ("0", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-ratelimit-remaining", left.parse().unwrap());
            if let Some(reset) = reset {
                headers.insert("x-ratelimit-reset", reset.parse().unwrap());
            }
            assert_eq!(spent(&headers), wait.map(Duration::from_millis));
        }
    }

    #[test]
    fn a_proxy_that_refuses_may_do_otherwise_later_or_not() {
        let failed = |text: &str| Error::ConnectProxyFailed(text.to_owned());
        for (text, retryable) in [
            ("proxy server responded 407/407", false),
            ("proxy server responded 403/403", false),
            ("proxy server responded 503/503", true),
            ("proxy server did not respond", true),
        ] {
            assert_eq!(is_retryable(&failed(text)), retryable, "{text}");
        }
    }
}
