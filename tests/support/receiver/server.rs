//! The receiver itself: its connections, and what it received.

use super::*;

/// The receiver's behaviour at one request.
#[derive(Clone, Debug)]
pub enum Step {
    /// As the rules say.
    Usual,
    /// This answer, and no event is acknowledged.
    Answer {
        code: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// The receiver reads the request and never answers.
    Stall,
    /// The receiver closes the connection before it has read the body.
    Unread,
    /// The receiver takes everything and closes the connection without an answer.
    Unanswered,
    /// The receiver takes everything and closes the connection in the middle of the answer's body.
    /// In formats where the status alone counts, that acknowledges.
    Half,
    /// The usual answer, spread over this time.
    Spread(Duration),
}

impl Step {
    /// This status, with a body that says so.
    pub fn status(code: u16) -> Self {
        Self::answer(code, &[], &format!("status {code} as scripted"))
    }

    /// This answer.
    pub fn answer(code: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let headers = headers.iter().map(owned).collect();
        let body = body.to_owned();
        Self::Answer {
            code,
            headers,
            body,
        }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Received {
    /// The number of its connection; the first one is 1.
    pub connection: usize,
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, decompressed; empty if it was not read. That of OTLP is shown as JSON.
    pub body: String,
    /// The bytes of the body, decompressed.
    pub bytes: Vec<u8>,
    /// The events in it.
    pub items: Vec<Item>,
    /// The status of the answer, if the answer was not cut short.
    pub answered: Option<u16>,
    /// The events that the answer acknowledged. Bulk and Loki: the new ones, answered or not.
    pub taken: Vec<Item>,
}

impl Received {
    /// The value of the header `name` (in lower case); empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Reads a request's head; `None` if the client is done.
    fn read_head(reader: &mut impl BufRead, connection: usize) -> Option<Self> {
        let mut lines = reader.lines().map_while(Result::ok);
        let first = lines.next()?;
        let mut headers = BTreeMap::new();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut words = first.split(' ').map(str::to_owned);
        Some(Self {
            connection,
            method: words.next()?,
            path: words.next()?,
            headers,
            body: String::new(),
            bytes: Vec::new(),
            items: Vec::new(),
            answered: None,
            taken: Vec::new(),
        })
    }

    /// Reads the body that the head announced.
    fn read_body(&mut self, reader: &mut impl Read, format: Format) -> io::Result<()> {
        let length = match self.header("content-length") {
            "" if self.method != "POST" => Ok(0),
            length => length.parse(),
        };
        self.bytes = vec![0; length.map_err(io::Error::other)?];
        reader.read_exact(&mut self.bytes)?;
        if self.header("content-encoding") == "gzip" {
            let compressed = std::mem::take(&mut self.bytes);
            GzDecoder::new(&compressed[..]).read_to_end(&mut self.bytes)?;
        }
        let body = match format {
            Format::Otlp if !self.bytes.is_empty() => {
                otlp::request(&self.bytes).map(|request| request.to_string())
            }
            _ => String::from_utf8(self.bytes.clone()).map_err(|error| error.to_string()),
        };
        // What cannot be read is a fault when the events are read.
        self.body = body.unwrap_or_else(|fault| fault);
        Ok(())
    }
}

/// One line: the request and its outcome.
impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connection, method, path) = (self.connection, &self.method, &self.path);
        let (items, bytes, taken) = (self.items.len(), self.bytes.len(), self.taken.len());
        let answered = self
            .answered
            .map_or("nothing".into(), |code| code.to_string());
        write!(
            f,
            "(connection {connection}) {method} {path}, {items} events in {bytes} bytes: answered {answered}, {taken} taken"
        )
    }
}

/// The part that the threads share.
struct Shared {
    format: Format,
    state: Mutex<State>,
    /// A request came, a connection closed, or the receiver stops.
    changed: Condvar,
}

/// The part that changes while the receiver runs.
struct State {
    rules: Rules,
    received: Vec<Received>,
    /// The faults in bodies.
    faults: Vec<String>,
    open: BTreeMap<usize, TcpStream>,
    /// The client that connected last.
    latest: Option<SocketAddr>,
    stopping: bool,
}

impl Shared {
    /// The state, also after a test panicked while it held the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits this long, or until the receiver stops.
    fn wait(&self, time: Duration) {
        let running = |state: &mut State| !state.stopping;
        let _ = self.changed.wait_timeout_while(self.lock(), time, running);
    }

    /// Accepts connections until the receiver stops, and returns when all of them are done.
    fn listen(&self, listener: &TcpListener) {
        thread::scope(|scope| {
            for connection in 1.. {
                let accepted = listener.accept();
                let mut state = self.lock();
                if state.stopping {
                    break;
                }
                let Ok((stream, peer)) = accepted else {
                    continue;
                };
                let twin = stream.try_clone().expect("a socket can be cloned");
                state.open.insert(connection, twin);
                state.latest = Some(peer);
                scope.spawn(move || {
                    let _ = self.converse(&stream, connection); // the client may go at any time
                    let _ = stream.shutdown(Shutdown::Both); // its twin would keep it open
                    self.lock().open.remove(&connection);
                    self.changed.notify_all();
                });
            }
        });
    }

    /// Answers one connection's requests.
    fn converse(&self, mut stream: &TcpStream, connection: usize) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(1024, stream);
        while let Some(mut request) = Received::read_head(&mut reader, connection) {
            let length = request.header("content-length").parse().unwrap_or(0);
            let unread = {
                let rules = &mut self.lock().rules;
                if length > rules.resets_above {
                    rules.script.push_front(Step::Unread);
                }
                let step = rules.script.front().unwrap_or(&rules.always);
                matches!(step, Step::Unread)
            };
            if !unread {
                request.read_body(&mut reader, self.format)?;
            }
            let (step, code, headers, body) = self.take(request);
            let mut head = format!("HTTP/1.1 {code} Receiver\r\n");
            for (name, value) in headers {
                let _ = write!(head, "{name}: {value}\r\n");
            }
            if code != 204 {
                let _ = write!(head, "Content-Length: {}\r\n", body.len());
            }
            let message = head + "\r\n" + &body;
            match step {
                Step::Usual | Step::Answer { .. } => stream.write_all(message.as_bytes())?,
                Step::Spread(time) => {
                    for piece in message.as_bytes().chunks(message.len().div_ceil(10)) {
                        self.wait(time / 10);
                        stream.write_all(piece)?;
                    }
                }
                Step::Half => {
                    let sent = message.len() - body.len().div_ceil(2);
                    return stream.write_all(&message.as_bytes()[..sent]);
                }
                Step::Stall => self.wait(Duration::MAX),
                Step::Unread | Step::Unanswered => break,
            }
        }
        Ok(())
    }

    /// Decides the outcome of a request, and notes it.
    fn take(&self, mut request: Received) -> (Step, u16, Vec<(String, String)>, String) {
        let state = &mut *self.lock();
        let rules = &mut state.rules;
        let step = rules.script.pop_front().unwrap_or(rules.always.clone());
        let aside = rules.aside(self.format, &request);
        let (code, headers, body) = match &step {
            Step::Usual if aside.is_some() => {
                let (code, body) = aside.unwrap_or_default();
                (code, Vec::new(), body)
            }
            Step::Unread | Step::Stall => Default::default(),
            Step::Answer {
                code,
                headers,
                body,
            } => {
                request.items = self.format.read(&request.body).unwrap_or_default();
                (*code, headers.clone(), body.clone())
            }
            Step::Usual | Step::Unanswered | Step::Half | Step::Spread(_) => {
                match self.format.read(&request.body) {
                    Ok(items) => {
                        let bytes = request.bytes.len();
                        let (code, body, taken) = rules.usual(self.format, bytes, &items);
                        request.items = items;
                        let status_came = match step {
                            Step::Half => {
                                !matches!(self.format, Format::Splunk | Format::Bulk | Format::Otlp)
                            }
                            _ => matches!(step, Step::Usual | Step::Spread(_)),
                        };
                        // These store an event once, so that it does not matter who heard of it.
                        let stores = matches!(self.format, Format::Bulk | Format::Loki);
                        if status_came || stores {
                            request.taken = taken;
                        }
                        (code, Vec::new(), body)
                    }
                    Err(fault) => {
                        state.faults.push(fault.clone());
                        (400, Vec::new(), fault)
                    }
                }
            }
        };
        if matches!(step, Step::Usual | Step::Spread(_) | Step::Answer { .. }) {
            request.answered = Some(code);
        }
        state.received.push(request);
        self.changed.notify_all();
        (step, code, headers, body)
    }
}

/// The running receiver. Dropping it ends its threads. It panics if a body was malformed, or if a
/// scripted step was not reached: then the test has shown nothing.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Takes this format at a free port of the loopback address.
    pub fn start(format: Format, rules: Rules) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr();
        let state = State {
            rules,
            received: Vec::new(),
            faults: Vec::new(),
            open: BTreeMap::new(),
            latest: None,
            stopping: false,
        };
        let shared = Arc::new(Shared {
            format,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        Self {
            address: address.expect("a bound socket has an address"),
            shared,
            listening: Some(thread::spawn(move || theirs.listen(&listener))),
        }
    }

    /// Where to post to.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.shared.format.path())
    }

    /// The format that it takes.
    pub fn format(&self) -> Format {
        self.shared.format
    }

    /// Looks at the rules or changes them, between two requests.
    pub fn with<T>(&self, act: impl FnOnce(&mut Rules) -> T) -> T {
        act(&mut self.shared.lock().rules)
    }

    /// The requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.lock().received.clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        self.shared.lock().received.len()
    }

    /// Waits until this number of requests came.
    pub fn wait_for(&self, count: usize) {
        self.wait_while(|state| state.received.len() < count);
    }

    /// Waits until all clients so far have closed their connections and their requests are noted.
    pub fn wait_until_left(&self) {
        // Connections are accepted in their order.
        let last = TcpStream::connect(self.address).and_then(|stream| stream.local_addr());
        let last = last.expect("the receiver listens");
        self.wait_while(|state| state.latest != Some(last) || !state.open.is_empty());
    }

    fn wait_while(&self, waiting: impl FnMut(&mut State) -> bool) {
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(self.shared.lock(), TOO_LONG, waiting);
        let timed_out = waited.is_ok_and(|(_, result)| result.timed_out());
        assert!(
            !timed_out,
            "some requests did not come:\n{}",
            self.summary()
        );
    }

    /// The events acknowledged so far, in the order of their acknowledgement.
    pub fn delivered(&self) -> Vec<Item> {
        let taken = |request: Received| request.taken;
        self.received().into_iter().flat_map(taken).collect()
    }

    /// Their ids.
    pub fn delivered_ids(&self) -> Vec<String> {
        let id = |item: Item| item.id;
        self.delivered().into_iter().map(id).collect()
    }

    /// The requests so far, one a line.
    pub fn summary(&self) -> String {
        let lines: Vec<_> = self.received().iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        for stream in state.open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(self.address); // wakes the listener
        let ended = self.listening.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the receiver panicked");
            let state = self.shared.lock();
            assert!(state.faults.is_empty(), "malformed: {:?}", state.faults);
            let left = &state.rules.script;
            assert!(left.is_empty(), "unused: {left:?}");
        }
    }
}
