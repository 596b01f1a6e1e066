//! TLS: how servers are checked, how a client proves itself, and what went wrong in words.
//!
//! Every certificate is checked against the platform's trust store, and nothing switches that off.
//! On Linux that is the system's bundle, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name *instead*
//! of it (either or both; read by the crate `rustls-native-certs`).
//!
//! The crate `rustls` is named here, beside ureq which brings it, for two reasons: ureq panics on a
//! client certificate and a key that do not belong together, so that they have to be tried first;
//! and what is wrong with a server's certificate can only be told from the error's type.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ::time::OffsetDateTime;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use rustls::{AlertDescription, CertificateError, InvalidMessage, sign::CertifiedKey};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::config::values::ClientFiles;
use crate::text::excerpt;
use crate::time;

impl ClientFiles {
    /// Reads them, and sees that they belong together.
    ///
    /// # Errors
    /// What is wrong with which of them; never what is in it.
    pub fn read(&self) -> Result<ClientCert, String> {
        let (certificate, key) = (&self.certificate, &self.key);
        let wrong = |option: &str, path: &Path, fault: &dyn Display| {
            format!("--{option}: {}: {fault}", path.display())
        };
        let pem =
            |option: &str, path: &Path| fs::read(path).map_err(|error| wrong(option, path, &error));
        let certificates = pem("client-cert", certificate)?;
        let chain = CertificateDer::pem_slice_iter(&certificates)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| wrong("client-cert", certificate, &"holds no certificate as PEM"))?;
        let key_pem = pem("client-key", key)?;
        let key_der = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| {
            wrong(
                "client-key",
                key,
                &"holds no private key as PEM (an encrypted one cannot be used)",
            )
        })?;
        CertifiedKey::from_der(chain.clone(), key_der, &provider()).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(_) => format!(
                    "--client-key: {} is not the key of the certificate in {}",
                    key.display(),
                    certificate.display()
                ),
                rustls::Error::InvalidCertificate(_) => {
                    wrong("client-cert", certificate, &"holds no valid certificate")
                }
                _ => wrong(
                    "client-key",
                    key,
                    &"holds no key of a kind that can be used",
                ),
            },
        )?;
        let chain: Vec<_> = chain
            .iter()
            .map(|certificate| Certificate::from_der(certificate).to_owned())
            .collect();
        let key = PrivateKey::from_pem(&key_pem)
            .map_err(|_| wrong("client-key", key, &"holds no private key as PEM"))?;
        Ok(ClientCert::new_with_certs(&chain, key))
    }
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// The settings for ureq: the platform's trust store, and the client's certificate if it has one.
#[must_use]
pub fn config(client: Option<ClientCert>) -> TlsConfig {
    TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .client_cert(client)
        .unversioned_rustls_crypto_provider(Arc::new(provider()))
        .build()
}

/// The TLS error behind an error of ureq's, which wraps it in another where a handshake fails.
#[must_use]
pub fn fault(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(fault) => Some(fault),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// Whether another try will meet the same: all that is about certificates or the protocol. A
/// message that came garbled may come whole the next time.
#[must_use]
pub fn is_permanent(fault: &rustls::Error) -> bool {
    use rustls::Error::{AlertReceived, General, InvalidCertificate, PeerIncompatible};
    matches!(
        fault,
        InvalidCertificate(_) | General(_) | PeerIncompatible(_)
    ) || matches!(fault, AlertReceived(alert) if *alert != AlertDescription::InternalError)
        || matches!(
            fault,
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)
        )
}

/// What went wrong and what to do about it, safe to show.
#[must_use]
pub fn describe(fault: &rustls::Error) -> String {
    let alert = |alert: AlertDescription| {
        match alert {
        AlertDescription::CertificateRequired => {
            "the server asks for a client certificate: give one with --client-cert and --client-key (for --post)".to_owned()
        }
        AlertDescription::ProtocolVersion => {
            "the server speaks no version of TLS from 1.2 on".to_owned()
        }
        AlertDescription::HandshakeFailure => {
            "the server broke off the TLS handshake: it wants a client certificate (--client-cert), or other ciphers".to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => format!(
            "the server does not accept the client certificate ({alert:?}): is it expired, or of an authority that the server does not know?"
        ),
        other => format!("the server broke off TLS ({other:?})"),
    }
    };
    match fault {
        rustls::Error::InvalidCertificate(fault) => certificate(fault),
        rustls::Error::General(text) if text.contains("No CA certificates") => {
            "no trusted certificate is known on this machine: the system's trust store is empty (install ca-certificates; in a container, mount the host's /etc/ssl/certs), or SSL_CERT_FILE or SSL_CERT_DIR, which replace it, lead to none".to_owned()
        }
        rustls::Error::AlertReceived(description) => alert(*description),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS there: is the port right, or the address an http one?".to_owned()
        }
        rustls::Error::PeerIncompatible(_) => format!(
            "the server speaks no TLS that is still safe ({})",
            excerpt(fault.to_string().as_bytes())
        ),
        other => format!("TLS: {}", excerpt(other.to_string().as_bytes())),
    }
}

/// What is wrong with a server's certificate.
fn certificate(fault: &CertificateError) -> String {
    let at = |time: &UnixTime| {
        i64::try_from(time.as_secs())
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .map_or_else(|| "an unknown time".to_owned(), time::format)
    };
    let words = match fault {
        CertificateError::UnknownIssuer => {
            "it is signed by itself, or by an authority that is not trusted here: is this the right server? A company's own authority goes into the system's trust store, or into a file for SSL_CERT_FILE, which replaces that".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "it expired at {}: have it renewed, or set this machine's clock, which says {}",
            at(not_after),
            at(time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "it is not valid before {}: is this machine's clock right, which says {}?",
            at(not_before),
            at(time)
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented
                .iter()
                .map(|name| name.trim_start_matches("DnsName(").trim_end_matches(')'))
                .collect();
            let names = if names.is_empty() {
                "no name at all (in its subjectAltName)".to_owned()
            } else {
                excerpt(names.join(", ").as_bytes())
            };
            format!(
                "it is not for {} but for {names}: use a name that it is for, or have one issued for this name",
                expected.to_str()
            )
        }
        CertificateError::Revoked => "it is revoked".to_owned(),
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its signature is wrong, or of a kind that is no longer safe (SHA-1, RSA of less than 2048 bits): have another issued".to_owned()
        }
        // The crate that finds these has no public type for them here.
        other => match format!("{other:?}") {
            text if text.contains("CaUsedAsEndEntity") => {
                "it is an authority's own (self-signed, with CA:TRUE), which no server may show, also where it is trusted: have the server use one with CA:FALSE".to_owned()
            }
            text if text.contains("EkuError") => {
                "it is not meant for servers (its extendedKeyUsage)".to_owned()
            }
            text => excerpt(text.as_bytes()),
        },
    };
    format!("the server's certificate is refused: {words}")
}
