use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::config::TlsFiles;

/// What a connection by TLS needs; nothing is read later.
pub(super) fn client(files: TlsFiles<'_>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?
        .with_root_certificates(roots(files.ca)?);
    let config = match (files.cert, files.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("cert_file", cert)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(in_file("key_file", key))?;
            let refused = |error| format!("cert_file and key_file: {error}");
            builder.with_client_auth_cert(chain, secret).map_err(refused)?
        }
        (Some(_), None) => return Err("cert_file needs its key_file: add it".into()),
        (None, Some(_)) => return Err("key_file needs its cert_file: add it".into()),
    };
    Ok(Arc::new(config))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates("ca_file", path)? {
            roots.add(certificate).map_err(in_file("ca_file", path))?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("ca_file is missing, and the system trusts nobody: name a file".into());
    }
    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).map_err(in_file(key, path))?;
    let certificates: Vec<_> = read.collect::<Result<_, _>>().map_err(in_file(key, path))?;
    if certificates.is_empty() {
        return Err(format!("{key} {}: there is no certificate in it", path.display()));
    }
    Ok(certificates)
}

fn in_file<E: Display>(key: &str, path: &Path) -> impl Fn(E) -> String {
    move |error| format!("{key} {}: {error}", path.display())
}
