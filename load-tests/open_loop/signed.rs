//! Calls signed ahead: a nonce and a signature each, and what all have in common only once.

use http::{HeaderMap, HeaderValue};
use indicatif::{ProgressBar, ProgressStyle};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use weir::admission::{
    ACTION, Algorithm, Parameter, Parameters, SendMessage, VERSION, Verb, format_timestamp, sign_v3,
};
use weir::clock::{Clock, SystemClock};

use super::Arguments;

/// Instances a run may take turns through.
const INSTANCES_MAX: usize = 100_000;
const NONCE_BYTES: usize = 16;
const SIGNATURE_BYTES: usize = 32;
/// Calls between two moves of the bar.
const BAR_STEP: usize = 1_000;

/// What differs from call to call.
struct Mark {
    nonce: [u8; NONCE_BYTES],
    signature: [u8; SIGNATURE_BYTES],
}

/// All calls of a run.
pub(crate) struct Calls {
    /// By endpoint, then by instance.
    forms: Vec<Form>,
    instances: usize,
    marks: Vec<Mark>,
}

/// A call to one instance at one endpoint, with gaps for nonce and signature.
struct Form {
    before_nonce: Vec<u8>,
    before_signature: Vec<u8>,
    rest: Vec<u8>,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Calls {
    /// Writes a call over whatever `request` holds.
    pub(crate) fn write(&self, call: u64, endpoint: usize, request: &mut Vec<u8>) {
        let index = usize::try_from(call).unwrap_or(usize::MAX);
        let Some(mark) = self.marks.get(index) else { return };
        let form = &self.forms[endpoint * self.instances + index % self.instances];
        let mut hex_digits = [0; 2 * SIGNATURE_BYTES];
        request.clear();
        request.extend_from_slice(&form.before_nonce);
        // Both fit the array.
        let _ = hex::encode_to_slice(mark.nonce, &mut hex_digits[..2 * NONCE_BYTES]);
        request.extend_from_slice(&hex_digits[..2 * NONCE_BYTES]);
        request.extend_from_slice(&form.before_signature);
        let _ = hex::encode_to_slice(mark.signature, &mut hex_digits);
        request.extend_from_slice(&hex_digits);
        request.extend_from_slice(&form.rest);
    }

    /// Which endpoint a call was signed for.
    pub(crate) fn endpoint(&self, call: u64) -> usize {
        let endpoints = (self.forms.len() / self.instances) as u64;
        usize::try_from(call % endpoints).unwrap_or(0)
    }
}

/// The instances `ID` or `ID..N` stands for.
pub(crate) fn instances(text: &str) -> Result<Vec<String>, String> {
    let Some((first, count)) = text.split_once("..") else { return Ok(vec![text.to_owned()]) };
    let wrong = || format!("--instance {text}: wanted ID..N, with an ID that ends in digits");
    let count: usize = count.parse().map_err(|_| wrong())?;
    let stem = first.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let digits = &first[stem.len()..];
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    if count == 0 || count > INSTANCES_MAX {
        return Err(format!("--instance {text}: 1 to {INSTANCES_MAX} instances"));
    }
    let width = digits.len();
    Ok((number..).take(count).map(|number| format!("{stem}{number:0width$}")).collect())
}

/// Signs all calls, on every processor there is.
pub(crate) fn sign_all(
    arguments: &Arguments,
    instances: &[String],
    hosts: &[&str],
    count: u64,
) -> Result<Calls, String> {
    let count = usize::try_from(count).map_err(|_| "more calls than memory can hold")?;
    let forms = hosts.iter().flat_map(|host| instances.iter().map(move |id| (host, id)));
    let forms: Vec<Form> =
        forms.map(|(host, id)| Form::new(arguments, host, id)).collect::<Result<_, _>>()?;
    let calls = Calls { forms, instances: instances.len(), marks: vec![] };
    let bar = bar(count as u64, "signing {bar:32} {human_pos}/{human_len} {per_sec} eta {eta}");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = count.div_ceil(threads);
    let marks: Result<Vec<Vec<Mark>>, String> = std::thread::scope(|scope| {
        let (calls, bar) = (&calls, &bar);
        let part = |first: usize| {
            let part = first..(first + share).min(count);
            scope.spawn(move || part.map(|call| calls.sign(arguments, call, bar)).collect())
        };
        let parts: Vec<_> = (0..count).step_by(share).map(part).collect();
        parts.into_iter().map(|part| part.join().map_err(|_| "signing failed")?).collect()
    });
    bar.finish_and_clear();
    Ok(Calls { marks: marks?.into_iter().flatten().collect(), ..calls })
}

/// A bar on stderr; it shows on a terminal only.
pub(crate) fn bar(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

impl Calls {
    fn sign(&self, arguments: &Arguments, call: usize, bar: &ProgressBar) -> Result<Mark, String> {
        let form = &self.forms[self.endpoint(call as u64) * self.instances + call % self.instances];
        let mut mark = Mark { nonce: [0; NONCE_BYTES], signature: [0; SIGNATURE_BYTES] };
        getrandom::fill(&mut mark.nonce).map_err(|error| format!("random source: {error}"))?;
        let authorization = form.sign(arguments, &hex::encode(mark.nonce))?;
        let signature = authorization.rsplit('=').next().unwrap_or_default();
        hex::decode_to_slice(signature, &mut mark.signature).map_err(|error| error.to_string())?;
        if call.is_multiple_of(BAR_STEP) {
            bar.inc(BAR_STEP as u64);
        }
        Ok(mark)
    }
}

impl Form {
    fn new(arguments: &Arguments, host: &str, instance: &str) -> Result<Self, String> {
        let payload = vec![b'x'; usize::try_from(arguments.payload_bytes).unwrap_or(usize::MAX)];
        let fields: [Parameter<'_>; 3] = [
            ("InstanceId".into(), instance.into()),
            ("MqttTopic".into(), arguments.topic.as_str().into()),
            ("Payload".into(), STANDARD.encode(payload).into()),
        ];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", host),
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-acs-action", ACTION),
            ("x-acs-version", VERSION),
            ("x-acs-date", &format_timestamp(SystemClock.unix())),
            ("x-acs-content-sha256", &Algorithm::Sha256.hash(body.as_bytes())),
        ] {
            headers.insert(name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
        }
        let mut form = Self {
            before_nonce: b"POST / HTTP/1.1\r\n".to_vec(),
            before_signature: b"\r\nauthorization: ".to_vec(),
            rest: vec![],
            headers,
            body: body.into_bytes(),
        };
        for (name, value) in &form.headers {
            let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat();
            form.before_nonce.extend(line);
        }
        form.before_nonce.extend(b"x-acs-signature-nonce: ");
        let example = form.sign(arguments, &"0".repeat(2 * NONCE_BYTES))?;
        let (until_signature, _) = example.rsplit_once('=').ok_or("no signature")?;
        form.before_signature.extend([until_signature.as_bytes(), b"="].concat());
        form.rest = format!("\r\ncontent-length: {}\r\n\r\n", form.body.len()).into_bytes();
        form.rest.extend(&form.body);
        Ok(form)
    }

    /// The `Authorization` of this call with a nonce.
    fn sign(&self, arguments: &Arguments, nonce: &str) -> Result<String, String> {
        let mut headers = self.headers.clone();
        let nonce = HeaderValue::from_str(nonce).map_err(|error| error.to_string())?;
        headers.insert("x-acs-signature-nonce", nonce);
        let call = SendMessage {
            verb: Verb::Post,
            parameters: Parameters::default(),
            headers: &headers,
            body: &self.body,
        };
        sign_v3(Algorithm::Sha256, &arguments.key, &arguments.secret, &call)
            .ok_or_else(|| "the call cannot be signed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_instances_counts_up_and_keeps_its_zeros() {
        assert_eq!(instances("post-cn-a").unwrap(), ["post-cn-a"]);
        assert_eq!(instances("a-009..3").unwrap(), ["a-009", "a-010", "a-011"]);
        for wrong in ["a..3", "a-1..x", "a-1..0", "a-1..100001"] {
            assert!(instances(wrong).is_err(), "{wrong}");
        }
    }
}
