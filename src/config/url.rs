//! Addresses of services and receivers, in one spelling and safe to show.

use std::fmt;

use ureq::http::Uri;
use ureq::http::uri::Authority;

use crate::secret::Secret;

/// An http or https address without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Scheme, host and port, each in one spelling.
    origin: String,
    host: String,
    port: u16,
    path: String,
    query: Option<Secret>,
    loopback: bool,
    https: bool,
}

impl Url {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it; a message never repeats what could be a secret in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text
            .parse()
            .map_err(|_| "is not an http or https address".to_owned())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("is not an http or https address".to_owned()),
        };
        let authority = uri.authority().ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("holds a user name; credentials are never part of an address".to_owned());
        }
        if text.contains('#') {
            return Err("has a fragment".to_owned());
        }
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err("has no host".to_owned());
        }
        let (scheme, default) = if https { ("https", 443) } else { ("http", 80) };
        let port = port(authority)?.unwrap_or(default);
        let shown = if port == default {
            String::new()
        } else {
            format!(":{port}")
        };
        Ok(Self {
            origin: format!("{scheme}://{host}{shown}"),
            port,
            path: uri.path().to_owned(),
            query: uri.query().map(|query| Secret::new(query.to_owned())),
            loopback: is_loopback(&host),
            host,
            https,
        })
    }

    /// Reads the address of a service, which has no query, and for which a slash at the end makes no
    /// difference.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn parse_endpoint(text: &str) -> Result<Self, String> {
        let url = Self::parse(text)?;
        if url.query.is_some() {
            return Err("has a query".to_owned());
        }
        Ok(url.with_path(|path| path.trim_end_matches('/').to_owned()))
    }

    /// The same address with another path.
    #[must_use]
    pub fn with_path(self, path: impl FnOnce(&str) -> String) -> Self {
        Self {
            path: path(&self.path),
            ..self
        }
    }

    /// The whole address, query included, to be asked and not to be shown.
    #[must_use]
    pub fn expose(&self) -> String {
        let query = self
            .query
            .as_ref()
            .map(|query| format!("?{}", query.expose()));
        format!("{self}{}", query.unwrap_or_default())
    }

    /// The path, from its slash on.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Scheme, host and port: of a receiver's address the path can be a secret, too.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The host in lower case, an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where it is the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is an https address.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Whether it names this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Whether what is sent there can be read on the way.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.https && !self.loopback
    }
}

/// The address as it may be shown: without its query, which may hold a secret.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// The port that an address names, if it names one.
///
/// # Errors
/// If what stands there is no port: `http` takes that for none.
pub fn port(authority: &Authority) -> Result<Option<u16>, &'static str> {
    let place = authority.as_str().rsplit('@').next().unwrap_or_default();
    match (authority.port_u16(), place == authority.host()) {
        (None, true) => Ok(None),
        (Some(port), _) => Ok(Some(port)),
        (None, false) => Err("has a port that is no number up to 65535"),
    }
}

/// `localhost`, 127.0.0.0/8 and `[::1]`.
fn is_loopback(host: &str) -> bool {
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
