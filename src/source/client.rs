//! The client of HCP Terraform's Audit Trails API: one page for one request.
//!
//! `GET /api/v2/organization/audit-trail`, documented at
//! <https://developer.hashicorp.com/terraform/cloud-docs/api-docs/audit-trails>.

use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use crate::config::Config;
use crate::error::Error;
use crate::http::{self, Connection};
use crate::retry::{self, Failure};
use crate::secret::Secret;
use crate::source::gate::Gate;
use crate::source::page::{self, Page};
use crate::source::{PageRequest, Source};
use crate::spare;
use crate::time;

/// The largest page in bytes, after decompression. 1,000 events are about 0.6 MB.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// How many bytes of the body of an error are read for its message.
const LARGEST_ERROR_BODY: u64 = 16 * 1024;

/// The wait of all requests after a 429 that names none: the limit is per second
/// (<https://developer.hashicorp.com/terraform/cloud-docs/api-docs#rate-limiting>).
const UNNAMED_WAIT: Duration = Duration::from_secs(1);

/// The service over HTTP. Connections stay open between requests.
pub struct Client {
    connection: Connection,
    url: String,
    authorization: Secret,
    gate: Gate,
}

impl Client {
    /// Prepares a client. Nothing is sent yet.
    pub fn new(config: &Config, token: &Secret) -> Self {
        let authorization = Secret::new(format!("Bearer {}", token.expose()));
        let (proxy, secrets) = (config.proxy.as_ref(), vec![authorization.clone()]);
        Self {
            connection: Connection::new(proxy, None, config.patience.timeout, secrets),
            url: format!("{}/api/v2/organization/audit-trail", config.endpoint),
            authorization,
            gate: Gate::default(),
        }
    }

    /// The address of a page, for messages.
    fn at(&self, request: &PageRequest) -> String {
        format!("{} (page {})", self.url, request.number)
    }

    /// The failure of a request that has no complete answer, or whose answer is not a page.
    fn failure(&self, request: &PageRequest, fault: &str, retryable: bool) -> Failure {
        let error = Error::Source(format!("{}: {fault}", self.at(request)));
        Failure {
            retryable,
            ..Failure::permanent(error)
        }
    }

    /// The failure of a request whose answer has another status than 200.
    fn refused(&self, request: &PageRequest, response: Response<Body>) -> Failure {
        let code = response.status().as_u16();
        let wait = http::wait(response.headers()).or((code == 429).then_some(UNNAMED_WAIT));
        let redirect = self.connection.redirect(&response);
        let redirect = redirect.map_or(String::new(), |address| format!(" to {address}"));
        let mut body = Vec::new();
        // The body is only shown, so a part of it is enough.
        let _ = http::read_body(response, LARGEST_ERROR_BODY, &mut body);
        let mut message = format!("{} answered {code}{redirect}", self.at(request));
        let body = self.connection.show(&body);
        if !body.is_empty() {
            message = format!("{message}: {body}");
        }
        let hint = match code {
            401 => {
                "; the token is not valid, or no longer: replace it with a new organization or audit-trail token"
            }
            403 | 404 => {
                "; the token is neither an organization nor an audit-trail token, the plan of its organization has no audit trails, or --endpoint is not HCP Terraform"
            }
            300..=399 => "; redirects are not followed: is --endpoint right?",
            _ => "",
        };
        let error = match code {
            401 | 403 | 404 => Error::TokenRefused(message + hint),
            _ => Error::Source(message + hint),
        };
        Failure {
            retryable: retry::is_retryable(code),
            wait,
            error,
        }
    }
}

impl Source for Client {
    fn page(&self, request: &PageRequest, timeout: Duration) -> Result<Option<Page>, Failure> {
        let answer = self.connection.send(timeout, |agent| {
            let mut call = agent
                .get(&self.url)
                .header("Authorization", self.authorization.expose())
                .header("Accept", "application/json")
                .query("page[number]", request.number.to_string())
                .query("page[size]", request.size.to_string());
            if let Some(since) = request.since {
                call = call.query("since", time::format(since));
            }
            self.connection.limit(call, timeout).call()
        });
        let broken = |error: ureq::Error| {
            let fault = self.connection.describe(&error);
            self.failure(request, &fault, http::is_retryable(&error))
        };
        let response = answer.map_err(broken)?;
        if let Some(limit) = http::limit(response.headers()) {
            self.gate.allow(limit);
        }
        match response.status().as_u16() {
            200 => {}
            400 | 404 | 422 if request.number > 1 => return Ok(None),
            _ => return Err(self.refused(request, response)),
        }
        let date = http::header(response.headers(), "date").and_then(time::parse_http_date);
        let pause = http::spent(response.headers());
        let mut body = spare::take();
        http::read_body(response, LARGEST_BODY, &mut body).map_err(broken)?;
        let page = page::parse(body).map_err(|malformed| {
            let fault = self.connection.show(malformed.fault.as_bytes());
            let found = self.connection.show(malformed.found.as_bytes());
            let fault = format!("{fault}: {found}");
            self.failure(request, &fault, malformed.is_retryable)
        })?;
        Ok(Some(Page {
            date,
            pause,
            ..page
        }))
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }
}
