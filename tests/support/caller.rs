//! A caller on one kept connection, signing V3 as the SDKs do, that sees every header of an answer.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use weir::admission::{
    Algorithm, Parameter, Parameters, SendMessage, Verb, format_timestamp, sign_v3,
};
use weir::clock::{Clock, SystemClock};

use super::{INSTANCE, KEY_ID, PATIENCE, SECRET};

/// A connection to the data port.
pub(crate) struct Caller {
    stream: BufReader<TcpStream>,
    host: String,
}

/// What came back, header names in lower case.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: serde_json::Value,
}

impl Caller {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("the data port accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self { stream: BufReader::new(stream), host: to.to_string() }
    }

    /// Sends one message and waits for its answer.
    pub(crate) fn send(&mut self, topic: &str, payload: &[u8]) -> Answer {
        self.try_send(topic, payload).expect("an answer")
    }

    /// The same to an instance that is not the one of the constants.
    pub(crate) fn send_to(&mut self, instance: &str, topic: &str, payload: &[u8]) -> Answer {
        let request = request(&self.host, instance, topic, payload);
        self.try_send_signed(&request).expect("an answer")
    }

    /// The same where the connection may break before there is an answer.
    pub(crate) fn try_send(&mut self, topic: &str, payload: &[u8]) -> std::io::Result<Answer> {
        let request = request(&self.host, INSTANCE, topic, payload);
        self.try_send_signed(&request)
    }

    /// A signed request, to be sent as often as a test likes.
    pub(crate) fn sign(&self, topic: &str, payload: &[u8]) -> Vec<u8> {
        request(&self.host, INSTANCE, topic, payload)
    }

    /// Sends what [`Self::sign`] gave.
    pub(crate) fn try_send_signed(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        self.begin(request)?;
        self.finish()
    }

    /// Sends, and leaves the answer where it is.
    pub(crate) fn begin(&mut self, request: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(request)
    }

    /// Reads the answer to what was sent.
    pub(crate) fn finish(&mut self) -> std::io::Result<Answer> {
        self.read_answer()
    }

    fn read_answer(&mut self) -> std::io::Result<Answer> {
        let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(broken)?;
        let mut headers = HashMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let bytes = headers.get("content-length").and_then(|bytes| bytes.parse().ok());
        let mut body = vec![0; bytes.ok_or_else(broken)?];
        self.stream.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body).map_err(std::io::Error::other)?;
        Ok(Answer { status, headers, body })
    }
}

fn request(host: &str, instance: &str, topic: &str, payload: &[u8]) -> Vec<u8> {
    let fields: [Parameter<'_>; 3] = [
        ("InstanceId".into(), instance.into()),
        ("MqttTopic".into(), topic.into()),
        ("Payload".into(), STANDARD.encode(payload).into()),
    ];
    let form =
        form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into_bytes();
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
    };
    add("host", host);
    add("content-type", "application/x-www-form-urlencoded");
    add("x-acs-action", "SendMessage");
    add("x-acs-version", "2020-04-20");
    add("x-acs-date", &format_timestamp(SystemClock.unix()));
    add("x-acs-signature-nonce", &nonce());
    add("x-acs-content-sha256", &Algorithm::Sha256.hash(&form));
    let parameters = Parameters::default();
    let call = SendMessage { verb: Verb::Post, parameters, headers: &headers, body: &form };
    let authorization = sign_v3(Algorithm::Sha256, KEY_ID, SECRET, &call).expect("it signs");
    let authorization = HeaderValue::from_str(&authorization).expect("a header value");
    headers.insert("authorization", authorization);
    let mut text = b"POST / HTTP/1.1\r\n".to_vec();
    for (name, value) in &headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(format!("content-length: {}\r\n\r\n", form.len()).as_bytes());
    text.extend_from_slice(&form);
    text
}

fn nonce() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("random bytes");
    hex::encode(bytes)
}
