use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName};

use super::rig::{DATE, INSTANCE, KEY, SECRET};
use crate::admission::{Algorithm, Parameter, Parameters, SendMessage, Verb, sign_v1, sign_v3};

/// A request in the making.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) host: String,
    pub(super) date: String,
    pub(super) nonce: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) secret: String,
    pub(super) key: String,
}

/// What a `SendMessage` needs.
pub(super) fn parameters() -> Vec<(String, String)> {
    pairs(&[("InstanceId", INSTANCE), ("MqttTopic", "TopicA/x y*~"), ("Payload", "aGVsbG8+/w==")])
}

pub(super) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn nonce() -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    format!("nonce-{}", MADE.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn form(pairs: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

impl Call {
    pub(super) fn new() -> Self {
        Self {
            verb: Verb::Post,
            host: "127.0.0.1:8080".into(),
            date: DATE.into(),
            nonce: nonce(),
            query: parameters(),
            headers: Vec::new(),
            body: Vec::new(),
            secret: SECRET.into(),
            key: KEY.into(),
        }
    }

    /// Replaces a parameter of the query.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.query.retain(|(known, _)| known != name);
        self.query.push((name.into(), value.into()));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.query.retain(|(known, _)| known != name);
        self
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Moves all parameters of the query into a form body.
    pub(super) fn in_form(mut self) -> Self {
        self.body = form(&std::mem::take(&mut self.query)).into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    /// The headers of the V3 call, signed, and the request as bytes.
    pub(super) fn v3(&self, algorithm: Algorithm) -> Vec<u8> {
        self.raw(&form(&self.query), &self.v3_headers(algorithm))
    }

    pub(super) fn v3_headers(&self, algorithm: Algorithm) -> Vec<(String, String)> {
        let hash = algorithm.hash(&self.body);
        let mut all = pairs(&[
            ("host", &self.host),
            ("x-acs-action", "SendMessage"),
            ("x-acs-version", "2020-04-20"),
            ("x-acs-date", &self.date),
            ("x-acs-signature-nonce", &self.nonce),
            ("x-acs-content-sha256", &hash),
        ]);
        for (name, value) in &self.headers {
            all.retain(|(known, _)| known != name);
            all.push((name.clone(), value.clone()));
        }
        all.retain(|(_, value)| !value.is_empty());
        let mut map = HeaderMap::new();
        for (name, value) in &all {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let query: Vec<Parameter<'_>> = borrowed(&self.query);
        let parameters = Parameters::new(query, vec![]).unwrap();
        let call = SendMessage { verb: self.verb, parameters, headers: &map, body: &self.body };
        let authorization = sign_v3(algorithm, &self.key, &self.secret, &call).unwrap();
        all.push(("authorization".into(), authorization));
        all
    }

    /// The parameters of the V1 call, signed, in addition to the query's.
    pub(super) fn v1_parameters(&self) -> Vec<(String, String)> {
        let mut all = pairs(&[
            ("Action", "SendMessage"),
            ("Version", "2020-04-20"),
            ("AccessKeyId", &self.key),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
            ("SignatureNonce", &self.nonce),
            ("Timestamp", &self.date),
        ]);
        all.retain(|(name, _)| !self.query.iter().any(|(known, _)| known == name));
        all.extend(self.query.iter().cloned());
        let signature = sign_v1(&self.secret, self.verb, &borrowed(&all));
        if !all.iter().any(|(name, _)| name == "Signature") {
            all.push(("Signature".into(), signature));
        }
        all
    }

    pub(super) fn v1(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        headers.push(("host".into(), self.host.clone()));
        self.raw(&form(&self.v1_parameters()), &headers)
    }

    pub(super) fn v1_form(&self) -> Vec<u8> {
        let form_type = "application/x-www-form-urlencoded";
        let headers = pairs(&[("host", &self.host), ("content-type", form_type)]);
        let body = form(&self.v1_parameters()).into_bytes();
        Self { body, ..self.clone() }.raw("", &headers)
    }

    pub(super) fn raw(&self, query: &str, headers: &[(String, String)]) -> Vec<u8> {
        let mark = if query.is_empty() { "" } else { "?" };
        let mut text = format!("{} /{mark}{query} HTTP/1.1\r\n", self.verb.as_str());
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn borrowed(pairs: &[(String, String)]) -> Vec<Parameter<'_>> {
    pairs.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
}
