//! One connection to an endpoint, and calls signed as the SDKs sign them (V3).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::admission::{
    ACTION, Algorithm, Parameter, Parameters, SendMessage, VERSION, Verb, format_timestamp, sign_v3,
};
use crate::clock::{Clock, SystemClock};
use crate::tls::{self, Identity};

/// How long an endpoint may take to accept a connection, or to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer longer than this is not one of ours.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Who sends, and how it signs.
#[derive(Clone)]
pub(super) struct Signer {
    pub(super) access_key_id: String,
    pub(super) secret: String,
    pub(super) algorithm: Algorithm,
}

/// What an endpoint said.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    pub(super) msg_id: Option<String>,
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) request_id: Option<String>,
}

/// An endpoint, `http://host[:port]` or `https://host[:port]`.
#[derive(Clone)]
pub(super) struct Endpoint {
    host: String,
    address: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Endpoint {
    /// Whom to trust and what to show matters to https only.
    pub(super) fn parse(
        text: &str,
        ca_file: Option<&Path>,
        identity: Option<Identity<'_>>,
    ) -> Result<Self, String> {
        let uri: http::Uri = text.parse().map_err(|error| format!("{text}: {error}"))?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{text}: an endpoint is http:// or https://host[:port]")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("{text}: an endpoint has no path"));
        }
        let authority = uri.authority().ok_or_else(|| format!("{text}: names no host"))?;
        let port = authority.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let address = format!("{}:{port}", authority.host());
        let tls = if encrypted {
            let config = tls::client(ca_file, identity).map_err(|error| error.to_string())?;
            let name = authority.host().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(name).map_err(|error| format!("{text}: {error}"))?;
            Some((TlsConnector::from(config), name))
        } else {
            None
        };
        Ok(Self { host: authority.as_str().to_owned(), address, tls })
    }

    /// The one at this address, with TLS if `tls` says whom to trust.
    pub(super) fn at(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Self {
        let name = ServerName::from(address.ip());
        let tls = tls.map(|config| (TlsConnector::from(config), name));
        Self { host: address.to_string(), address: address.to_string(), tls }
    }

    pub(super) async fn connect(&self) -> Result<Connection, String> {
        let connecting = tokio::time::timeout(PATIENCE, self.open()).await;
        let late = |_| format!("{}: no connection within {PATIENCE:?}", self.address);
        let sender = connecting.map_err(late)?;
        let sender = sender.map_err(|error| format!("{}: {error}", self.address))?;
        Ok(Connection { sender, host: self.host.clone() })
    }

    async fn open(&self) -> Result<Sender, String> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        match &self.tls {
            None => speak_http(stream).await,
            Some((connector, name)) => {
                let shaken = connector.connect(name.clone(), stream).await;
                speak_http(shaken.map_err(|error| error.to_string())?).await
            }
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

async fn speak_http<S>(stream: S) -> Result<Sender, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends with the connection; its error reaches the caller through the sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// A connection kept open from call to call.
pub(super) struct Connection {
    sender: Sender,
    host: String,
}

impl Connection {
    /// Whether another call can go over it.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends the form and reads the answer.
    pub(super) async fn call(&mut self, signer: &Signer, form: &Bytes) -> Result<Answer, String> {
        let answered = tokio::time::timeout(PATIENCE, self.exchange(signer, form)).await;
        answered.unwrap_or_else(|_| Err(format!("{}: no answer within {PATIENCE:?}", self.host)))
    }

    /// A GET, with a bearer's token if there is one; returns the status and the body.
    pub(super) async fn get(
        &mut self,
        path: &str,
        token: Option<&str>,
    ) -> Result<(u16, Bytes), String> {
        let exchange = async {
            let mut request = Request::get(path).header(header::HOST, &self.host);
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(Full::default()).map_err(|error| error.to_string())?;
            let response = self.sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let answered = tokio::time::timeout(PATIENCE, exchange).await;
        answered.unwrap_or_else(|_| Err(format!("{}: no answer within {PATIENCE:?}", self.host)))
    }

    async fn exchange(&mut self, signer: &Signer, form: &Bytes) -> Result<Answer, String> {
        let request = request(&self.host, signer, form)?;
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let response = self.sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| format!("HTTP {status}, and no JSON: not weir?"))
    }
}

fn request(host: &str, signer: &Signer, form: &Bytes) -> Result<Request<Full<Bytes>>, String> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| -> Result<(), String> {
        let value = HeaderValue::from_str(value).map_err(|error| format!("{name}: {error}"))?;
        headers.insert(name, value);
        Ok(())
    };
    add("host", host)?;
    add("accept", "application/json")?;
    add("content-type", "application/x-www-form-urlencoded")?;
    add("x-acs-action", ACTION)?;
    add("x-acs-version", VERSION)?;
    add("x-acs-date", &format_timestamp(SystemClock.unix()))?;
    add("x-acs-signature-nonce", &nonce()?)?;
    add("x-acs-content-sha256", &signer.algorithm.hash(form))?;
    let call = SendMessage {
        verb: Verb::Post,
        parameters: Parameters::default(),
        headers: &headers,
        body: form,
    };
    let authorization = sign_v3(signer.algorithm, &signer.access_key_id, &signer.secret, &call)
        .and_then(|text| HeaderValue::from_str(&text).ok())
        .ok_or("the access key id holds something a header cannot carry")?;
    headers.insert(header::AUTHORIZATION, authorization);
    let mut request = Request::new(Full::new(form.clone()));
    *request.method_mut() = http::Method::POST;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The form of one message.
pub(super) fn form(instance: &str, topic: &str, payload: &str) -> Bytes {
    let fields: [Parameter<'_>; 3] = [
        ("InstanceId".into(), instance.into()),
        ("MqttTopic".into(), topic.into()),
        ("Payload".into(), payload.into()),
    ];
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into()
}

/// 32 random lower-case hex digits.
pub(super) fn nonce() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("random source: {error}"))?;
    Ok(hex::encode(bytes))
}
