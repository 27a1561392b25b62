use super::call::{Call, form, nonce};
use super::rig::{BURST, Fate, Options, Reply, Rig};
use crate::admission::{Algorithm, Verb};
use crate::queue::Unstored;
use crate::wire::{CODES, Config, ThrottleStatus};

const V3: Algorithm = Algorithm::Sha256;

fn assert_refused(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.member("Code").as_str()), (status, code), "{reply:?}");
    assert_eq!(reply.header("content-type"), "application/json;charset=utf-8");
    let body = reply.json();
    let mut names: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["Code", "HostId", "Message", "Recommend", "RequestId"]);
    let id = reply.header("x-acs-request-id");
    assert_eq!(body["RequestId"], id);
    assert_eq!(
        body["Recommend"],
        format!("https://api.aliyun.com/troubleshoot?q={code}&product=OnsMqtt&requestId={id}")
    );
    assert_ne!(body["Message"], "");
}

/// A request, the status and code it is refused with, and a part of the message.
type Refused = (Vec<u8>, u16, &'static str, &'static str);

const CHECK: &str = "ParameterCheckFailed";
const MISMATCH: &str = "SignatureDoesNotMatch";

fn call(nonce: &str) -> Call {
    Call { nonce: nonce.into(), ..Call::new() }
}

fn dated(nonce: &str, date: &str) -> Vec<u8> {
    Call { date: date.into(), ..call(nonce) }.v3(V3)
}

/// A signed V3 call, of which one header is then another.
fn tampered(nonce: &str, name: &str, value: &str) -> Vec<u8> {
    let call = call(nonce);
    let mut headers = call.v3_headers(V3);
    for (_, old) in headers.iter_mut().filter(|(known, _)| known == name) {
        *old = value.to_owned();
    }
    call.raw(&form(&call.query), &headers)
}

fn common_parameters(nonce: &str) -> Vec<Refused> {
    let v3 = |name: &str, value: &str| call(nonce).header(name, value).v3(V3);
    let v1 = |name: &str, value: &str| call(nonce).with("Format", "JSON").with(name, value).v1();
    let unsigned = b"GET /?Action=SendMessage&Version=2020-04-20 HTTP/1.1\r\n\r\n".to_vec();
    vec![
        (v3("x-acs-action", "Other"), 404, "ApiNotSupport", "SendMessage of version 2020-04-20"),
        (v1("Version", "2019-12-11"), 404, "ApiNotSupport", "SendMessage of version 2020-04-20"),
        (v1("Action", ""), 400, "MissingAction", "Action is mandatory for this action."),
        (v3("x-acs-date", ""), 400, "MissingTimestamp", "x-acs-date is mandatory"),
        (v1("Timestamp", ""), 400, "MissingTimestamp", "Timestamp is mandatory"),
        (v1("SignatureNonce", ""), 400, "MissingSignatureNonce", "SignatureNonce is mandatory"),
        (unsigned, 400, "MissingAccessKeyId", "AccessKeyId is mandatory for this action."),
        (v1("SignatureVersion", "2.0"), 400, "InvalidSignatureVersion", "SignatureVersion is not"),
        (v1("SignatureMethod", "HMAC-MD5"), 400, "InvalidSignatureMethod", "takes HMAC-SHA1"),
        (v1("Format", "YAML"), 400, "InvalidParameter.Format", "Format is JSON or XML."),
    ]
}

fn signatures(nonce: &str) -> Vec<Refused> {
    let keyed = |key: &str| Call { key: key.into(), ..call(nonce) }.v3(V3);
    let wrong = Call { secret: "wrong".into(), ..call(nonce) }.v3(V3);
    let token = call(nonce).header("x-acs-security-token", "CAIS").v3(V3);
    let malformed = tampered(nonce, "authorization", "ACS3-HMAC-SHA256 Nothing");
    let body = tampered(nonce, "x-acs-content-sha256", "00");
    let late = dated(nonce, "2026-11-22T20:29:23Z");
    let skew = "The request says 2026-11-22T20:29:23Z, the server's time is 2026-11-22T20:44:24Z: \
                the request is 901 s behind, and 900 s are allowed.";
    let form = dated(nonce, "2026-11-22 20:44:24");
    vec![
        (malformed, 400, "IncompleteSignature", "Authorization is not well formed"),
        (keyed("LTAInobody"), 404, "InvalidAccessKeyId.NotFound", "access key is not found."),
        (keyed("STS.x"), 400, "MissingSecurityToken", "SecurityToken is mandatory"),
        (token, 400, "CheckAccountInfoFailed", "by the STS token"),
        (wrong, 400, MISMATCH, "server canonical request is:POST\n/\n"),
        (body, 400, MISMATCH, "server hash of the body is:e3b0c442"),
        (form, 400, "InvalidTimeStamp.Format", "YYYY-MM-DDThh:mm:ssZ"),
        (late, 400, "InvalidTimeStamp.Expired", skew),
        (dated(nonce, "2026-11-22T20:59:25Z"), 400, "InvalidTimeStamp.Expired", "901 s ahead"),
    ]
}

fn own_parameters(nonce: &str) -> Vec<Refused> {
    let with = |name: &str, value: &str| call(nonce).with(name, value).v3(V3);
    let without = |name: &str| call(nonce).without(name).v3(V3);
    let foreign = with("InstanceId", "post-cn-foreign");
    let twice = call(nonce).in_form().with("Payload", "x").v3(V3);
    let many = (0..70).fold(call(nonce), |call, index| call.with(&format!("p{index}"), ""));
    vec![
        (foreign, 400, "InstancePermissionCheckFailed", "Please verify the account that created"),
        (without("InstanceId"), 400, CHECK, "InstanceId is missing."),
        (with("InstanceId", "a/b"), 400, CHECK, "An instance id is 1 to 64"),
        (without("MqttTopic"), 400, CHECK, "MqttTopic is missing."),
        (with("MqttTopic", "TopicA/#"), 400, CHECK, "holds no wildcard"),
        (with("MqttTopic", "Unknown/x"), 400, "PermissionCheckFailed", "The parent topic is not"),
        (without("Payload"), 400, CHECK, "Payload is missing."),
        (with("Payload", "aGV*"), 400, "InvalidParameter.Payload", "not Base64 at byte 3."),
        (twice, 400, CHECK, "The parameter Payload is given twice."),
        (many.v1(), 400, CHECK, "A call carries at most 64 parameters."),
    ]
}

fn http(nonce: &str) -> Vec<Refused> {
    let bare = |line: &str, length: usize| {
        format!("{line} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n").into_bytes()
    };
    let mut not_json = call(nonce).header("content-type", "application/json");
    not_json.body = b"{\"Payload\":1}".to_vec();
    let mut not_text = call(nonce).in_form();
    not_text.body = b"Payload=%FF".to_vec();
    vec![
        (not_json.v3(V3), 400, CHECK, "The body is not a JSON object of strings."),
        (not_text.v3(V3), 400, CHECK, "A parameter is not UTF-8."),
        (bare("POST /other", 0), 404, "InvalidAction.NotFound", "The path is /."),
        (bare("PUT /", 0), 405, "UnsupportedHTTPMethod", "Use GET or POST."),
        (bare("POST /", 400_000), 413, "RequestEntityTooLarge", "307200 bytes are allowed."),
    ]
}

#[tokio::test]
async fn a_refused_call_is_answered_by_the_table_and_leaves_nothing_behind() {
    let rig = Rig::start().await;
    let nonce = nonce();
    let all = [common_parameters, signatures, own_parameters, http];
    for (request, status, code, part) in all.into_iter().flat_map(|refused| refused(&nonce)) {
        let reply = rig.send(&request).await;
        assert_refused(&reply, status, code);
        let message = reply.member("Message");
        assert!(message.contains(part), "{code}: {message}");
    }
    assert_eq!(rig.stored.lock().len(), 0);
    let good = rig.send(&Call { nonce, ..Call::new() }.v3(V3)).await;
    assert_eq!(good.status, 200, "the nonce was not used: {good:?}");
    assert_eq!(good.remaining(), BURST - 1, "nothing was charged");
}

#[tokio::test]
async fn a_v1_mismatch_ends_in_the_string_to_sign() {
    let rig = Rig::start().await;
    let call = Call { secret: "wrong".into(), ..Call::new() }.with("Format", "JSON");
    let reply = rig.send(&call.v1()).await;
    assert_refused(&reply, 400, "SignatureDoesNotMatch");
    let message = reply.member("Message");
    let prefix = "Specified signature is not matched with our calculation. server string to sign \
                  is:POST&%2F&AccessKeyId%3DLTAItestAccessKeyId00%26Action%3DSendMessage%26";
    assert!(message.starts_with(prefix), "{message}");
    assert!(message.ends_with("%26Version%3D2020-04-20"), "{message}");
    assert_eq!(message.matches(':').count(), 1, "the older Python SDK splits at the colon");
}

#[tokio::test]
async fn a_nonce_used_and_a_queue_full_are_said_with_the_quota() {
    let rig = Rig::with(Options { slots: 1, ..Options::default() }).await;
    let call = Call::new();
    assert_eq!(rig.send(&call.v3(V3)).await.status, 200);
    assert_refused(&rig.send(&call.v3(V3)).await, 400, "SignatureNonceUsed");
    rig.queue.backlog_gate().set_full(true);
    let next = Call::new();
    let full = rig.send(&next.v3(V3)).await;
    assert_refused(&full, 500, "SystemOverFlow");
    assert!(full.member("Message").ends_with("The backlog of undelivered messages is full."));
    assert_eq!(full.header("retry-after"), "1");
    assert_eq!(full.remaining(), BURST - 1);
    rig.queue.backlog_gate().set_full(false);
    assert_eq!(rig.send(&next.v3(V3)).await.status, 200, "the nonce was given back");
    rig.queue.close();
    let closed = rig.send(&Call::new().v3(V3)).await;
    assert_refused(&closed, 500, "SystemOverFlow");
    assert!(closed.member("Message").ends_with("The server is draining."));
}

#[tokio::test]
async fn a_bound_on_nonces_is_an_overflow_and_charges_nothing() {
    let rig = Rig::with(Options { nonces_max: 1, ..Options::default() }).await;
    assert_eq!(rig.send(&Call::new().v3(V3)).await.remaining(), BURST - 1);
    let full = rig.send(&Call::new().v3(V3)).await;
    assert_refused(&full, 500, "SystemOverFlow");
    assert_eq!(full.remaining(), BURST - 1);
}

#[tokio::test]
async fn a_throttled_call_is_told_when_to_come_back_in_every_dialect() {
    let narrow = || Call::new().with("InstanceId", "post-cn-narrow");
    for (throttle_status, status) in
        [(ThrottleStatus::TooManyRequests, 429), (ThrottleStatus::BadRequest, 400)]
    {
        let config = Config { throttle_status, ..Config::default() };
        let rig = Rig::with(Options { config, ..Options::default() }).await;
        assert_eq!(rig.send(&narrow().v3(V3)).await.status, 200);
        let call = narrow();
        let reply = rig.send(&call.v3(V3)).await;
        assert_refused(&reply, status, "Throttling.User");
        assert_eq!(reply.header("retry-after"), "1");
        assert_eq!(reply.header("x-acs-retry-after"), "1");
        let list = "Limit:1000,Remain:0,TimeLeft:1,Reset:1";
        assert_eq!(reply.header("x-ratelimit-user-api"), list);
        assert_eq!(reply.header("x-ratelimit-user"), list);
        assert_eq!(reply.header("ratelimit-policy"), "\"instance\";q=1000;w=1");
        assert_eq!(reply.header("ratelimit"), "\"instance\";r=0;t=1");
        rig.clock.advance(std::time::Duration::from_millis(1));
        assert_eq!(rig.send(&call.v3(V3)).await.status, 200, "its nonce was given back");
    }
}

#[tokio::test]
async fn what_could_not_be_stored_says_whether_that_is_known() {
    let rig = Rig::start().await;
    for (why, says) in [
        (Unstored::NoSpace, "The disk is full. The message was not stored and is not billed."),
        (Unstored::Poisoned, "The message was not stored and is not billed."),
        (Unstored::Unknown, "The outcome is unknown"),
    ] {
        rig.set_fate(Fate::Unstored(why));
        let reply = rig.send(&Call::new().v3(V3)).await;
        assert_refused(&reply, 500, "SendMessageFailed");
        assert!(reply.member("Message").contains(says), "{reply:?}");
    }
}

#[tokio::test]
async fn a_target_past_the_cap_is_refused_in_json_and_the_connection_closes() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    client.write(&Call::new().v3(V3)).await;
    assert_eq!(client.reply().await.status, 200);
    let endless = Call::new().with("Payload", &"A".repeat(1_000_000));
    client.write(&endless.v3(V3)).await;
    let reply = client.reply().await;
    assert_refused(&reply, 414, "RequestURITooLong");
    assert_eq!(reply.header("connection"), "close");
    assert!(client.ended().await);
}

#[tokio::test]
async fn a_body_past_the_cap_is_refused_though_its_length_was_not_announced() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    client.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut body = Vec::new();
    for _ in 0..40 {
        body.extend_from_slice(b"2000\r\n");
        body.extend_from_slice(&[b'x'; 0x2000]);
        body.extend_from_slice(b"\r\n");
    }
    client.write(&body).await;
    let reply = client.reply().await;
    assert_refused(&reply, 413, "RequestEntityTooLarge");
    assert!(client.ended().await);
}

#[tokio::test]
async fn answers_are_counted_by_code() {
    let rig = Rig::start().await;
    rig.send(&Call::new().v3(V3)).await;
    rig.send(&Call { verb: Verb::Get, ..Call::new() }.without("Payload").v3(V3)).await;
    assert_eq!(rig.metrics.duration.get_sample_count(), 2);
    assert_eq!((CODES[0], CODES.len()), ("OK", 27));
}
