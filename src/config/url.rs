//! Addresses of the service and of receivers, in one spelling and safe to show.

use std::fmt;
use std::net::{IpAddr, ToSocketAddrs};

use ureq::http::Uri;
use ureq::http::uri::Authority;

use crate::secret::Secret;

/// An http or https address without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Scheme, host and port, each in one spelling: all of a receiver's address that is safe to show,
    /// since the path may be a secret.
    pub origin: String,
    /// The host in lower case, an IPv6 address in brackets.
    pub host: String,
    /// The port, or the scheme's own if the address names none.
    pub port: u16,
    /// The path, from its slash on.
    pub path: String,
    /// The query, if there is one.
    pub query: Option<Secret>,
    /// True for https, false for http.
    pub is_https: bool,
}

impl Url {
    /// Reads an address.
    ///
    /// # Errors
    /// The fault, as the rest of a sentence; the address may hold a secret and is not repeated.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const NO_ADDRESS: &str = "is not an http or https address";
        if !text.contains("://") {
            return Err("has no scheme: add https:// in front of it");
        }
        let uri: Uri = text.parse().map_err(|_| NO_ADDRESS)?;
        let (scheme, default) = match uri.scheme_str() {
            Some("https") => ("https", 443),
            Some("http") => ("http", 80),
            _ => return Err(NO_ADDRESS),
        };
        let authority = uri.authority().filter(|it| !it.host().is_empty());
        let authority = authority.ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("holds a user name; credentials are never part of an address");
        }
        if text.contains('#') {
            return Err("has a fragment");
        }
        let host = authority.host().to_ascii_lowercase();
        let port = port(authority)?.unwrap_or(default);
        let origin = format!("{scheme}://{host}:{port}");
        let usual = format!(":{default}");
        Ok(Self {
            origin: origin.trim_end_matches(&usual).to_owned(),
            host,
            port,
            path: uri.path().to_owned(),
            query: uri.query().map(|query| Secret::new(query.to_owned())),
            is_https: scheme == "https",
        })
    }

    /// Reads the address of a service: it has neither path nor query, and a slash at its end makes no difference.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn parse_endpoint(text: &str) -> Result<Self, &'static str> {
        let mut url = Self::parse(text)?;
        if url.query.is_some() {
            return Err("has a query");
        }
        if !url.path.trim_matches('/').is_empty() {
            return Err("has a path: give only its scheme, host and port");
        }
        url.path.clear();
        Ok(url)
    }

    /// The whole address with its query, for a request and never for a message.
    pub fn expose(&self) -> String {
        match &self.query {
            Some(query) => format!("{self}?{}", query.expose()),
            None => self.to_string(),
        }
    }

    /// Tells if the address names this machine: `localhost`, 127.0.0.0/8 or `[::1]`.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Tells if others on the way can read requests. A name service may know another `localhost`.
    pub fn is_exposed(&self) -> bool {
        if self.is_https || self.host != "localhost" {
            return !self.is_https && !self.is_loopback();
        }
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        // Without an address there is no connection either.
        addresses.is_ok_and(|mut all| all.any(|address| !address.ip().is_loopback()))
    }
}

/// Shows the address without its query, which may hold a secret.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// Returns the port that an address names, if it names one.
///
/// # Errors
/// If the text after the colon is not a port; the crate `http` then reports no port at all.
pub fn port(authority: &Authority) -> Result<Option<u16>, &'static str> {
    let place = authority.as_str().rsplit('@').next().unwrap_or_default();
    match authority.port_u16() {
        None if place != authority.host() => Err("has a port that is not a number up to 65535"),
        port => Ok(port),
    }
}
