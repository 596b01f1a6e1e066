//! The proxy of a request, chosen from the environment for the service and the receiver separately.
//!
//! No standard exists for these variables. Where programs differ, curl's rules apply
//! (<https://everything.curl.dev/usingcurl/proxies/env.html>): `https_proxy` is for https addresses,
//! `http_proxy` for http ones and `all_proxy` for both; `no_proxy` lists hosts that are asked
//! directly. The lower-case spelling wins, and an empty variable counts as unset. A value that is
//! no proxy's address is an error: without the proxy, the request would take a way that nobody
//! meant.
//!
//! Loopback addresses are never proxied.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::ProxyProtocol;

use crate::config::url::{Url, port};
use crate::config::values::Environment;
use crate::secret::Secret;

/// A proxy, and the variable that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The variable that names it.
    pub variable: &'static str,
    /// The proxy as ureq takes it, credentials included.
    pub proxy: ureq::Proxy,
}

impl Proxy {
    /// Returns the proxy for an address, `None` if it is asked directly.
    ///
    /// # Errors
    /// If the variable for it is not a proxy's address; the message does not repeat the value.
    pub fn choose(environment: Environment, url: &Url) -> Result<Option<Self>, String> {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|&name| {
                let value = environment(name)?.to_string_lossy().trim().to_owned();
                (!value.is_empty()).then_some((name, value))
            })
        };
        let names = if url.is_https {
            ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        } else {
            ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        };
        let exempt = first(&["no_proxy", "NO_PROXY"]);
        if url.is_loopback() || exempt.is_some_and(|(_, list)| is_listed(&list, url)) {
            return Ok(None);
        }
        let proxy = first(&names).map(|(variable, value)| Self::new(variable, &value));
        proxy.transpose()
    }

    fn new(variable: &'static str, value: &str) -> Result<Self, String> {
        let is_supported = |proxy: &ureq::Proxy| {
            matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
                && !proxy.host().is_empty()
                && proxy.uri().authority().is_some_and(|it| port(it).is_ok())
        };
        match ureq::Proxy::new(value).ok().filter(is_supported) {
            Some(proxy) => Ok(Self { variable, proxy }),
            None => Err(format!(
                "${variable} does not name an http or https proxy, such as http://proxy.example.com:3128 or http://USER:PASSWORD@proxy.example.com:3128 (special characters percent-encoded)"
            )),
        }
    }

    /// True for a proxy that is reached by https.
    pub fn is_https(&self) -> bool {
        self.proxy.protocol() == ProxyProtocol::Https
    }

    /// Its password as it is, and as `Proxy-Authorization: Basic` has it.
    pub fn secrets(&self) -> [Secret; 2] {
        let password = self.proxy.password().unwrap_or_default();
        let user = self.proxy.username().unwrap_or_default();
        let both = BASE64_STANDARD.encode(format!("{user}:{password}"));
        [password.to_owned(), both].map(Secret::new)
    }
}

/// Shows the proxy without its credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.proxy.uri().scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}:{}", self.proxy.host(), self.proxy.port())
    }
}

/// Tells if a `no_proxy` list names the host of an address.
///
/// An entry is a name, which includes what is under it (`example.com`, `.example.com` and
/// `*.example.com` are the same), an address (`192.0.2.7`), a network (`192.0.2.0/24`), or `*` for
/// every host. Each may end in a port (`example.com:8088`).
fn is_listed(list: &str, url: &Url) -> bool {
    let host = url.host.trim_matches(['[', ']']);
    let address: Option<IpAddr> = host.parse().ok();
    let is_host = |name: &str| match address {
        _ if name == "*" => true,
        Some(address) => is_in_network(address, name.trim_matches(['[', ']'])),
        None => is_under(host, name.trim_start_matches("*.").trim_start_matches('.')),
    };
    let port = format!(":{}", url.port);
    // The last group of an IPv6 address is not a port.
    let has_port = |name: &str| !name.contains(':') || name.ends_with(']');
    list.to_ascii_lowercase()
        .split(|c: char| c == ',' || c.is_whitespace())
        .any(|entry| {
            let name = entry.strip_suffix(&port).filter(|name| has_port(name));
            is_host(entry) || name.is_some_and(is_host)
        })
}

/// Tells if `host` is `domain`, or is under it.
fn is_under(host: &str, domain: &str) -> bool {
    let prefix = host.strip_suffix(domain);
    !domain.is_empty() && prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// Tells if an address is in a network; a network without a length is a single address.
fn is_in_network(address: IpAddr, network: &str) -> bool {
    let (base, length) = network.split_once('/').unwrap_or((network, "128"));
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse()) else {
        return false;
    };
    // Both as 128 bits, the significant ones first.
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let differing = bits(base) ^ bits(address);
    base.is_ipv4() == address.is_ipv4() && differing.leading_zeros() >= length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(variables: &[(&str, &str)], url: &str) -> Result<Option<String>, String> {
        let environment = |name: &str| {
            let variable = variables.iter().find(|variable| variable.0 == name);
            variable.map(|variable| variable.1.into())
        };
        let proxy = Proxy::choose(&environment, &Url::parse(url).unwrap())?;
        assert!(!format!("{proxy:?}").contains("hunter2"));
        Ok(proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn each_scheme_has_its_own_variable() {
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
    fn a_proxy_is_shown_without_its_credentials() {
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
    fn hosts_in_no_proxy_are_asked_directly() {
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
