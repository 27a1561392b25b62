//! TLS by rustls: what a listener shows of itself, read again when its files change, and whom a
//! client of ours trusts. TLS 1.2 and 1.3; aws-lc-rs for the whole process.
//!
//! Never: take a connection, or drop one because a certificate changed.

mod client;
mod files;
mod pin;
mod server;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use client::{Identity, client};
pub use pin::pinned;
pub use server::{POLL_EVERY, Server, keep_fresh};

/// The files of a TLS listener, all of them PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The certificate chain, the listener's own certificate first.
    pub cert: PathBuf,
    /// Its key: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
    /// Whom clients have to be certified by; without it clients are asked for no certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is let in. Default required; means nothing without
    /// [`Self::client_ca`].
    pub client_cert: ClientCert,
}

/// What is asked of a client once there is a CA to check it by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCert {
    /// No certificate, no handshake.
    #[default]
    Required,
    /// None will do, but one that is shown has to be good.
    Optional,
}

/// A file that TLS cannot be spoken with.
#[derive(Debug, thiserror::Error)]
#[error("{key} {path}: {because}")]
pub struct TlsError {
    key: &'static str,
    path: String,
    because: Because,
}

impl TlsError {
    fn new(key: &'static str, path: &Path, because: impl Into<Because>) -> Self {
        Self { key, path: path.display().to_string(), because: because.into() }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
enum Because {
    #[error("{0}")]
    Unreadable(#[from] std::io::Error),
    #[error("it is longer than {} KiB", files::FILE_BYTES_MAX / 1024)]
    TooLong,
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    #[error("it has no certificates: install ca-certificates, or name a file")]
    NoSystemRoots,
    #[error("it holds no key in PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted")]
    NoKey,
    #[error("it is not PEM ({0})")]
    NotPem(rustls::pki_types::pem::Error),
    #[error("certificate {at} of the file is not X.509")]
    NotX509 { at: usize },
    #[error("it is not the key of the certificate: give the pair that belongs together")]
    WrongKey,
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    #[error("{0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Makes aws-lc-rs the provider of every rustls in this process, those of libraries among them.
/// Crates weir uses bring in another as well, so rustls would not choose by itself. To be called
/// before any TLS; once is enough, and more does nothing.
pub fn install_provider() {
    // It fails only where one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
