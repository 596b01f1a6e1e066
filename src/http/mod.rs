//! Connections to the service and to receivers, and their errors in plain words.
//!
//! ureq makes the requests. It is set up so that every decision stays here: a status is an answer
//! and no error, no redirect is followed, and each request has a time limit.

pub mod tls;

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ureq::http::{Response, header::HeaderMap};
use ureq::tls::ClientCert;
use ureq::{Agent, Body, Error, RequestBuilder, Timeout};

use crate::config::proxy::Proxy;
use crate::retry::{self, named_wait};
use crate::secret::{self, Secret};
use crate::text::excerpt;

/// The time limit for connecting, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than its time limit a request may take before its connection is closed.
const GRACE: Duration = Duration::from_millis(200);
/// The largest `--connections`: none is closed between two requests.
const MOST_CONNECTIONS: usize = 16;
/// The most bytes that an announced size reserves: more than a page of 1,000 events has.
const MOST_ANNOUNCED: u64 = 4 * 1024 * 1024;
/// Buffers for bodies grow in steps of so many bytes.
const STEP: usize = 64 * 1024;
/// The bytes of a request that wait to be sent, for each connection. ureq's own 128 KiB would cost
/// 8 connections to the service a MiB.
const OUTPUT_BUFFER: usize = 16 * 1024;
/// The largest number of requests a second that is believed.
const MOST_ALLOWED: u32 = 10_000;
/// The advice where there is no connection.
const UNREACHABLE: &str =
    "check the address, that the server is running, and that this machine may reach it";
/// The errors of a connection that the other side closed.
const BROKEN_OFF: [ErrorKind; 4] = [
    ErrorKind::UnexpectedEof,
    ErrorKind::BrokenPipe,
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
];

/// Connections to one server, kept open between requests.
pub struct Connection {
    agent: Mutex<Agent>,
    timeout: Duration,
    proxy: Option<Proxy>,
    shows_certificate: bool,
    /// All that is sent and must not be shown.
    secrets: Vec<Secret>,
}

impl Connection {
    /// Prepares connections through this proxy and with this client certificate. `timeout` limits
    /// each request. `secrets` are what requests will hold and messages must not. Nothing is sent
    /// yet.
    pub fn new(
        proxy: Option<&Proxy>,
        client: Option<ClientCert>,
        timeout: Duration,
        mut secrets: Vec<Secret>,
    ) -> Self {
        secrets.extend(proxy.into_iter().flat_map(Proxy::secrets));
        let shows_certificate = client.is_some();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(MOST_CONNECTIONS)
            .max_idle_connections_per_host(MOST_CONNECTIONS)
            .user_agent(concat!("tfc-audit/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy.map(|proxy| proxy.proxy.clone()))
            .tls_config(tls::config(client))
            .build();
        Self {
            agent: Mutex::new(config.into()),
            timeout,
            proxy: proxy.cloned(),
            shows_certificate,
            secrets,
        }
    }

    /// Makes a request and returns its answer, whose body is still to be read.
    ///
    /// A thread guarantees the time limit where there is a proxy. ureq allows the whole time again
    /// for each part of the answer to CONNECT, so that a proxy could send it byte by byte without
    /// end.
    ///
    /// # Errors
    /// If there is no answer within `timeout`.
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
        let watch = thread::Builder::new().spawn(move || {
            let waited = ended.recv_timeout(timeout.saturating_add(GRACE));
            (waited == Err(RecvTimeoutError::Timeout)).then(|| watched.shutdown())
        });
        let answer = request(&agent);
        drop(end);
        // Where no thread can be started, only ureq's own limit holds.
        let shut_down = watch.is_ok_and(|watch| matches!(watch.join(), Ok(Some(()))));
        if !shut_down {
            return answer;
        }
        // An agent that was shut down makes no further request.
        *lock() = agent.config().clone().into();
        answer.map_err(|_| Error::Timeout(Timeout::Global))
    }

    /// Sets a shorter time limit for one request.
    ///
    /// ureq then prepares TLS anew for each new connection. So a limit that is not shorter, as of
    /// nearly all requests, changes nothing.
    pub fn limit<B>(&self, request: RequestBuilder<B>, timeout: Duration) -> RequestBuilder<B> {
        if timeout >= self.timeout {
            request
        } else {
            request.config().timeout_global(Some(timeout)).build()
        }
    }

    /// Describes an error: what failed and, where that is known, what to do. Safe to show.
    pub fn describe(&self, error: &Error) -> String {
        let words = match tls::fault(error) {
            Some(fault) => tls::describe(fault),
            None => self.words(error),
        };
        let words = secret::mask(&self.secrets, &words);
        match &self.proxy {
            Some(proxy) => format!("through the proxy {proxy}: {words}"),
            None => words,
        }
    }

    /// A text from the other side as messages show it, without our secrets.
    pub fn show(&self, text: &[u8]) -> String {
        secret::excerpt(&self.secrets, text)
    }

    /// The address that a redirect names, safe to show; `None` for any other answer. User name,
    /// password, query and fragment are left out, because they may be secret.
    pub fn redirect(&self, response: &Response<Body>) -> Option<String> {
        let location = response.headers().get("location");
        let location = location.filter(|_| response.status().is_redirection())?;
        let address = public(&String::from_utf8_lossy(location.as_bytes()));
        Some(self.show(address.as_bytes()))
    }

    fn words(&self, error: &Error) -> String {
        match error {
            Error::BodyExceedsLimit(limit) => {
                format!("the answer is larger than {} MiB", limit >> 20)
            }
            Error::LargeResponseHeader(_, limit) => {
                let limit = limit >> 10;
                format!("the headers of the answer are larger than {limit} KiB")
            }
            Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                format!("no connection in time; {UNREACHABLE}")
            }
            Error::Timeout(_) => "no complete answer in time (--timeout or --max-time)".to_owned(),
            Error::ConnectProxyFailed(text) => self.refused_by_proxy(text),
            Error::Protocol(_) | Error::BodyStalled => {
                format!("the answer is not valid HTTP ({})", shown(error))
            }
            error if is_broken_off(error) => {
                let hint = if self.shows_certificate {
                    " (as a server may do that does not accept the client certificate)"
                } else {
                    ""
                };
                format!("the connection broke off before the answer was complete{hint}")
            }
            Error::Io(error) => format!("{}; {UNREACHABLE}", shown(error)),
            other => shown(other),
        }
    }

    fn refused_by_proxy(&self, text: &str) -> String {
        match (proxy_status(text), &self.proxy) {
            (Some(407), Some(proxy)) => format!(
                "the proxy answered 407: it needs a user name and a password, so set ${} to http://USER:PASSWORD@HOST:PORT (special characters percent-encoded)",
                proxy.variable
            ),
            (Some(status), _) => format!(
                "the proxy answered {status}: may it connect to this host and port, and can it? NO_PROXY names the hosts to connect to directly"
            ),
            (None, _) => "the proxy did not answer".to_owned(),
        }
    }
}

fn shown(error: &dyn std::error::Error) -> String {
    excerpt(error.to_string().as_bytes())
}

/// The status of a proxy that refused to connect. ureq has it in a text only: `proxy server
/// responded 407/407`.
fn proxy_status(text: &str) -> Option<u16> {
    text.split(|c: char| !c.is_ascii_digit())
        .find_map(|digits| digits.parse().ok())
}

/// Reads the body of an answer into `bytes`, whose content it replaces. `most` limits its size in
/// bytes after decompression.
///
/// # Errors
/// If the body breaks off or is larger. Then `bytes` has the beginning of the body.
pub fn read_body(response: Response<Body>, most: u64, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let body = response.into_body();
    let announced = body.content_length().unwrap_or_default();
    let mut reader = body.into_with_config().limit(most).reader();
    let mut size = usize::try_from(announced.min(MOST_ANNOUNCED)).unwrap_or_default();
    let mut length = 0;
    let result = loop {
        if length == bytes.len() {
            // In steps, so that a spare buffer is large enough for the next page. Its old content
            // stays until it is overwritten: clearing it would cost as much as a copy.
            size = (size.max(length) + 1).next_multiple_of(STEP);
            bytes.resize(size, 0);
        }
        match reader.read(&mut bytes[length..]) {
            Ok(0) => break Ok(()),
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break Err(error.into()),
        }
    };
    bytes.truncate(length);
    result
}

/// Whether a retry may succeed where a request has no complete answer.
pub fn is_retryable(error: &Error) -> bool {
    match error {
        Error::BodyExceedsLimit(_)
        | Error::LargeResponseHeader(..)
        | Error::Tls(_)
        | Error::BadUri(_)
        | Error::Http(_) => false,
        Error::ConnectProxyFailed(text) => proxy_status(text).is_none_or(retry::is_retryable),
        other => !tls::fault(other).is_some_and(tls::is_permanent),
    }
}

/// Whether the connection broke off before there was an answer.
pub fn is_broken_off(error: &Error) -> bool {
    matches!(error, Error::Io(error) if BROKEN_OFF.contains(&error.kind()))
}

/// The value of a header, if the header is there and is text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The wait that an answer asks for.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    named_wait(|name| header(headers, name))
}

/// How many requests a second the service allows. HCP Terraform sends `x-ratelimit-limit`, and the
/// vendor's own client paces itself by it.
pub fn limit(headers: &HeaderMap) -> Option<u32> {
    let limit = header(headers, "x-ratelimit-limit")?.trim().parse().ok();
    limit.filter(|limit| (1..=MOST_ALLOWED).contains(limit))
}

/// The wait after the last answer that the rate limit allows for now. HCP Terraform sends
/// `x-ratelimit-remaining`, and `x-ratelimit-reset` in seconds.
pub fn spent(headers: &HeaderMap) -> Option<Duration> {
    let is_spent = header(headers, "x-ratelimit-remaining").is_some_and(|left| left.trim() == "0");
    is_spent.then(|| wait(headers)).flatten()
}

/// An address without the parts that may be secret.
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
    fn an_address_is_shown_without_its_secret_parts() {
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
    fn a_spent_rate_limit_is_waited_for() {
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
    fn a_proxy_that_answers_5xx_or_not_at_all_is_asked_again() {
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
