use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prometheus::IntGauge;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::files::{self, Stamp};
use super::{Because, ClientCert, Config, TlsError};
use crate::clock::{Clock, UnixMillis};

/// How often [`keep_fresh`] looks whether a file has changed.
pub const POLL_EVERY: Duration = Duration::from_secs(2);

/// The TLS side of one listener. Each new connection is met with the files' last good state;
/// connections that are open keep the one they began with.
pub struct Server {
    name: &'static str,
    config: Config,
    protocols: Vec<Vec<u8>>,
    current: RwLock<TlsAcceptor>,
    pub(super) seen: Mutex<Seen>,
    expiry: IntGauge,
}

/// What the last look at the files found.
pub(super) struct Seen {
    stamps: Vec<Option<Stamp>>,
    not_after: UnixMillis,
    pub(super) complaint: Option<String>,
}

/// Files that were read and found good.
struct Loaded {
    acceptor: TlsAcceptor,
    not_before: UnixMillis,
    not_after: UnixMillis,
}

impl Config {
    /// Reads the files as a listener would, and returns when the first certificate of the chain
    /// expires.
    ///
    /// # Errors
    /// [`TlsError`] names the file, by its key in a `tls` table, and what is wrong with it. An
    /// expired certificate is none.
    pub fn check(&self) -> Result<UnixMillis, TlsError> {
        Ok(self.load(&[])?.not_after)
    }

    fn load(&self, protocols: &[Vec<u8>]) -> Result<Loaded, TlsError> {
        let chain = files::chain("cert", &self.cert)?;
        let key = files::private_key("key", &self.key)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let because = |error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Because::WrongKey,
            other => Because::Rustls(other),
        };
        CertifiedKey::from_der(chain.certificates.clone(), key.clone_key(), &provider)
            .map_err(|error| TlsError::new("key", &self.key, because(error)))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| TlsError::new("cert", &self.cert, error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = verifier(path, self.client_cert, provider)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder
            .with_single_cert(chain.certificates, key)
            .map_err(|error| TlsError::new("cert", &self.cert, error))?;
        server.alpn_protocols = protocols.to_vec();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        Ok(Loaded { acceptor, not_before: chain.not_before, not_after: chain.not_after })
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.cert, &self.key].into_iter().chain(&self.client_ca)
    }

    /// Taken before the files are read: one that changes meanwhile is read again at the next look.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.files().map(|path| Stamp::of(path)).collect()
    }
}

fn verifier(
    path: &Path,
    asked: ClientCert,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let roots = Arc::new(files::roots("client_ca", path)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
    let builder = match asked {
        ClientCert::Required => builder,
        ClientCert::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| TlsError::new("client_ca", path, error))
}

impl Server {
    /// Reads the files. `name` is the listener's, for the log; `protocols` is what ALPN offers, the
    /// best first; `expiry` is set to the Unix time in seconds at which the chain expires.
    ///
    /// # Errors
    /// [`TlsError`], as [`Config::check`] does.
    pub fn open(
        name: &'static str,
        config: Config,
        protocols: &[&[u8]],
        expiry: IntGauge,
        clock: &dyn Clock,
    ) -> Result<Self, TlsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.to_vec()).collect();
        let stamps = config.stamps();
        let loaded = config.load(&protocols)?;
        let seen = Seen { stamps, not_after: loaded.not_after, complaint: None };
        announce(name, &expiry, &loaded, clock);
        Ok(Self {
            name,
            config,
            protocols,
            current: RwLock::new(loaded.acceptor),
            seen: Mutex::new(seen),
            expiry,
        })
    }

    /// What meets a new connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.read().clone()
    }

    /// When the first certificate of the chain in use expires.
    #[must_use]
    pub fn not_after(&self) -> UnixMillis {
        self.seen.lock().not_after
    }

    /// Reads the files again if one has changed since they were last read, or if they could not be
    /// used then; blocks on the disk. Files that are no good change nothing, and the log says so
    /// once for each thing that is wrong with them.
    pub fn refresh(&self, clock: &dyn Clock) {
        let mut seen = self.seen.lock();
        let stamps = self.config.stamps();
        if stamps == seen.stamps && seen.complaint.is_none() {
            return;
        }
        match self.config.load(&self.protocols) {
            Ok(loaded) => {
                *seen = Seen { stamps, not_after: loaded.not_after, complaint: None };
                tracing::info!(listener = self.name, "tls: a new certificate is in use");
                announce(self.name, &self.expiry, &loaded, clock);
                *self.current.write() = loaded.acceptor;
            }
            Err(error) => {
                let complaint = error.to_string();
                if seen.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(
                        listener = self.name,
                        error = %complaint,
                        "tls: the new files cannot be used, the old certificate stays"
                    );
                }
                seen.complaint = Some(complaint);
            }
        }
    }
}

fn announce(name: &'static str, expiry: &IntGauge, loaded: &Loaded, clock: &dyn Clock) {
    let (begins, ends) = (loaded.not_before.seconds(), loaded.not_after.seconds());
    expiry.set(i64::try_from(ends).unwrap_or(i64::MAX));
    if loaded.not_after < clock.unix() {
        tracing::warn!(listener = name, expired = ends, "tls: the certificate has expired");
    } else if loaded.not_before > clock.unix() {
        tracing::warn!(listener = name, begins, "tls: the certificate is not valid yet");
    }
}

/// Looks at the files of all these listeners every [`POLL_EVERY`], for as long as it is awaited.
pub async fn keep_fresh(servers: Vec<Arc<Server>>, clock: Arc<dyn Clock>) {
    if servers.is_empty() {
        return;
    }
    loop {
        tokio::time::sleep(POLL_EVERY).await;
        let (servers, clock) = (servers.clone(), Arc::clone(&clock));
        let looked = tokio::task::spawn_blocking(move || {
            servers.iter().for_each(|server| server.refresh(&*clock));
        });
        if let Err(error) = looked.await {
            tracing::error!(%error, "tls: looking for new certificates ended badly");
            return;
        }
    }
}
