//! What the API client and delivery by POST have in common: how ureq is set up, and how its errors
//! and answers are put into words.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use time::OffsetDateTime;
use ureq::http::{Response, header::HeaderMap};
use ureq::tls::ClientCert;
use ureq::{Agent, Body, Error, RequestBuilder, Timeout};

use crate::proxy::Proxy;
use crate::retry::{self, named_wait};
use crate::text::excerpt;
use crate::tls;

/// How long connecting may take at most, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// By how much a request may overstay its time before its connection is taken away.
const GRACE: Duration = Duration::from_millis(200);
/// How it shows that the other side went away.
const BROKEN_OFF: [ErrorKind; 4] = [
    ErrorKind::UnexpectedEof,
    ErrorKind::BrokenPipe,
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
];

/// Connections to one side, kept alive between requests.
#[derive(Debug)]
pub struct Connection {
    agent: Agent,
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
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .user_agent(concat!("tfc-audit/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy.map(Proxy::to_ureq))
            .tls_config(tls::config(client))
            .build()
            .new_agent();
        Self {
            agent,
            timeout,
            proxy: proxy.cloned(),
            shows_certificate,
        }
    }

    /// The agent to make requests with.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Makes a request and gives its answer, whose body is still to be read.
    ///
    /// # Errors
    /// If there is none `timeout` after the start, whatever the other side does. ureq's own limit
    /// (see [`Connection::limit`]) leaves gaps: a proxy that answers CONNECT byte by byte is given
    /// the whole time again for each. So somebody else looks at the clock, too, and takes the
    /// connections away.
    pub fn send(
        &mut self,
        timeout: Duration,
        request: impl FnOnce(&Self) -> Result<Response<Body>, Error>,
    ) -> Result<Response<Body>, Error> {
        let (end, ended) = mpsc::channel::<()>();
        let agent = self.agent.clone();
        // Without a thread to be had, ureq's own limit has to do.
        let watch = thread::Builder::new().spawn(move || {
            let waited = ended.recv_timeout(timeout.saturating_add(GRACE));
            let is_over = waited == Err(RecvTimeoutError::Timeout);
            if is_over {
                agent.shutdown();
            }
            is_over
        });
        let answer = request(self);
        drop(end);
        if !watch.is_ok_and(|watch| watch.join().unwrap_or(true)) {
            return answer;
        }
        self.agent = self.agent.config().new_agent();
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
                "there was no connection in time".to_owned()
            }
            Error::Timeout(_) => "there was no whole answer in time (--timeout)".to_owned(),
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
                (None, Error::Io(error)) => excerpt(error.to_string().as_bytes()),
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

/// The status by which a proxy refused to connect, from the only place where ureq has it: the text
/// `proxy server responded 407/407`.
fn proxy_status(error: &Error) -> Option<u16> {
    let Error::ConnectProxyFailed(text) = error else {
        return None;
    };
    text.split(|c: char| !c.is_ascii_digit())
        .find_map(|digits| digits.parse().ok())
}

/// Reads an answer's body, up to a limit that holds for what comes out of a compressed one. What
/// could be read is appended to `into`, also if there is an error.
///
/// # Errors
/// If it breaks off or is larger.
pub fn read_body(response: Response<Body>, most: u64, into: &mut Vec<u8>) -> Result<(), Error> {
    let mut body = response.into_body().into_with_config().limit(most).reader();
    body.read_to_end(into)?;
    Ok(())
}

/// Whether a request that brought no whole answer is worth another try.
#[must_use]
pub fn is_passing(error: &Error) -> bool {
    match error {
        Error::BodyExceedsLimit(_)
        | Error::LargeResponseHeader(..)
        | Error::Tls(_)
        | Error::BadUri(_)
        | Error::Http(_) => false,
        Error::ConnectProxyFailed(_) => proxy_status(error).is_none_or(retry::is_passing),
        other => !tls::fault(other).is_some_and(tls::is_lasting),
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
    fn a_proxy_that_refuses_may_do_otherwise_later_or_not() {
        let failed = |text: &str| Error::ConnectProxyFailed(text.to_owned());
        for (text, passing) in [
            ("proxy server responded 407/407", false),
            ("proxy server responded 403/403", false),
            ("proxy server responded 503/503", true),
            ("proxy server did not respond", true),
        ] {
            assert_eq!(is_passing(&failed(text)), passing, "{text}");
        }
    }
}
