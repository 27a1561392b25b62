use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::files;
use super::{Because, TlsError};

/// What a client shows of itself: a chain and its key, both PEM.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'p> {
    /// The chain, the client's own certificate first.
    pub cert: &'p Path,
    /// Its key: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: &'p Path,
}

/// A client that trusts the certificates of `ca_file`, or without one the system's, which are those
/// of `SSL_CERT_FILE` and `SSL_CERT_DIR` where these are set.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub fn client(
    ca_file: Option<&Path>,
    identity: Option<Identity<'_>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(path) => files::roots("ca_file", path)?,
        None => system_roots()?,
    };
    let builder = builder()?.with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { cert, key }) => {
            let chain = files::chain("cert", cert)?.certificates;
            let private = files::private_key("key", key)?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| TlsError::new("key", key, error))?
        }
    };
    Ok(Arc::new(config))
}

/// A client that does not know yet whom to trust.
pub(super) fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    let unsupported = |error| TlsError::new("ca_file", Path::new("-"), Because::Rustls(error));
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(unsupported)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems carry certificates that rustls does not take; the others are trusted.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find_map(std::env::var_os);
        return Err(no_roots(named));
    }
    Ok(roots)
}

/// Where none were found: `named` by the environment, or else the system's own place.
fn no_roots(named: Option<OsString>) -> TlsError {
    match named {
        Some(path) => TlsError::new("ca_file", Path::new(&path), Because::NoCertificate),
        None => TlsError::new("ca_file", Path::new("of the system"), Because::NoSystemRoots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_certificates_is_told_what_to_install() {
        let said = no_roots(None).to_string();
        assert!(
            said.ends_with("no certificates: install ca-certificates, or name a file"),
            "{said}"
        );
        let said = no_roots(Some("/etc/empty.pem".into())).to_string();
        assert_eq!(said, "ca_file /etc/empty.pem: it holds no certificate in PEM");
    }
}
