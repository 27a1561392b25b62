//! A CA of a test's own, and clients that speak TLS as they are told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tempfile::TempDir;

use super::PATIENCE;

/// A folder with `ca.pem`, and pairs that it certified for localhost and 127.0.0.1.
pub(crate) struct Certificates {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// `ca.pem`, `cert.pem` and `key.pem`.
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        // OpenSSL takes a certificate whose issuer has its own name for self-signed.
        params.distinguished_name.push(DnType::CommonName, "the CA of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a CA").pem();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let certificates = Self { folder, issuer: Issuer::new(params, key) };
        certificates.write("ca.pem", &pem);
        certificates.certify("cert.pem", "key.pem", 2040);
        certificates
    }

    /// A new pair, good until the first of January of `year`.
    pub(crate) fn certify(&self, cert: &str, key: &str, year: i32) {
        self.certify_for(&["localhost", "127.0.0.1"], cert, key, year);
    }

    /// The same, for these names.
    pub(crate) fn certify_for(&self, names: &[&str], cert: &str, key: &str, year: i32) {
        let names: Vec<String> = names.iter().copied().map(str::to_owned).collect();
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&pair, &self.issuer).expect("a certificate");
        self.write(key, &pair.serialize_pem());
        self.write(cert, &certificate.pem());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the file is written");
    }

    /// `cert.pem` and `key.pem` as a `tls` table, with `more` keys.
    pub(crate) fn table(&self, more: &str) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!("{{ cert = \"{}\", key = \"{}\"{more} }}", cert.display(), key.display())
    }

    /// A client that trusts this CA, and offers these protocols.
    pub(crate) fn client(&self, protocols: &[&[u8]]) -> ClientConfig {
        let config = weir::tls::client(Some(&self.path("ca.pem")), None).expect("the CA is read");
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// Connects, speaking HTTP/1.1.
    pub(crate) fn connect(&self, to: SocketAddr) -> Secured {
        Secured::over(TcpStream::connect(to).expect("the port accepts"), self.client(&[]))
    }
}

/// A connection under TLS.
pub(crate) struct Secured(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Secured {
    pub(crate) fn over(stream: TcpStream, config: ClientConfig) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(Arc::new(config), name).expect("a client");
        Self(BufReader::new(StreamOwned::new(client, stream)))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)?;
        self.0.get_mut().flush()
    }

    /// The head of an answer, and its body.
    pub(crate) fn read(&mut self) -> std::io::Result<(String, String)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let bytes = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse().expect("a number"))
        });
        let mut body = vec![0; bytes.unwrap_or(0)];
        self.0.read_exact(&mut body)?;
        Ok((head, String::from_utf8(body).expect("text")))
    }

    /// Sends and reads.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> (String, String) {
        self.write(request).and_then(|()| self.read()).expect("an answer")
    }

    /// Waits until the other side has closed.
    pub(crate) fn ended(&mut self) {
        // A close without a farewell of TLS is a close as well.
        let _ = self.0.read_to_end(&mut vec![]);
    }

    /// The certificate the other side has shown.
    pub(crate) fn shown(&self) -> Vec<u8> {
        let shown = self.0.get_ref().conn.peer_certificates();
        shown.expect("the handshake is over")[0].to_vec()
    }
}
