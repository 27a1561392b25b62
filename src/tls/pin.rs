use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::client::builder;
use super::{Because, TlsError, files};

/// A client of the listener that shows the certificate of this file, and of nobody else: the name
/// it is reached by, who signed it and until when it is valid do not matter.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub fn pinned(cert: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let chain = files::chain("cert", cert)?.certificates;
    let no_leaf = || TlsError::new("cert", cert, Because::NoCertificate);
    let leaf = chain.into_iter().next().ok_or_else(no_leaf)?;
    let builder = builder()?;
    let pin = Pin { leaf, provider: Arc::clone(builder.crypto_provider()) };
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(pin));
    Ok(Arc::new(config.with_no_client_auth()))
}

/// The one certificate that is taken, and only from who has its key.
#[derive(Debug)]
struct Pin {
    leaf: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.leaf {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
