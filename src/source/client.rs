//! The client of HCP Terraform's Audit Trails API: one page for one request.
//!
//! `GET /api/v2/organization/audit-trail`, documented at
//! <https://developer.hashicorp.com/terraform/cloud-docs/api-docs/audit-trails>.

use std::time::Duration;

use ureq::Body;
use ureq::http::{Response, StatusCode};

use crate::config::proxy::Proxy;
use crate::config::url::Url;
use crate::http::{self, Connection};
use crate::retry::{self, Failure};
use crate::secret::Secret;
use crate::source::page::{self, Page};
use crate::source::{PageRequest, Source, SourceError};
use crate::spare;
use crate::text::excerpt;
use crate::time;

/// The largest body of a page that is read, after decompression. 1,000 events are about 0.6 MB.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// How much of an error's body is read for its message.
const LARGEST_ERROR_BODY: u64 = 4 * 1024;

/// How long all requests wait after a 429 that does not say for how long: the limit is one for each
/// second (<https://developer.hashicorp.com/terraform/cloud-docs/api-docs#rate-limiting>).
const UNNAMED_WAIT: Duration = Duration::from_secs(1);

/// A connection to the API, kept alive between requests.
pub struct Client {
    connection: Connection,
    url: String,
    authorization: Secret,
}

impl Client {
    /// Prepares a client; nothing is sent yet. `timeout` is for one request.
    #[must_use]
    pub fn new(endpoint: &Url, proxy: Option<&Proxy>, token: &Secret, timeout: Duration) -> Self {
        Self {
            connection: Connection::new(proxy, None, timeout),
            url: format!("{endpoint}/api/v2/organization/audit-trail"),
            authorization: Secret::new(format!("Bearer {}", token.expose())),
        }
    }

    /// The address that is asked, for messages.
    fn at(&self, request: &PageRequest) -> String {
        format!("{} (page {})", self.url, request.number)
    }

    /// What came from the source, as it may be shown: without the token, which some proxies send
    /// back.
    fn shown(&self, text: &str) -> String {
        excerpt(self.authorization.mask(text).as_bytes())
    }

    /// A request without an answer, or whose answer broke off.
    fn broken(&self, request: &PageRequest, error: &ureq::Error) -> Failure<SourceError> {
        let what = self.authorization.mask(self.connection.describe(error));
        let message = format!("{}: {what}", self.at(request));
        Failure {
            retryable: http::is_retryable(error),
            ..Failure::permanent(SourceError::Failed(message))
        }
    }

    /// An answer with another status than 200.
    fn refused(&self, request: &PageRequest, response: Response<Body>) -> Failure<SourceError> {
        let code = response.status().as_u16();
        let wait = http::wait(response.headers()).or((code == 429).then_some(UNNAMED_WAIT));
        let leads = self.authorization.mask(http::redirect(&response));
        let mut said = Vec::new();
        // Only to be shown: what can be read of it will do.
        let _ = http::read_body(response, LARGEST_ERROR_BODY, &mut said);
        let said = self.shown(&String::from_utf8_lossy(&said));
        let message = format!(
            "{} answered {code}{leads}{}",
            self.at(request),
            if said.is_empty() {
                said
            } else {
                format!(": {said}")
            },
        );
        let error = match code {
            400 | 404 | 422 if request.number > 1 => SourceError::NoSuchPage(message),
            401 => SourceError::Refused(format!(
                "{message}; the token is not valid, or no longer: put a new organization or audit-trail token in its place"
            )),
            403 | 404 => SourceError::Refused(format!(
                "{message}; the token is of another kind than an organization or audit-trail token, its organization has no audit trails by its plan, or --endpoint is not HCP Terraform"
            )),
            300..400 => SourceError::Failed(format!(
                "{message}; redirects are not followed: is --endpoint right?"
            )),
            _ => SourceError::Failed(message),
        };
        Failure {
            retryable: retry::is_retryable(code),
            wait,
            error,
        }
    }
}

impl Source for Client {
    fn page(&self, request: &PageRequest, timeout: Duration) -> Result<Page, Failure<SourceError>> {
        let (url, authorization) = (&self.url, self.authorization.expose());
        let answer = self.connection.send(timeout, |agent| {
            let mut call = agent
                .get(url)
                .header("Authorization", authorization)
                .header("Accept", "application/json")
                .query("page[number]", request.number.to_string())
                .query("page[size]", request.size.to_string());
            if let Some(since) = request.since {
                call = call.query("since", time::format(since));
            }
            self.connection.limit(call, timeout).call()
        });
        let response = answer.map_err(|error| self.broken(request, &error))?;
        let date = http::header(response.headers(), "date").and_then(time::parse_http_date);
        let pause = http::spent(response.headers());
        if response.status() != StatusCode::OK {
            return Err(self.refused(request, response));
        }
        let mut body = spare::take();
        http::read_body(response, LARGEST_BODY, &mut body)
            .map_err(|error| self.broken(request, &error))?;
        page::parse(body)
            .map(|page| Page {
                date,
                pause,
                ..page
            })
            .map_err(|malformed| Failure {
                retryable: malformed.truncated,
                ..Failure::permanent(SourceError::Failed(format!(
                    "{}: {}: {}",
                    self.at(request),
                    self.shown(&malformed.fault),
                    self.shown(&malformed.found)
                )))
            })
    }
}
