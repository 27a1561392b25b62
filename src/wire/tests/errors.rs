use super::rig::{BURST, Call, Fate, Options, Reply, Rig, nonce};
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
    assert!(body["Message"].as_str().unwrap().ends_with(['.', '=', '-']) || status == 400);
}

/// What is refused, with the status and code it is refused with, and a part of the message.
fn refusals(nonce: &str) -> Vec<(Vec<u8>, u16, &'static str, &'static str)> {
    let call = || Call { nonce: nonce.into(), ..Call::new() };
    let v1 = || call().with("Format", "JSON");
    let changed = |call: Call, name: &str, value: &str| {
        let mut headers = call.v3_headers(V3);
        headers.iter_mut().filter(|(known, _)| known == name).for_each(|(_, old)| {
            *old = value.to_owned();
        });
        call.raw(&super::rig::form(&call.query), &headers)
    };
    let bare = |text: &str| text.replace('\n', "\r\n").into_bytes();
    let deaf = |at: &str| Call { date: at.into(), ..call() }.v3(V3);
    let mut not_json = call().header("content-type", "application/json");
    not_json.body = b"{\"Payload\":1}".to_vec();
    let mut not_text = call().in_form();
    not_text.body = b"Payload=%FF".to_vec();
    let check = "ParameterCheckFailed";
    vec![
        (call().header("x-acs-action", "Other").v3(V3), 404, "ApiNotSupport", "2020-04-20"),
        (v1().with("Version", "2019-12-11").v1(), 404, "ApiNotSupport", "2020-04-20"),
        (v1().with("Action", "").v1(), 400, "MissingAction", "Action is mandatory for this"),
        (call().header("x-acs-date", "").v3(V3), 400, "MissingTimestamp", "x-acs-date is mand"),
        (v1().with("Timestamp", "").v1(), 400, "MissingTimestamp", "Timestamp is mandatory"),
        (v1().with("SignatureNonce", "").v1(), 400, "MissingSignatureNonce", "is mandatory for"),
        (
            bare("GET /?Action=SendMessage&Version=2020-04-20 HTTP/1.1\n\n"),
            400,
            "MissingAccessKeyId",
            "AccessKeyId is mandatory for this action.",
        ),
        (
            v1().with("SignatureVersion", "2.0").v1(),
            400,
            "InvalidSignatureVersion",
            "Specified parameter SignatureVersion is not valid.",
        ),
        (v1().with("SignatureMethod", "HMAC-MD5").v1(), 400, "InvalidSignatureMethod", "HMAC-SHA1"),
        (call().with("Format", "YAML").v1(), 400, "InvalidParameter.Format", "JSON or XML"),
        (
            changed(call(), "authorization", "ACS3-HMAC-SHA256 Nothing"),
            400,
            "IncompleteSignature",
            "Authorization is not well formed",
        ),
        (
            Call { key: "LTAInobody".into(), ..call() }.v3(V3),
            404,
            "InvalidAccessKeyId.NotFound",
            "Specified access key is not found.",
        ),
        (
            Call { key: "STS.x".into(), ..call() }.v3(V3),
            400,
            "MissingSecurityToken",
            "SecurityToken",
        ),
        (
            call().header("x-acs-security-token", "CAIS").v3(V3),
            400,
            "CheckAccountInfoFailed",
            "by the STS token",
        ),
        (
            Call { secret: "wrong".into(), ..call() }.v3(V3),
            400,
            "SignatureDoesNotMatch",
            "server canonical request is:POST\n/\n",
        ),
        (
            changed(call(), "x-acs-content-sha256", "00"),
            400,
            "SignatureDoesNotMatch",
            "body is:e3b0",
        ),
        (deaf("2026-11-22 20:44:24"), 400, "InvalidTimeStamp.Format", "YYYY-MM-DDThh:mm:ssZ"),
        (
            deaf("2026-11-22T20:29:23Z"),
            400,
            "InvalidTimeStamp.Expired",
            "The request says 2026-11-22T20:29:23Z, the server's time is 2026-11-22T20:44:24Z: the \
             request is 901 s behind, and 900 s are allowed.",
        ),
        (deaf("2026-11-22T20:59:25Z"), 400, "InvalidTimeStamp.Expired", "901 s ahead"),
        (
            call().with("InstanceId", "post-cn-foreign").v3(V3),
            400,
            "InstancePermissionCheckFailed",
            "Please verify the account that created the instance",
        ),
        (call().without("InstanceId").v3(V3), 400, check, "InstanceId is missing."),
        (call().with("InstanceId", "a/b").v3(V3), 400, check, "An instance id is 1 to 64"),
        (call().without("MqttTopic").v3(V3), 400, check, "MqttTopic is missing."),
        (call().with("MqttTopic", "TopicA/#").v3(V3), 400, check, "holds no wildcard"),
        (
            call().with("MqttTopic", "Unknown/x").v3(V3),
            400,
            "PermissionCheckFailed",
            "parent topic",
        ),
        (call().without("Payload").v3(V3), 400, check, "Payload is missing."),
        (
            call().with("Payload", "aGV*").v3(V3),
            400,
            "InvalidParameter.Payload",
            "Payload is not Base64 at byte 3.",
        ),
        (call().in_form().with("Payload", "x").v3(V3), 400, check, "Payload is given twice."),
        (not_json.v3(V3), 400, check, "not a JSON object of strings"),
        (not_text.v3(V3), 400, check, "not UTF-8"),
        (
            bare("POST /other HTTP/1.1\ncontent-length: 0\n\n"),
            404,
            "InvalidAction.NotFound",
            "path",
        ),
        (
            bare("PUT / HTTP/1.1\ncontent-length: 0\n\n"),
            405,
            "UnsupportedHTTPMethod",
            "GET or POST",
        ),
        (
            bare("POST / HTTP/1.1\ncontent-length: 400000\n\n"),
            413,
            "RequestEntityTooLarge",
            "307200",
        ),
    ]
}

#[tokio::test]
async fn a_refused_call_is_answered_by_the_table_and_leaves_nothing_behind() {
    let rig = Rig::start().await;
    let nonce = nonce();
    for (request, status, code, part) in refusals(&nonce) {
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
    rig.queue.set_backlog_full(true);
    let next = Call::new();
    let full = rig.send(&next.v3(V3)).await;
    assert_refused(&full, 500, "SystemOverFlow");
    assert!(full.member("Message").ends_with("The backlog of undelivered messages is full."));
    assert_eq!(full.header("retry-after"), "1");
    assert_eq!(full.remaining(), BURST - 1);
    rig.queue.set_backlog_full(false);
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
