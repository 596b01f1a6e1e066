//! Delivery by HTTP POST.

use std::fs;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use ureq::tls::ClientCert;
use ureq::{RequestBuilder, Timeout};

use crate::clock::{Clock, random, within};
use crate::config::Post;
use crate::config::values::{ClientFiles, Header, parse_headers};
use crate::delivery::Target;
use crate::error::Error;
use crate::event::Event;
use crate::format::Format;
use crate::format::splunk::{self, CHANNEL};
use crate::format::verdict::{Answer, Rest, Taken, Verdict};
use crate::http::{self, Connection};
use crate::retry::Patience;
use crate::secret::Secret;

/// The most bytes of an answer that are read, after decompression. Elasticsearch answers for each
/// event, with some hundred bytes if it refuses the event.
const LARGEST_BODY: u64 = 16 * 1024 * 1024;

/// The bytes from which on a body may be the reason for a reset.
const LARGE_BODY: usize = 16 * 1024;

/// The first wait before a receiver is asked if it has stored events; each further one is longer.
const FIRST_POLL: Duration = Duration::from_millis(100);
/// The longest wait between two such questions.
const LONGEST_POLL: Duration = Duration::from_secs(2);

/// Names and values.
type Headers = Vec<(String, Secret)>;

/// An HTTP server as a receiver.
pub struct Receiver<'a> {
    post: &'a Post,
    clock: &'a dyn Clock,
    connection: Connection,
    headers: Headers,
}

impl<'a> Receiver<'a> {
    /// Prepares a receiver, and reads the files with headers and certificates. Nothing is sent yet.
    /// `--max-time` limits reading them, too: a pipe may have no writer.
    ///
    /// # Errors
    /// If such a file cannot be read or used, or takes too long. The message does not repeat its
    /// content.
    pub fn new(post: &'a Post, patience: &Patience, clock: &'a dyn Clock) -> Result<Self, Error> {
        let what = "the files of --header, --client-cert and --client-key";
        let files = (post.headers.clone(), post.client.clone());
        let read = within(patience.left(clock), move || {
            read_files(&files.0, files.1.as_ref())
        });
        let read = read.map_err(|error| Error::Usage(format!("cannot read {what}: {error}")))?;
        let (mut headers, client) = read.ok_or_else(|| Error::Stuck(what.to_owned()))??;
        if post.format == Format::SplunkHec && value(&headers, CHANNEL).is_none() {
            headers.push((CHANNEL.to_owned(), Secret::new(splunk::channel(random()))));
        }
        // Some receivers repeat what they were sent. A path may be a secret as a whole.
        let mut secrets = vec![Secret::new(post.url.path.clone())];
        secrets.extend(post.url.query.clone());
        secrets.extend(headers.iter().map(|(_, value)| value.clone()));
        Ok(Self {
            post,
            clock,
            connection: Connection::new(post.proxy.as_ref(), client, patience.timeout, secrets),
            headers,
        })
    }

    /// Makes a request that delivers nothing, with the headers of a delivery: `GET` of this path,
    /// or `OPTIONS` of the receiver's own address. Returns the answer's status, and its body as
    /// messages show it.
    ///
    /// # Errors
    /// If there is no whole answer.
    pub fn ask(&self, path: Option<&str>, timeout: Duration) -> Result<(u16, String), Error> {
        let answer = self.connection.send(timeout, |agent| {
            let call = match path {
                Some(path) => agent.get(format!("{}{path}", self.post.url.origin)),
                None => agent.options(self.post.url.expose()),
            };
            self.with_headers(call).call()
        });
        let answer = answer.and_then(|response| {
            let status = response.status().as_u16();
            let mut body = Vec::new();
            http::read_body(response, LARGEST_BODY, &mut body)?;
            Ok((status, self.connection.show(&body)))
        });
        answer.map_err(|error| Error::Receiver(self.describe(&error)))
    }

    /// Sets the headers of a delivery, for a request without a body as well: Logstash takes any
    /// method, and takes an empty body as an event unless it is said to be JSON.
    fn with_headers<B>(&self, mut call: RequestBuilder<B>) -> RequestBuilder<B> {
        if value(&self.headers, "content-type").is_none() {
            call = call.header("content-type", self.post.format.content_type());
        }
        for (name, value) in &self.headers {
            call = call.header(name, value.expose());
        }
        call
    }

    fn describe(&self, error: &ureq::Error) -> String {
        let origin = &self.post.url.origin;
        format!("{origin}: {}", self.connection.describe(error))
    }

    /// Posts a body with `count` events to an address. Returns the verdict, and the answer's body.
    fn request(
        &self,
        url: &str,
        body: &[u8],
        count: usize,
        timeout: Duration,
    ) -> (Verdict, Vec<u8>) {
        // A request without events has to stay empty: Fluent Bit would read what it decompresses.
        let compressed = (self.post.gzip && count > 0).then(|| compress(body));
        let body = compressed.as_deref().unwrap_or(body);
        let answer = self.connection.send(timeout, |agent| {
            let call = self.with_headers(agent.post(url));
            let mut call = self.connection.limit(call, timeout);
            if compressed.is_some() {
                call = call.header("content-encoding", "gzip");
            }
            call.send(body)
        });
        let response = match answer {
            Ok(response) => response,
            Err(error) => return (self.unanswered(&error, body.len()), Vec::new()),
        };
        let status = response.status().as_u16();
        let wait = http::wait(response.headers());
        let redirect = self.connection.redirect(&response);
        let mut said = Vec::new();
        let broken = http::read_body(response, LARGEST_BODY, &mut said).err();
        let answer = Answer {
            origin: &self.post.url.origin,
            status,
            body: broken.is_none().then_some(&said),
            said: &match redirect {
                None => self.connection.show(self.post.format.said(&said)),
                Some(address) => format!("it leads to {address}"),
            },
            show: &|text| self.connection.show(text),
        };
        let mut verdict = self.post.format.judge(&answer, count);
        verdict.wait = wait;
        if let Some(error) = broken {
            let error = self.connection.describe(&error);
            verdict.message = format!("{} ({error})", verdict.message);
        }
        (verdict, said)
    }

    /// The verdict on a request without an answer.
    fn unanswered(&self, error: &ureq::Error, size: usize) -> Verdict {
        let message = self.describe(error);
        if http::is_broken_off(error) && size >= LARGE_BODY {
            let hint = "if each try ends so, such large bodies may not be allowed: try a smaller --batch-bytes";
            return Verdict::new(Rest::Reset, format!("{message}; {hint}"));
        }
        let rest = match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => Rest::Retry,
            ureq::Error::Timeout(_) if !self.post.format.drops_repeats() => Rest::Unanswered,
            error if http::is_retryable(error) => Rest::Retry,
            _ => Rest::Failed,
        };
        Verdict::new(rest, message)
    }

    /// Asks Splunk's indexer until it has acknowledged a delivery, at most until `end`.
    fn indexed(&self, id: u64, end: Duration) -> Verdict {
        let origin = &self.post.url.origin;
        let channel = value(&self.headers, CHANNEL).map_or("", Secret::expose);
        let url = splunk::ack_address(&self.post.url, channel);
        let question = format!(r#"{{"acks":[{id}]}}"#);
        let mut wait = FIRST_POLL;
        loop {
            let left = end.saturating_sub(self.clock.elapsed() + wait);
            if left.is_zero() {
                let late = "the indexer did not acknowledge the events in time (--timeout)";
                return Verdict::new(Rest::Unanswered, format!("{origin}: {late}"));
            }
            self.clock.sleep(wait);
            let (verdict, said) = self.request(&url, question.as_bytes(), 0, left);
            wait = (wait * 2).min(LONGEST_POLL);
            match (splunk::is_indexed(id, &said), verdict.rest) {
                (Some(true), _) => return Verdict::accepted(),
                (None, Rest::Refused | Rest::RefusedEvents | Rest::Failed) => {
                    return Verdict::new(Rest::Refused, verdict.message);
                }
                _ => {}
            }
        }
    }
}

impl Target for Receiver<'_> {
    fn send(&mut self, events: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error> {
        let end = self.clock.elapsed().saturating_add(timeout);
        let url = self.post.url.expose();
        let (verdict, said) = self.request(&url, body, events.len(), timeout);
        if self.post.format == Format::SplunkHec
            && verdict.taken == Taken::All
            && let Some(id) = splunk::ack_id(&said)
        {
            return Ok(self.indexed(id, end));
        }
        Ok(verdict)
    }
}

/// The value of the first header with this name.
fn value<'h>(headers: &'h [(String, Secret)], name: &str) -> Option<&'h Secret> {
    let header = headers
        .iter()
        .find(|header| header.0.eq_ignore_ascii_case(name));
    header.map(|(_, value)| value)
}

/// All headers, and the client's certificate.
fn read_files(
    headers: &[Header],
    client: Option<&ClientFiles>,
) -> Result<(Headers, Option<ClientCert>), Error> {
    let mut all = Vec::new();
    for header in headers {
        match header {
            Header::Given(name, value) => all.push((name.clone(), value.clone())),
            Header::File(path) => {
                let text = fs::read_to_string(path).map_err(|error| error.to_string());
                let read = text.and_then(|text| parse_headers(&text));
                let shown = path.display();
                all.extend(read.map_err(|it| Error::Usage(format!("--header: {shown}: {it}")))?);
            }
        }
    }
    let client = client.map(ClientFiles::read).transpose();
    Ok((all, client.map_err(Error::Usage)?))
}

fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}
