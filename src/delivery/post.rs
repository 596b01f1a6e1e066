//! Delivery by HTTP POST.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use ureq::RequestBuilder;

use crate::config::Post;
use crate::config::values::{ClientFiles, Header, parse_headers};
use crate::delivery::Target;
use crate::error::Error;
use crate::event::Event;
use crate::format::{Answer, Encoder, Format, Limits, Rest, Verdict};
use crate::http::{self, Connection};
use crate::secret::Secret;
use crate::text::excerpt;

/// The most bytes of an answer that are read, after decompression. Elasticsearch answers for each
/// event, with some hundred bytes if it refuses the event.
const LARGEST_BODY: u64 = 16 * 1024 * 1024;

/// An HTTP server as a receiver.
pub struct Receiver {
    connection: Connection,
    url: Secret,
    /// The address as messages show it.
    shown: String,
    format: Format,
    encoder: Encoder,
    headers: Vec<(String, Secret)>,
    gzip: bool,
}

impl Receiver {
    /// Prepares a receiver, and reads the files with headers and certificates. Nothing is sent yet.
    /// `timeout` is for one request.
    ///
    /// # Errors
    /// If such a file cannot be read or used. The message does not repeat its content.
    pub fn new(post: &Post, normalize: bool, timeout: Duration) -> Result<Self, Error> {
        let mut headers = Vec::new();
        for header in &post.headers {
            match header {
                Header::Given(name, value) => headers.push((name.clone(), value.clone())),
                Header::File(path) => headers.extend(read_headers(path)?),
            }
        }
        let client = post.client.as_ref().map(ClientFiles::read).transpose();
        let client = client.map_err(Error::Usage)?;
        Ok(Self {
            connection: Connection::new(post.proxy.as_ref(), client, timeout),
            url: Secret::new(post.url.expose()),
            shown: post.url.origin().to_owned(),
            format: post.format,
            encoder: Encoder::new(post.format, normalize, &post.labels),
            headers,
            gzip: post.gzip,
        })
    }

    /// Makes a request that delivers nothing, with the headers of a delivery: `GET` of this path,
    /// or `OPTIONS` of the receiver's own address. Returns the answer's status, and its body as
    /// messages show it.
    ///
    /// # Errors
    /// If there is no whole answer.
    pub fn ask(&self, path: Option<&str>, timeout: Duration) -> Result<(u16, String), String> {
        let answer = self.connection.send(timeout, |agent| {
            let call = match path {
                Some(path) => agent.get(format!("{}{path}", self.shown)),
                None => agent.options(self.url.expose()),
            };
            self.with_headers(call).call()
        });
        let answer = answer.and_then(|response| {
            let status = response.status().as_u16();
            let mut body = Vec::new();
            http::read_body(response, LARGEST_BODY, &mut body)?;
            Ok((status, excerpt(&self.masked_body(body))))
        });
        answer.map_err(|error| format!("{}: {}", self.shown, self.describe(&error)))
    }

    /// Sets the headers of a delivery, for a request without a body as well: Logstash takes any
    /// method, and takes an empty body as an event unless it is said to be JSON.
    fn with_headers<B>(&self, mut call: RequestBuilder<B>) -> RequestBuilder<B> {
        let is_content_type = |name: &str| name.eq_ignore_ascii_case("content-type");
        if !self.headers.iter().any(|(name, _)| is_content_type(name)) {
            call = call.header("content-type", self.format.content_type());
        }
        for (name, value) in &self.headers {
            call = call.header(name, value.expose());
        }
        call
    }

    fn describe(&self, error: &ureq::Error) -> String {
        self.masked(self.connection.describe(error))
    }

    /// An answer's body without our secrets. This comes before any cut: half a secret is one, too.
    fn masked_body(&self, body: Vec<u8>) -> Vec<u8> {
        let text = String::from_utf8(body)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        self.masked(text).into_bytes()
    }

    /// A text from the receiver without our secrets, which some receivers repeat: the headers'
    /// values, and the path (as a whole) and the query of the address.
    fn masked(&self, text: String) -> String {
        let place = self.url.expose().strip_prefix(&self.shown);
        let parts = place.unwrap_or_default().splitn(2, '?');
        let parts: Vec<_> = parts.map(|part| Secret::new(part.to_owned())).collect();
        let secrets = self.headers.iter().map(|(_, value)| value).chain(&parts);
        secrets.fold(text, |text, secret| secret.mask(text))
    }
}

impl Target for Receiver {
    fn encode(&self, events: &[Event], limits: Limits) -> (Vec<u8>, usize) {
        self.encoder.encode(events, limits)
    }

    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error> {
        let compressed = self.gzip.then(|| compress(body)).transpose();
        let compressed =
            compressed.map_err(|error| Error::Receiver(format!("cannot compress: {error}")))?;
        let answer = self.connection.send(timeout, |agent| {
            let call = self.with_headers(agent.post(self.url.expose()));
            let call = self.connection.limit(call, timeout);
            match &compressed {
                Some(compressed) => call.header("content-encoding", "gzip").send(compressed),
                None => call.send(body),
            }
        });
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                let rest = if http::is_retryable(&error) {
                    Rest::Retry
                } else {
                    Rest::Failed
                };
                let message = format!("{}: {}", self.shown, self.describe(&error));
                return Ok(Verdict::new(rest, message));
            }
        };
        let status = response.status().as_u16();
        let wait = http::wait(response.headers());
        let redirect = http::redirect(&response);
        let mut body = Vec::new();
        let broken = http::read_body(response, LARGEST_BODY, &mut body).err();
        let body = self.masked_body(body);
        let answer = Answer {
            origin: &self.shown,
            status,
            body: broken.is_none().then_some(&body),
            said: &match redirect {
                None => excerpt(&body),
                Some(address) => {
                    let address = self.masked(address);
                    format!("it leads to {}", excerpt(address.as_bytes()))
                }
            },
        };
        let mut verdict = self.format.judge(&answer, events.len());
        verdict.wait = wait;
        if let Some(error) = broken {
            verdict.message = format!("{} ({})", verdict.message, self.describe(&error));
        }
        Ok(verdict)
    }
}

/// Reads a file with a header on each line.
fn read_headers(path: &Path) -> Result<Vec<(String, Secret)>, Error> {
    let fault =
        |fault: &dyn Display| Error::Usage(format!("--header: {}: {fault}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| fault(&error))?;
    parse_headers(&text).map_err(|error| fault(&error))
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}
