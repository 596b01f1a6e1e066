//! The client of HCP Terraform's Audit Trails API: one page for one request.
//!
//! `GET /api/v2/organization/audit-trail`, documented at
//! <https://developer.hashicorp.com/terraform/cloud-docs/api-docs/audit-trails>.

use std::io::Read;
use std::time::Duration;

use time::OffsetDateTime;
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use crate::config::{Secret, Url};
use crate::page::{self, Page};
use crate::retry::{Failure, is_passing, named_wait};
use crate::source::{PageRequest, Source, SourceError};
use crate::text::excerpt;
use crate::timestamp;

/// The largest body that is read, after decompression: a page of 1,000 events is about 0.6 MB.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// How much of an error's body is read for its message.
const LARGEST_ERROR_BODY: u64 = 4 * 1024;
/// How long connecting may take at most, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the API, kept alive between requests.
pub struct Client {
    agent: Agent,
    url: String,
    authorization: Secret,
    timeout: Duration,
}

impl Client {
    /// Prepares a client; nothing is sent yet. `timeout` is for one request.
    #[must_use]
    pub fn new(endpoint: &Url, token: &Secret, timeout: Duration) -> Self {
        Self {
            agent: agent(endpoint.is_loopback(), timeout),
            url: format!("{endpoint}/api/v2/organization/audit-trail"),
            authorization: Secret::new(format!("Bearer {}", token.expose())),
            timeout,
        }
    }

    /// The address that is asked, for messages.
    fn at(&self, request: &PageRequest) -> String {
        format!("{} (page {})", self.url, request.number)
    }
}

/// An agent that leaves every decision to us: statuses are answers, redirects are not followed,
/// every request has a time limit, and what goes to this machine goes through no proxy.
#[must_use]
pub fn agent(loopback: bool, timeout: Duration) -> Agent {
    let proxy = if loopback {
        None
    } else {
        Proxy::try_from_env()
    };
    Agent::config_builder()
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
        .build()
        .new_agent()
}

impl Source for Client {
    fn page(
        &mut self,
        request: &PageRequest,
        timeout: Duration,
    ) -> Result<Page, Failure<SourceError>> {
        let mut call = self
            .agent
            .get(&self.url)
            .header("Authorization", self.authorization.expose())
            .header("Accept", "application/json")
            .query("page[number]", request.number.to_string())
            .query("page[size]", request.size.to_string());
        if let Some(since) = request.since {
            call = call.query("since", timestamp::format(since));
        }
        if timeout < self.timeout {
            // A limit of its own costs a request its share of the agent's TLS settings, so that
            // only the last ones before `--max-time` have one.
            call = call.config().timeout_global(Some(timeout)).build();
        }
        let response = call.call().map_err(|error| self.broken(request, &error))?;
        let date = header(&response, "date").and_then(timestamp::parse_http_date);
        if response.status() != StatusCode::OK {
            return Err(self.refused(request, response));
        }
        let body = response
            .into_body()
            .into_with_config()
            .limit(LARGEST_BODY)
            .read_to_vec()
            .map_err(|error| self.broken(request, &error))?;
        page::parse(body)
            .map(|page| Page { date, ..page })
            .map_err(|malformed| Failure {
                passing: malformed.truncated,
                ..Failure::lasting(SourceError::Failed(format!(
                    "{}: {}",
                    self.at(request),
                    malformed.message
                )))
            })
    }
}

impl Client {
    /// A request without an answer, or whose answer broke off.
    fn broken(&self, request: &PageRequest, error: &ureq::Error) -> Failure<SourceError> {
        let passing = !matches!(
            error,
            ureq::Error::BodyExceedsLimit(_)
                | ureq::Error::LargeResponseHeader(..)
                | ureq::Error::Rustls(_)
                | ureq::Error::Tls(_)
                | ureq::Error::BadUri(_)
                | ureq::Error::Http(_)
        );
        let message = match error {
            ureq::Error::BodyExceedsLimit(limit) => {
                format!("the answer is larger than {} MiB", limit >> 20)
            }
            other => excerpt(other.to_string().as_bytes()),
        };
        Failure {
            passing,
            ..Failure::lasting(SourceError::Failed(format!(
                "{}: {message}",
                self.at(request)
            )))
        }
    }

    /// An answer with another status than 200.
    fn refused(&self, request: &PageRequest, mut response: Response<Body>) -> Failure<SourceError> {
        let status = response.status();
        let wait = named_wait(|name| header(&response, name), OffsetDateTime::now_utc());
        let location = status
            .is_redirection()
            .then(|| header(&response, "location").map(without_query))
            .flatten();
        let mut said = Vec::new();
        // Only to be shown: what can be read of it will do.
        let _ = response
            .body_mut()
            .as_reader()
            .take(LARGEST_ERROR_BODY)
            .read_to_end(&mut said);
        let said = excerpt(&said);
        let code = status.as_u16();
        let message = format!(
            "{} answered {code}{}{}",
            self.at(request),
            location
                .map(|location| format!(" to {location}"))
                .unwrap_or_default(),
            if said.is_empty() {
                said
            } else {
                format!(": {said}")
            },
        );
        let error = match code {
            400 | 404 | 422 if request.number > 1 => SourceError::NoSuchPage(message),
            401 | 403 | 404 => SourceError::Refused(message),
            300..400 => SourceError::Failed(format!(
                "{message}; redirects are not followed: is --endpoint right?"
            )),
            _ => SourceError::Failed(message),
        };
        Failure {
            passing: is_passing(code),
            wait,
            error,
        }
    }
}

/// A header of an answer, if it is there and is text.
fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
}

/// An address as it may be shown: what follows `?` or `#` may be a secret.
fn without_query(address: &str) -> String {
    excerpt(
        address
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .as_bytes(),
    )
}
