use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Because, TlsError};
use crate::clock::UnixMillis;

/// A file of certificates or keys longer than this is something else.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A certificate chain and the span of time in which all of it is valid.
pub(super) struct Chain {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) not_before: UnixMillis,
    pub(super) not_after: UnixMillis,
}

/// What tells a file from its next version, also where a link now leads elsewhere: device, inode,
/// length, and when the inode was last changed, which no copy can carry over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64, u64, u64, i64, i64);

impl Stamp {
    /// `None` for a file that is not there, or cannot be asked.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let file: Metadata = std::fs::metadata(path).ok()?;
        Some(Self(file.dev(), file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
    }
}

pub(super) fn chain(key: &'static str, path: &Path) -> Result<Chain, TlsError> {
    let certificates = certificates(key, path)?;
    let (mut not_before, mut not_after) = (UnixMillis(0), UnixMillis(u64::MAX));
    for (at, certificate) in (1..).zip(&certificates) {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return Err(TlsError::new(key, path, Because::NotX509 { at }));
        };
        let validity = parsed.validity();
        not_before = not_before.max(unix(validity.not_before.timestamp()));
        not_after = not_after.min(unix(validity.not_after.timestamp()));
    }
    Ok(Chain { certificates, not_before, not_after })
}

/// A time before 1970 is as good as 1970: long ago.
fn unix(seconds: i64) -> UnixMillis {
    UnixMillis(u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000))
}

pub(super) fn private_key(
    key: &'static str,
    path: &Path,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(key, path)?).map_err(|error| {
        let because = match error {
            pem::Error::NoItemsFound => Because::NoKey,
            other => Because::NotPem(other),
        };
        TlsError::new(key, path, because)
    })
}

/// The certificates of a file as roots of trust.
pub(super) fn roots(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots.add(certificate).map_err(|error| TlsError::new(key, path, error))?;
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::new(key, path, Because::NoCertificate)),
        Ok(found) => Ok(found),
        Err(error) => Err(TlsError::new(key, path, Because::NotPem(error))),
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = vec![];
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|error| TlsError::new(key, path, error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::new(key, path, Because::TooLong));
    }
    Ok(text)
}
