//! Which proxy a request goes through, if any: decided from the environment, for the service and
//! for the receiver each by itself.
//!
//! There is no standard for these variables. The rules are curl's where programs differ
//! (<https://everything.curl.dev/usingcurl/proxies/env.html>): `https_proxy` is for https addresses
//! and `http_proxy` for http ones, `all_proxy` is for both, and `no_proxy` names what is asked
//! without one. The spelling in lower case goes before the one in upper case, and an empty variable
//! is none. A value that names no proxy is an error: going without one would send the request a way
//! that nobody meant.
//!
//! What goes to this machine goes through no proxy, whatever the variables say.

use std::fmt;
use std::net::IpAddr;

use ureq::ProxyProtocol;

use crate::config::url::{Url, port};
use crate::secret::Secret;

/// The variables, in the order in which they are asked.
const NAMES: [&str; 8] = [
    "https_proxy",
    "HTTPS_PROXY",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// The variables that are set.
#[derive(Clone, Debug, Default)]
pub struct Variables(Vec<(&'static str, Secret)>);

/// A proxy, and the variable that names it. It shows neither user name nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    variable: &'static str,
    proxy: ureq::Proxy,
}

impl Variables {
    /// Takes the variables from an environment.
    #[must_use]
    pub fn new(get: impl Fn(&str) -> Option<String>) -> Self {
        let set = NAMES
            .into_iter()
            .filter_map(|name| Some((name, Secret::new(get(name)?))))
            .filter(|(_, value)| !value.expose().trim().is_empty());
        Self(set.collect())
    }

    /// The first of these variables that is set.
    fn first(&self, names: &[&str]) -> Option<&(&'static str, Secret)> {
        self.0.iter().find(|variable| names.contains(&variable.0))
    }

    /// The proxy for an address; `None` if it is to be asked without one.
    ///
    /// # Errors
    /// If the variable for it names no proxy; the message does not repeat the value.
    pub fn choose(&self, url: &Url) -> Result<Option<Proxy>, String> {
        let names = if url.is_https() {
            ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        } else {
            ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        };
        let is_exempt = || {
            self.first(&["no_proxy", "NO_PROXY"])
                .is_some_and(|(_, list)| is_listed(list.expose(), url.host(), url.port()))
        };
        match self.first(&names) {
            Some((variable, value)) if !url.is_loopback() && !is_exempt() => {
                Proxy::new(variable, value).map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl Proxy {
    fn new(variable: &'static str, value: &Secret) -> Result<Self, String> {
        let proxy = ureq::Proxy::new(value.expose().trim())
            .ok()
            .filter(|proxy| !proxy.host().is_empty())
            .filter(|proxy| proxy.uri().authority().is_some_and(|it| port(it).is_ok()))
            .ok_or_else(|| {
                format!("${variable} does not name a proxy, such as http://proxy.example.com:3128 or http://USER:PASSWORD@proxy.example.com:3128 (special characters percent-encoded)")
            })?;
        match proxy.protocol() {
            ProxyProtocol::Http | ProxyProtocol::Https => Ok(Self { variable, proxy }),
            other => Err(format!(
                "${variable} names a proxy of the kind {other}; only http and https proxies are supported"
            )),
        }
    }

    /// The variable that names it.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        self.variable
    }

    /// What ureq knows it by.
    #[must_use]
    pub fn to_ureq(&self) -> ureq::Proxy {
        self.proxy.clone()
    }
}

/// The proxy as it may be shown: without credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.proxy.protocol() {
            ProxyProtocol::Https => "https",
            _ => "http",
        };
        write!(f, "{scheme}://{}:{}", self.proxy.host(), self.proxy.port())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Whether a list as `no_proxy` has it names this host: by its name (`example.com`, which means
/// what is under it as well, as do `.example.com` and `*.example.com`), by its address or a network
/// (`192.0.2.7`, `192.0.2.0/24`), each perhaps with a port behind it, or by `*`.
fn is_listed(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']);
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ']).map(str::trim).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let (name, for_port) = match entry.rsplit_once(':') {
            // Neither the last group of an IPv6 address nor nonsense is a port.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
            _ => (entry.as_str(), None),
        };
        let name = name.trim_matches(['[', ']']);
        let is_host = match address {
            Some(address) => name == "*" || is_in_network(address, name),
            None => is_under(host, name),
        };
        is_host && for_port.is_none_or(|for_port| for_port == port.to_string())
    })
}

/// Whether a host's name is this one or under it.
fn is_under(host: &str, name: &str) -> bool {
    let domain = name.trim_start_matches("*.").trim_start_matches('.');
    name == "*"
        || host
            .strip_suffix(domain)
            .is_some_and(|rest| !domain.is_empty() && (rest.is_empty() || rest.ends_with('.')))
}

/// Whether an address is this one or in this network.
fn is_in_network(address: IpAddr, network: &str) -> bool {
    let (base, length) = match network.split_once('/') {
        Some((base, length)) => (base, length.parse().ok()),
        None => (network, Some(128)),
    };
    // Both as 128 bits, the significant ones first.
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    match (base.parse::<IpAddr>(), length) {
        (Ok(base), Some(length)) if base.is_ipv4() == address.is_ipv4() => {
            let differing = bits(base) ^ bits(address);
            differing.leading_zeros() >= length
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(variables: &[(&str, &str)], url: &str) -> Result<Option<String>, String> {
        let get = |name: &str| {
            let variable = variables.iter().find(|variable| variable.0 == name);
            variable.map(|variable| variable.1.to_owned())
        };
        let proxy = Variables::new(get).choose(&Url::parse(url).unwrap())?;
        assert!(!format!("{proxy:?}").contains("hunter2"));
        Ok(proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let [a, b, c, d] = ["http://a:1", "http://b:2", "http://c:3", "http://d:4"];
        let https = "https://app.terraform.io";
        let http = "http://siem.example.com";
        let is = |variables: &[(&str, &str)], url, proxy: Option<&str>| {
            assert_eq!(
                choose(variables, url).unwrap().as_deref(),
                proxy,
                "{variables:?}"
            );
        };
        let all = [("HTTPS_PROXY", a), ("HTTP_PROXY", b), ("ALL_PROXY", c)];
        is(&all, https, Some(a));
        is(&all, http, Some(b));
        is(&all[1..], https, Some(c));
        is(&all[1..2], https, None);
        is(&all[..1], http, None);
        is(&[("https_proxy", d), all[0]], https, Some(d));
        is(&[("http_proxy", d), all[1]], http, Some(d));
        is(&[("all_proxy", d), all[2]], http, Some(d));
        is(
            &[("https_proxy", ""), ("HTTPS_PROXY", " "), all[2]],
            https,
            Some(c),
        );
        for loopback in ["http://localhost:1", "https://127.0.0.1", "https://[::1]"] {
            is(&all, loopback, None);
        }
    }

    #[test]
    fn a_proxy_is_named_without_its_credentials() {
        let of = |value| choose(&[("HTTPS_PROXY", value)], "https://app.terraform.io");
        let named = |value| of(value).unwrap().unwrap();
        assert_eq!(
            named("http://user:hunter2@proxy:3128/"),
            "http://proxy:3128"
        );
        assert_eq!(named("proxy:3128"), "http://proxy:3128");
        assert_eq!(named("https://user:hunter2%40@[::1]:1"), "https://[::1]:1");
        for wrong in [
            "http://user:hunter2@proxy:port",
            "http://user:hun/ter2@proxy:3128",
            "http://",
            "http://user:hunter2@",
            "http://user:hunter2%ff@proxy",
            "ftp://user:hunter2@proxy:21",
            "socks5://user:hunter2@proxy:1080",
            "hunter2 hunter2",
        ] {
            let message = of(wrong).expect_err(wrong);
            assert!(message.starts_with("$HTTPS_PROXY "), "{message}");
            assert!(!message.contains("ter2"), "{message}");
        }
    }

    #[test]
    fn what_no_proxy_names_is_asked_without_one() {
        let listed = |list: &str, url: &str| {
            choose(&[("ALL_PROXY", "http://proxy"), ("NO_PROXY", list)], url)
                .unwrap()
                .is_none()
        };
        for (list, url) in [
            ("*", "https://a.example.com"),
            ("example.com", "https://example.com"),
            ("example.com", "https://A.Example.COM"),
            (".example.com", "https://example.com"),
            (".example.com", "https://a.b.example.com"),
            ("*.Example.com", "https://a.example.com"),
            ("other, a.example.com", "https://a.example.com"),
            ("other a.example.com,", "https://a.example.com"),
            ("a.example.com:8088", "https://a.example.com:8088"),
            ("a.example.com:443", "https://a.example.com"),
            ("192.0.2.7", "http://192.0.2.7:1"),
            ("192.0.2.0/24", "http://192.0.2.7:1"),
            ("0.0.0.0/0", "http://192.0.2.7:1"),
            ("192.0.2.7:1", "http://192.0.2.7:1"),
            ("2001:db8::/32", "http://[2001:db8::1]:1"),
            ("2001:db8::1", "http://[2001:db8::1]:1"),
            ("[2001:db8::1]:1", "http://[2001:db8::1]:1"),
        ] {
            assert!(listed(list, url), "{list} {url}");
        }
        for (list, url) in [
            ("", "https://a.example.com"),
            (",.,", "https://a.example.com"),
            ("ample.com", "https://example.com"),
            ("b.example.com", "https://a.example.com"),
            ("a.example.com", "https://example.com"),
            ("a.example.com:8088", "https://a.example.com"),
            ("192.0.2.0/24", "http://192.0.3.7"),
            ("192.0.2.0/x", "http://192.0.2.7"),
            ("192.0.2", "http://192.0.2.7"),
            ("0.2.7", "http://192.0.2.7"),
            ("::/0", "http://192.0.2.7"),
            ("2001:db8::2", "http://[2001:db8::1]:2"),
        ] {
            assert!(!listed(list, url), "{list} {url}");
        }
    }
}
