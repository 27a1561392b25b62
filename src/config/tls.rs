//! The `tls` table of a listener; its files are read at once, so that a bad one is found before
//! anything is bound.

use std::path::PathBuf;

use serde::Deserialize;

use crate::tls::{self, ClientCert};

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) client_cert: Option<Asked>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Asked {
    Required,
    Optional,
}

/// `key` names the table in errors, such as `http.tls`.
pub(super) fn check(key: &str, table: Option<&Tls>) -> Result<Option<tls::Config>, String> {
    let config = read(key, table)?;
    if let Some(config) = &config {
        config.check().map_err(|error| format!("{key}.{error}"))?;
    }
    Ok(config)
}

/// The same, and looks at none of its files.
pub(super) fn read(key: &str, table: Option<&Tls>) -> Result<Option<tls::Config>, String> {
    let Some(table) = table else { return Ok(None) };
    if table.client_cert.is_some() && table.client_ca.is_none() {
        return Err(format!("{key}.client_cert needs {key}.client_ca: name the CA to check by"));
    }
    Ok(Some(tls::Config {
        cert: table.cert.clone(),
        key: table.key.clone(),
        client_ca: table.client_ca.clone(),
        client_cert: match table.client_cert {
            None | Some(Asked::Required) => ClientCert::Required,
            Some(Asked::Optional) => ClientCert::Optional,
        },
    }))
}
