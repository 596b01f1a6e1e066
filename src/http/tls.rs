//! TLS: how servers are checked, how the client identifies itself, and TLS errors in plain words.
//!
//! Every server certificate is checked against the platform's trust store; no option turns that
//! off. On Linux the store is the system's bundle. `SSL_CERT_FILE` and `SSL_CERT_DIR` (either or
//! both) name another one to use *instead* of it; the crate `rustls-native-certs` reads them.
//!
//! The crate `rustls`, which is a part of ureq, is used directly for two reasons. ureq panics on a
//! client certificate and a key that do not belong together, so both are tried before. And only
//! rustls's error types tell what is wrong with a certificate.

use std::fs;

use ::time::UtcDateTime;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use rustls::{AlertDescription, CertificateError, InvalidMessage, sign::CertifiedKey};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::config::values::ClientFiles;
use crate::text::excerpt;
use crate::time;

impl ClientFiles {
    /// Reads the files and checks that they belong together.
    ///
    /// # Errors
    /// A message that names the file and its fault, and shows nothing of its content.
    pub fn read(&self) -> Result<ClientCert, String> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let wrong_certificate = |fault: &str| format!("--client-cert: {certificate}: {fault}");
        let wrong_key = |fault: &str| format!("--client-key: {key}: {fault}");
        let pem = fs::read(&self.certificate).map_err(|e| wrong_certificate(&e.to_string()))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let chain = chain.unwrap_or_default();
        if chain.is_empty() {
            return Err(wrong_certificate("holds no certificate as PEM"));
        }
        let pem = fs::read(&self.key).map_err(|e| wrong_key(&e.to_string()))?;
        let no_key = "holds no private key as PEM (an encrypted one cannot be used)";
        let key = PrivateKey::from_pem(&pem).map_err(|_| wrong_key(no_key))?;
        let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| wrong_key(no_key))?;
        let provider = ring::default_provider();
        CertifiedKey::from_der(chain.clone(), der, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => wrong_key(&format!(
                "is not the key of the certificate in {certificate}"
            )),
            rustls::Error::InvalidCertificate(_) => wrong_certificate("holds no valid certificate"),
            _ => wrong_key("holds a key of a kind that is not supported"),
        })?;
        let chain = chain.iter().map(|it| Certificate::from_der(it).to_owned());
        Ok(ClientCert::new_with_certs(&chain.collect::<Vec<_>>(), key))
    }
}

/// The settings for ureq: the platform's trust store, and a client certificate if there is one.
pub fn config(client: Option<ClientCert>) -> TlsConfig {
    // ureq takes the process's provider. An error says that an earlier call has set it.
    let _ = ring::default_provider().install_default();
    TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .client_cert(client)
        .build()
}

/// The TLS error in an error of ureq, which wraps those of a handshake in an I/O error.
pub fn fault(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(fault) => Some(fault),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// Whether a retry would fail in the same way, as with a certificate or a version of TLS. A garbled
/// message may arrive whole the next time.
pub fn is_permanent(fault: &rustls::Error) -> bool {
    use rustls::Error::{
        AlertReceived, General, InvalidCertificate, InvalidMessage, PeerIncompatible,
    };
    match fault {
        InvalidCertificate(_) | General(_) | PeerIncompatible(_) => true,
        AlertReceived(alert) => *alert != AlertDescription::InternalError,
        InvalidMessage(fault) => *fault == NO_TLS,
        _ => false,
    }
}

/// The alerts that a client certificate does not cause. Servers send many others where they want one.
const OF_OTHER_CAUSE: [AlertDescription; 3] = [
    AlertDescription::InternalError,
    AlertDescription::ProtocolVersion,
    AlertDescription::UnrecognisedName,
];

/// The error for an answer that does not begin as TLS does.
const NO_TLS: InvalidMessage = InvalidMessage::InvalidContentType;

/// Describes an error and says what to do, where that is known. Safe to show.
pub fn describe(fault: &rustls::Error) -> String {
    let text = format!("TLS: {}", excerpt(fault.to_string().as_bytes()));
    match fault {
        rustls::Error::InvalidCertificate(fault) => {
            format!("the server's certificate is refused: {}", certificate(fault))
        }
        rustls::Error::InvalidMessage(fault) if *fault == NO_TLS => {
            "the server does not speak TLS on this port: is the port right, or is it an http address?".to_owned()
        }
        // Nearly always because no trusted certificate was found.
        rustls::Error::General(_) => format!(
            "{text}: is the trust store empty (install ca-certificates; in a container, mount the host's /etc/ssl/certs), or do SSL_CERT_FILE or SSL_CERT_DIR, which replace it, name no certificate?"
        ),
        rustls::Error::AlertReceived(alert) if !OF_OTHER_CAUSE.contains(alert) => format!(
            "{text}: does the server ask for a client certificate (--client-cert and --client-key, for --post), and is it one that the server trusts and that has not expired?"
        ),
        _ => text,
    }
}

/// What is wrong with the certificate of a server.
fn certificate(fault: &CertificateError) -> String {
    let at = |time: &UnixTime| {
        let since = ::time::Duration::seconds(time.as_secs().try_into().unwrap_or(i64::MAX));
        time::format(UtcDateTime::UNIX_EPOCH.saturating_add(since))
    };
    match fault {
        CertificateError::UnknownIssuer => {
            "it is signed by itself, or by an authority that is not trusted here. Is this the right server? Add your company's authority to the system's trust store, or to a file for SSL_CERT_FILE, which replaces the store".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "it expired at {}: renew it, or set this machine's clock, which says {}",
            at(not_after),
            at(time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "it is not valid before {}: is this machine's clock right, which says {}?",
            at(not_before),
            at(time)
        ),
        CertificateError::NotValidForNameContext { .. } => format!(
            "{}: use a name that it is valid for, or have it issued again with a subjectAltName for this one",
            excerpt(fault.to_string().as_bytes())
        ),
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(webpki::Error::UnsupportedCertVersion) => {
                "it is of X.509 version 1, as `openssl x509 -req` makes it: issue it again as version 3, with -extfile and a subjectAltName".to_owned()
            }
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "it is an authority's own (CA:TRUE), as `openssl req -x509` makes it: issue one for the server, with CA:FALSE".to_owned()
            }
            _ => excerpt(other.to_string().as_bytes()),
        },
        other => excerpt(other.to_string().as_bytes()),
    }
}
