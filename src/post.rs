//! Delivery by HTTP POST.

use std::fs;
use std::io::{self, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::config::{Header, Post, Secret, parse_header};
use crate::delivery::{Limits, Target};
use crate::error::Error;
use crate::event::Event;
use crate::format::{Encoder, Fate, Format, Verdict};
use crate::http::{self, Connection};
use crate::text::excerpt;

/// How many bytes of an answer are looked at for a message, which shows fewer.
const MOST_SHOWN: usize = 2048;

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
    /// Prepares a receiver and reads the files with headers; nothing is sent yet. `timeout` is for
    /// one request.
    ///
    /// # Errors
    /// If a header file cannot be read or holds something else; the message does not repeat it.
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
                        match parse_header(line) {
                            Ok(Header::Given(name, value)) => headers.push((name, value)),
                            Ok(Header::File(_)) => {}
                            Err(wrong) => return Err(fault(&format_args!("a line {wrong}"))),
                        }
                    }
                }
            }
        }
        Ok(Self {
            connection: Connection::new(post.url.is_loopback(), timeout),
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
    pub fn ask(&self, path: Option<&str>) -> Result<(u16, String), String> {
        let agent = self.connection.agent();
        let mut call = match path {
            Some(path) => agent.get(format!("{}{path}", self.shown)),
            None => agent.options(self.url.expose()),
        };
        // Logstash takes any method, and what is empty as JSON for no event.
        if !self.has_header("content-type") {
            call = call.header("content-type", self.format.content_type());
        }
        for (name, value) in &self.headers {
            call = call.header(name, value.expose());
        }
        let answer = call.call().and_then(|response| {
            let status = response.status().as_u16();
            Ok((status, http::read_body(response)?))
        });
        match answer {
            Ok((status, body)) => Ok((status, self.said(&body))),
            Err(error) => Err(format!(
                "{}: {}",
                self.shown,
                self.masked(&http::describe(&error))
            )),
        }
    }

    /// The beginning of an answer's body, as it may be shown.
    fn said(&self, body: &[u8]) -> String {
        let start = &body[..body.len().min(MOST_SHOWN)];
        excerpt(self.masked(&String::from_utf8_lossy(start)).as_bytes())
    }

    /// A text from the receiver without our secrets, which some receivers send back.
    fn masked(&self, text: &str) -> String {
        let query = self
            .url
            .expose()
            .split_once('?')
            .map(|(_, query)| Secret::new(query.to_owned()));
        let secrets = self.headers.iter().map(|header| &header.1).chain(&query);
        secrets.fold(text.to_owned(), |text, secret| secret.mask(&text))
    }

    fn has_header(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|header| header.0.eq_ignore_ascii_case(name))
    }
}

impl Target for Receiver {
    fn encode(&self, events: &[Event], limits: Limits) -> (Vec<u8>, usize) {
        self.encoder.encode(events, limits.events, limits.bytes)
    }

    fn is_one_by_one(&self) -> bool {
        self.format == Format::Json
    }

    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error> {
        let mut call = self.connection.agent().post(self.url.expose());
        if !self.has_header("content-type") {
            call = call.content_type(self.format.content_type());
        }
        for (name, value) in &self.headers {
            call = call.header(name, value.expose());
        }
        let call = self.connection.limit(call, timeout);
        let answer = if self.gzip {
            let compressed = compress(body)
                .map_err(|error| Error::Receiver(format!("cannot compress: {error}")))?;
            call.header("content-encoding", "gzip").send(&compressed)
        } else {
            call.send(body)
        };
        let at = |what: String| format!("{}: {}", self.shown, self.masked(&what));
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                let (message, passing) = (at(http::describe(&error)), http::is_passing(&error));
                return Ok(Verdict::Failed {
                    message,
                    passing,
                    wait: None,
                });
            }
        };
        let (status, wait) = (response.status().as_u16(), http::wait(response.headers()));
        let leads = http::redirect(&response);
        let body = http::read_body(response).ok();
        let said = self.said(body.as_deref().unwrap_or_default());
        Ok(
            match self
                .format
                .judge(status, body.as_deref(), &said, events.len())
            {
                Verdict::Failed {
                    message, passing, ..
                } => Verdict::Failed {
                    message: at(message),
                    passing,
                    wait,
                },
                Verdict::TooLarge(message) => Verdict::TooLarge(at(message)),
                Verdict::RefusedEvents(message) => Verdict::RefusedEvents(at(message)),
                Verdict::Refused(message) => Verdict::Refused(at(message + &leads)),
                Verdict::Each(fates) => Verdict::Each(
                    fates
                        .into_iter()
                        .map(|fate| match fate {
                            Fate::Accepted => Fate::Accepted,
                            Fate::Again(message) => Fate::Again(at(message)),
                            Fate::Refused(message) => Fate::Refused(at(message)),
                            Fate::Barred(message) => Fate::Barred(at(message)),
                        })
                        .collect(),
                ),
                Verdict::Accepted => Verdict::Accepted,
            },
        )
    }
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}
