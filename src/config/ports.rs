//! What stands around the data port and the ops port: proxies, the access log, who may look.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::Deserialize;

use super::file::{File, Ops};
use super::tenancy::Source;
use super::tls;
use crate::ops::Token;
use crate::wire::{AccessConfig, Destination, FILE_BYTES_MIN, Proxies};

/// What stands around the data port and the ops port.
#[derive(Debug)]
pub struct Ports {
    /// The certificate of the data port; without one it speaks plain HTTP. Default none.
    pub http_tls: Option<crate::tls::Config>,
    /// The certificate of the ops port. Default none.
    pub ops_tls: Option<crate::tls::Config>,
    /// What callers of the ops port have to show, but for probes; none is needed where only this
    /// machine can call.
    pub ops_token: Option<Token>,
    /// Who may say whom a connection or a call comes from. Default nobody.
    pub proxies: Proxies,
    /// What is written down of answered calls. Default nothing.
    pub access: Option<AccessConfig>,
}

/// The `log` table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    access: String,
    access_sample: Option<f64>,
    access_bytes_max: Option<ByteSize>,
}

impl Default for Log {
    fn default() -> Self {
        Self { access: "off".into(), access_sample: None, access_bytes_max: None }
    }
}

pub(super) fn check(file: &File) -> Result<Ports, String> {
    Ok(Ports {
        http_tls: tls::check("http.tls", file.http.tls.as_ref())?,
        ops_tls: tls::check("ops.tls", file.ops.tls.as_ref())?,
        ops_token: token(&file.ops)?,
        proxies: proxies(file)?,
        access: access(&file.log)?,
    })
}

fn access(log: &Log) -> Result<Option<AccessConfig>, String> {
    let to = match log.access.as_str() {
        "off" => {
            if log.access_sample.is_some() || log.access_bytes_max.is_some() {
                return Err("log.access is off, so its other keys would do nothing: set it to \
                            \"stdout\" or a file, or remove them"
                    .into());
            }
            return Ok(None);
        }
        "stdout" => Destination::Stdout,
        path => Destination::File(file(path)?),
    };
    let sample = log.access_sample.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample) {
        return Err(format!("log.access_sample is {sample}; it is 0 to 1"));
    }
    if to == Destination::Stdout && log.access_bytes_max.is_some() {
        return Err("log.access_bytes_max is for a file, and log.access is \"stdout\"".into());
    }
    let file_bytes_max = log.access_bytes_max.unwrap_or(ByteSize::mib(256)).as_u64();
    if file_bytes_max < FILE_BYTES_MIN {
        return Err(format!(
            "log.access_bytes_max is {file_bytes_max}; it is at least {FILE_BYTES_MIN}"
        ));
    }
    Ok(Some(AccessConfig { to, sample, file_bytes_max }))
}

/// A file in a folder that is there; a word without a path in it is more likely a mistake.
fn file(path: &str) -> Result<PathBuf, String> {
    let folder = Path::new(path).parent().filter(|_| path.contains('/'));
    match folder {
        None => Err(format!(
            "log.access is \"{}\"; it is \"off\", \"stdout\" or a file with its folder",
            path.escape_debug()
        )),
        Some(folder) if !folder.is_dir() => {
            Err(format!("log.access: there is no folder {}: make it", folder.display()))
        }
        Some(_) => Ok(path.into()),
    }
}

fn proxies(file: &File) -> Result<Proxies, String> {
    let http = &file.http;
    if http.proxy_protocol && http.trusted_proxies.is_empty() {
        return Err(
            "http.proxy_protocol needs http.trusted_proxies: name your proxies' addresses".into()
        );
    }
    let parse = |text: &String| {
        let refused = |error| format!("http.trusted_proxies \"{}\": {error}", text.escape_debug());
        text.parse().map_err(refused)
    };
    let trusted: Result<Vec<_>, String> = http.trusted_proxies.iter().map(parse).collect();
    Ok(Proxies { trusted: trusted?, protocol: http.proxy_protocol })
}

/// Whoever reaches the ops port learns what each tenant sends: beyond this machine a token is due.
fn token(ops: &Ops) -> Result<Option<Token>, String> {
    let given = ops.token.is_some() || ops.token_env.is_some() || ops.token_file.is_some();
    if !given {
        if ops.listen.ip().to_canonical().is_loopback() {
            return Ok(None);
        }
        return Err(format!(
            "ops.token is missing, and ops.listen {} is more than this machine: set ops.token, \
             ops.token_env or ops.token_file, or listen on 127.0.0.1",
            ops.listen
        ));
    }
    let text = Source {
        key: "ops".into(),
        name: "token",
        plain: ops.token.as_ref(),
        env: ops.token_env.as_ref(),
        file: ops.token_file.as_ref(),
    }
    .read()?;
    Token::new(text).map(Some).map_err(|error| format!("ops.token: {error}"))
}
