use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::IntGauge;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_RSA_SHA256, date_time_ymd,
};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use x509_parser::der_parser::parse_der;

use super::*;
use crate::clock::{ManualClock, UnixMillis};

/// 2026-11-23, when every certificate made here is valid.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certifies `key` for localhost, until the first of January of `year`.
    fn certify(&self, key: &KeyPair, year: i32) -> String {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

/// A folder with `cert.pem`, `key.pem` and the `ca.pem` that signed.
struct Files {
    folder: TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("ca") };
        files.write("ca.pem", &files.authority.pem);
        files.renew(2030);
        files
    }

    fn renew(&self, year: i32) {
        let key = KeyPair::generate().unwrap();
        self.write("key.pem", &key.serialize_pem());
        self.write("cert.pem", &self.authority.certify(&key, year));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn config(&self) -> Config {
        Config {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: None,
            client_cert: ClientCert::Required,
        }
    }

    fn open(&self, config: Config) -> (Server, IntGauge) {
        let expiry = IntGauge::new("expiry", "expiry").unwrap();
        let clock = ManualClock::at(NOW);
        let server = Server::open("test", config, &[b"h2", b"http/1.1"], expiry.clone(), &clock);
        (server.unwrap(), expiry)
    }

    fn refused(&self, config: &Config) -> String {
        let said = config.check().unwrap_err().to_string();
        said.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

/// The pipe between a client and this server, both shaken hands, or the server's error.
async fn meet(server: &Server, client: rustls::ClientConfig) -> Result<Met, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let (client, server) =
        tokio::join!(connector.connect(name, near), server.acceptor().accept(far));
    let server = server.map_err(|error| error.to_string())?;
    Ok(Met { client: client.map_err(|error| error.to_string())?, server })
}

#[derive(Debug)]
struct Met {
    client: tokio_rustls::client::TlsStream<tokio::io::DuplexStream>,
    server: tokio_rustls::server::TlsStream<tokio::io::DuplexStream>,
}

impl Met {
    async fn speak(&mut self) -> String {
        self.client.write_all(b"hello").await.unwrap();
        self.client.flush().await.unwrap();
        let mut heard = [0; 5];
        self.server.read_exact(&mut heard).await.unwrap();
        String::from_utf8(heard.to_vec()).unwrap()
    }

    fn shown(&self) -> Vec<u8> {
        self.client.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

fn trusting(ca: &Path) -> rustls::ClientConfig {
    rustls::ClientConfig::clone(&client(Some(ca), None).unwrap())
}

/// What PKCS #8 wraps: the key in the form of its own algorithm.
fn unwrapped(key: &KeyPair, label: &str) -> String {
    let der = key.serialize_der();
    let (_, sequence) = parse_der(&der).unwrap();
    let inner = sequence.as_sequence().unwrap()[2].as_slice().unwrap();
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, inner);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn a_key_is_taken_in_each_of_the_three_forms() {
    let files = Files::new();
    let until = files.config().check().unwrap();
    assert_eq!(until, UnixMillis(1_893_456_000_000), "2030-01-01, read from the certificate");
    let elliptic = KeyPair::generate().unwrap();
    files.write("cert.pem", &files.authority.certify(&elliptic, 2030));
    files.write("key.pem", &unwrapped(&elliptic, "EC PRIVATE KEY"));
    files.config().check().unwrap();
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    files.write("cert.pem", &files.authority.certify(&rsa, 2030));
    files.write("key.pem", &unwrapped(&rsa, "RSA PRIVATE KEY"));
    files.config().check().unwrap();
}

#[test]
fn the_chain_expires_with_its_first_certificate() {
    let files = Files::new();
    let key = KeyPair::generate().unwrap();
    files.write("key.pem", &key.serialize_pem());
    let (leaf, earlier) =
        (files.authority.certify(&key, 2030), files.authority.certify(&key, 2028));
    files.write("cert.pem", &(leaf + &earlier));
    assert_eq!(files.config().check().unwrap(), UnixMillis(1_830_297_600_000), "2028-01-01");
}

#[test]
fn a_file_that_is_no_good_is_named_with_its_key() {
    let files = Files::new();
    let other = KeyPair::generate().unwrap();
    files.write("key.pem", &other.serialize_pem());
    assert_eq!(
        files.refused(&files.config()),
        "key key.pem: it is not the key of the certificate: give the pair that belongs together"
    );
    files.write("key.pem", &files.authority.pem);
    assert!(files.refused(&files.config()).starts_with("key key.pem: it holds no key in PEM"));
    files.write("cert.pem", "nothing");
    assert_eq!(files.refused(&files.config()), "cert cert.pem: it holds no certificate in PEM");
    files.write("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let said = files.refused(&files.config());
    assert_eq!(said, "cert cert.pem: certificate 1 of the file is not X.509");
    std::fs::remove_file(files.path("cert.pem")).unwrap();
    assert!(files.refused(&files.config()).starts_with("cert cert.pem: No such file"));
    files.renew(2030);
    let config = Config { client_ca: Some(files.path("nobody.pem")), ..files.config() };
    assert!(files.refused(&config).starts_with("client_ca nobody.pem: No such file"));
}

#[tokio::test]
async fn a_new_certificate_meets_new_connections_and_leaves_the_open_ones_alone() {
    let files = Files::new();
    let (server, expiry) = files.open(files.config());
    let clock = ManualClock::at(NOW);
    let mut before = meet(&server, trusting(&files.path("ca.pem"))).await.unwrap();
    assert_eq!(expiry.get(), 1_893_456_000);
    files.renew(2031);
    server.refresh(&clock);
    let after = meet(&server, trusting(&files.path("ca.pem"))).await.unwrap();
    assert_ne!(before.shown(), after.shown());
    assert_eq!(before.speak().await, "hello");
    assert_eq!(expiry.get(), 1_924_992_000, "2031-01-01");
    assert_eq!(server.not_after(), UnixMillis(1_924_992_000_000));
}

#[tokio::test]
async fn bad_new_files_change_nothing_until_they_are_mended() {
    let files = Files::new();
    let (server, expiry) = files.open(files.config());
    let clock = ManualClock::at(NOW);
    let before = meet(&server, trusting(&files.path("ca.pem"))).await.unwrap().shown();
    let key = KeyPair::generate().unwrap();
    // As it is halfway through a renewal: the new certificate beside the old key.
    files.write("cert.pem", &files.authority.certify(&key, 2031));
    server.refresh(&clock);
    assert!(server.seen.lock().complaint.as_ref().unwrap().contains("not the key"));
    let met = meet(&server, trusting(&files.path("ca.pem"))).await.unwrap();
    assert_eq!(met.shown(), before);
    assert_eq!(expiry.get(), 1_893_456_000);
    files.write("key.pem", &key.serialize_pem());
    server.refresh(&clock);
    let met = meet(&server, trusting(&files.path("ca.pem"))).await.unwrap();
    assert_ne!(met.shown(), before);
    assert!(server.seen.lock().complaint.is_none());
}

#[tokio::test]
async fn a_client_is_asked_for_what_the_listener_wants_of_it() {
    let files = Files::new();
    let ca = files.path("ca.pem");
    let asks = |client_cert| Config { client_ca: Some(ca.clone()), client_cert, ..files.config() };
    let (required, _) = files.open(asks(ClientCert::Required));
    let (optional, _) = files.open(asks(ClientCert::Optional));
    let identity = Identity { cert: &files.path("cert.pem"), key: &files.path("key.pem") };
    let known = || rustls::ClientConfig::clone(&client(Some(&ca), Some(identity)).unwrap());
    let error = meet(&required, trusting(&ca)).await.unwrap_err();
    assert!(error.contains("peer sent no certificates"), "{error}");
    meet(&optional, trusting(&ca)).await.unwrap();
    meet(&required, known()).await.unwrap();
    meet(&optional, known()).await.unwrap();

    let strangers = Authority::new("strangers");
    let key = KeyPair::generate().unwrap();
    files.write("stranger.pem", &strangers.certify(&key, 2030));
    files.write("stranger.key", &key.serialize_pem());
    let stranger = Identity { cert: &files.path("stranger.pem"), key: &files.path("stranger.key") };
    for server in [&required, &optional] {
        let client = client(Some(&ca), Some(stranger)).unwrap();
        let error = meet(server, rustls::ClientConfig::clone(&client)).await.unwrap_err();
        assert!(error.contains("invalid peer certificate"), "{error}");
    }
}

#[tokio::test]
async fn a_client_trusts_nobody_but_its_ca_file() {
    let files = Files::new();
    let (server, _) = files.open(files.config());
    files.write("strangers.pem", &Authority::new("strangers").pem);
    let error = meet(&server, trusting(&files.path("strangers.pem"))).await.unwrap_err();
    assert!(error.contains("UnknownCA") || error.contains("UnknownIssuer"), "{error}");
}
