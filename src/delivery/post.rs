//! Delivery by HTTP POST.

use std::fs;
use std::io::{self, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use ureq::RequestBuilder;

use crate::config::Post;
use crate::config::values::{ClientFiles, Header, parse_header};
use crate::delivery::Target;
use crate::error::Error;
use crate::event::Event;
use crate::format::{Answer, Encoder, Format, Limits, Verdict};
use crate::http::{self, Connection};
use crate::secret::Secret;
use crate::text::excerpt;

/// The largest answer that is read, after decompression: Elasticsearch answers for each event, with
/// some hundred bytes if it refuses one.
const LARGEST_BODY: u64 = 16 * 1024 * 1024;

/// A receiver, as a target.
pub struct Receiver {
    connection: Connection,
    url: Secret,
    /// The address as it may be shown.
    shown: String,
    format: Format,
    encoder: Encoder,
    headers: Vec<(String, Secret)>,
    gzip: bool,
}

impl Receiver {
    /// Prepares a receiver and reads the files with headers and certificates; nothing is sent yet.
    /// `timeout` is for one request.
    ///
    /// # Errors
    /// If such a file cannot be read or holds something else; the message does not repeat it.
    pub fn new(post: &Post, normalize: bool, timeout: Duration) -> Result<Self, Error> {
        let mut headers = Vec::new();
        for header in &post.headers {
            match header {
                Header::Given(name, value) => headers.push((name.clone(), value.clone())),
                Header::File(path) => {
                    let fault = |fault: &dyn std::fmt::Display| {
                        Error::Usage(format!("--header: {}: {fault}", path.display()))
                    };
                    let text = fs::read_to_string(path).map_err(|error| fault(&error))?;
                    for line in text.lines().filter(|line| !line.trim().is_empty()) {
                        let wrong = |wrong| fault(&format_args!("a line {wrong}"));
                        headers.push(parse_header(line).map_err(wrong)?);
                    }
                }
            }
        }
        let client = post
            .client
            .as_ref()
            .map(ClientFiles::read)
            .transpose()
            .map_err(Error::Usage)?;
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

    /// Makes a request that delivers nothing, with the headers of a delivery: a `GET` of this path,
    /// or `OPTIONS` of the receiver's own address. Gives the answer's status, and how its body may
    /// be shown.
    ///
    /// # Errors
    /// If there is no answer.
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
        answer.map_err(|error| {
            let what = self.masked(self.connection.describe(&error));
            format!("{}: {what}", self.shown)
        })
    }

    /// Sets the headers of a delivery. Of a request without a body, too: Logstash takes any method,
    /// and what is empty as JSON for no event.
    fn with_headers<B>(&self, mut call: RequestBuilder<B>) -> RequestBuilder<B> {
        if !self.has_header("content-type") {
            call = call.header("content-type", self.format.content_type());
        }
        for (name, value) in &self.headers {
            call = call.header(name, value.expose());
        }
        call
    }

    /// An answer's body without our secrets, before any of it is cut: half a secret is one, too.
    fn masked_body(&self, body: Vec<u8>) -> Vec<u8> {
        let text = String::from_utf8(body)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        self.masked(text).into_bytes()
    }

    /// A text from the receiver without our secrets, which some receivers send back: the headers'
    /// values, and the path (as a whole) and the query of the address.
    fn masked(&self, text: String) -> String {
        let place = self.url.expose().strip_prefix(&self.shown);
        let parts = place.unwrap_or_default().splitn(2, '?');
        let parts: Vec<_> = parts.map(|part| Secret::new(part.to_owned())).collect();
        let secrets = self.headers.iter().map(|header| &header.1).chain(&parts);
        secrets.fold(text, |text, secret| secret.mask(text))
    }

    fn has_header(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|header| header.0.eq_ignore_ascii_case(name))
    }
}

impl Target for Receiver {
    fn encode(&self, events: &[Event], limits: Limits) -> (Vec<u8>, usize) {
        self.encoder.encode(events, limits)
    }

    fn is_one_by_one(&self) -> bool {
        self.format == Format::Json
    }

    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error> {
        let compressed = if self.gzip {
            let compressed = compress(body);
            Some(compressed.map_err(|error| Error::Receiver(format!("cannot compress: {error}")))?)
        } else {
            None
        };
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
                let what = self.masked(self.connection.describe(&error));
                return Ok(Verdict::Failed {
                    message: format!("{}: {what}", self.shown),
                    retryable: http::is_retryable(&error),
                    wait: None,
                });
            }
        };
        let (status, wait) = (response.status().as_u16(), http::wait(response.headers()));
        let leads = http::redirect(&response);
        let mut body = Vec::new();
        let broken = http::read_body(response, LARGEST_BODY, &mut body).err();
        let body = self.masked_body(body);
        let said = if leads.is_empty() {
            excerpt(&body)
        } else {
            self.masked(format!("it leads{leads}"))
        };
        let whole = broken.is_none().then_some(&body[..]);
        let answer = Answer {
            origin: &self.shown,
            status,
            body: whole,
            said: &said,
        };
        let verdict = self.format.judge(&answer, events.len());
        Ok(match verdict {
            Verdict::Failed {
                message, retryable, ..
            } => {
                let why = broken.map_or_else(String::new, |error| {
                    format!(" ({})", self.masked(self.connection.describe(&error)))
                });
                Verdict::Failed {
                    message: message + &why,
                    retryable,
                    wait,
                }
            }
            verdict => verdict,
        })
    }
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}
