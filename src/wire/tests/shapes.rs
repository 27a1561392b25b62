use super::call::{Call, form, nonce, pairs, parameters};
use super::rig::{INSTANCE, Reply, Rig};
use crate::admission::{Algorithm, Verb};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

fn assert_stored(rig: &Rig, reply: &Reply, times: usize) {
    assert_eq!(reply.status, 200, "{reply:?}");
    let stored = rig.stored.lock();
    assert_eq!(stored.len(), times);
    let message = stored.last().unwrap();
    assert_eq!(message.instance.as_str(), INSTANCE);
    assert_eq!(message.payload.bytes(), &Bytes::from_static(b"hello>\xff"));
    if reply.body.starts_with('{') {
        let members = reply.json();
        assert_eq!(members["MsgId"], message.id.to_string());
        assert_eq!(members["RequestId"], reply.header("x-acs-request-id"));
        assert_eq!(members.as_object().unwrap().len(), 2, "no Code");
        assert_eq!(reply.header("content-type"), "application/json;charset=utf-8");
    }
}

#[tokio::test]
async fn every_shape_of_v3_is_taken() {
    let rig = Rig::start().await;
    let json: serde_json::Map<_, _> =
        parameters().into_iter().map(|(name, value)| (name, value.into())).collect();
    let mut in_json = Call::new().header("content-type", "application/json; charset=utf-8");
    in_json.query.clear();
    in_json.body = serde_json::to_vec(&json).unwrap();
    let calls = [
        Call::new(),
        Call { verb: Verb::Get, ..Call::new() },
        Call::new().header("content-type", "application/octet-stream"),
        Call::new().in_form(),
        in_json,
    ];
    let mut times = 0;
    for call in calls {
        for algorithm in [Algorithm::Sha256, Algorithm::Sm3] {
            let call = Call { nonce: nonce(), ..call.clone() };
            times += 1;
            assert_stored(&rig, &rig.send(&call.v3(algorithm)).await, times);
        }
    }
}

#[tokio::test]
async fn every_shape_of_v1_is_taken() {
    let rig = Rig::start().await;
    let json = || Call::new().with("Format", "json");
    let get = Call { verb: Verb::Get, ..json() };
    let empty_type = json().with("SignatureType", "");
    let requests = [get.v1(), json().v1(), json().v1_form(), empty_type.v1()];
    for (index, request) in requests.iter().enumerate() {
        assert_stored(&rig, &rig.send(request).await, index + 1);
    }
    // Common parameters in the query, the action's own in a form, as onsmqtt 1.0.0 sends them.
    let call = json();
    let (own, common): (Vec<_>, Vec<_>) = call
        .v1_parameters()
        .into_iter()
        .partition(|(name, _)| ["InstanceId", "MqttTopic", "Payload"].contains(&name.as_str()));
    let headers = pairs(&[("content-type", "application/x-www-form-urlencoded")]);
    let request = Call { body: form(&own).into_bytes(), ..call }.raw(&form(&common), &headers);
    assert_stored(&rig, &rig.send(&request).await, 5);
}

#[tokio::test]
async fn a_v1_call_without_a_format_is_answered_in_xml() {
    let rig = Rig::start().await;
    let formats = [None, Some("XML"), Some("None"), Some("xml")];
    for (index, format) in formats.into_iter().enumerate() {
        let call = format.map_or_else(Call::new, |format| Call::new().with("Format", format));
        let reply = rig.send(&call.v1()).await;
        assert_stored(&rig, &reply, index + 1);
        assert_eq!(reply.header("content-type"), "text/xml;charset=utf-8");
        let id = rig.stored.lock().last().unwrap().id;
        assert!(reply.body.contains(&format!("<SendMessageResponse><MsgId>{id}</MsgId>")));
    }
    let refused = rig.send(&Call::new().without("MqttTopic").v1()).await;
    assert_eq!(refused.header("content-type"), "text/xml;charset=utf-8");
    assert!(refused.body.contains("<Error><RequestId>"), "{refused:?}");
    assert!(refused.body.contains("<Code>ParameterCheckFailed</Code>"), "{refused:?}");
}

#[tokio::test]
async fn what_the_official_sdks_sent_is_taken_byte_for_byte() {
    macro_rules! capture {
        ($name:literal) => {
            ($name, &include_bytes!(concat!("../../../tests/captures/", $name, ".http"))[..])
        };
    }
    let rig = Rig::start().await;
    let good = [
        capture!("node-v3-default-1"),
        capture!("node-v3-form-1"),
        capture!("old-common-xml-1"),
        capture!("old-onsmqtt-default-1"),
        capture!("pop-get-default-1"),
        capture!("pop-post-1"),
        capture!("py-gen-v3-form-1"),
        capture!("py-onsmqtt100-default-1"),
        capture!("py-v2-rpc-hmacsha1-1"),
        capture!("py-v3-default-1"),
    ];
    // One connection for all: each leaves it where the next begins.
    let mut client = rig.connect().await;
    for (name, request) in good {
        client.write(request).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 200, "{name}: {reply:?}");
    }
    let topics: Vec<_> = rig.stored.lock().iter().map(|message| message.topic.clone()).collect();
    assert_eq!(
        topics.iter().filter(|topic| topic.p2p_target() == Some("GID_x@@@dev 1")).count(),
        8
    );
    for (name, request, code) in [
        (
            "py-v3-missing-1",
            &include_bytes!("../../../tests/captures/py-v3-missing-1.http")[..],
            "ParameterCheckFailed",
        ),
        (
            "py-v3-sts-1",
            &include_bytes!("../../../tests/captures/py-v3-sts-1.http")[..],
            "CheckAccountInfoFailed",
        ),
    ] {
        client.write(request).await;
        assert_eq!(client.reply().await.member("Code"), code, "{name}");
    }
}

#[tokio::test]
async fn a_signature_over_an_alias_of_the_host_is_good() {
    let rig = Rig::start().await;
    for (index, alias) in ["10.0.0.9:8080", "onsmqtt.internal"].into_iter().enumerate() {
        let call = Call { host: alias.into(), ..Call::new() };
        let mut headers = call.v3_headers(Algorithm::Sha256);
        headers[0].1 = "the-proxy-says-so".into();
        assert_stored(&rig, &rig.send(&call.raw(&form(&call.query), &headers)).await, index + 1);
    }
    let call = Call { host: "unknown.example".into(), ..Call::new() };
    let mut headers = call.v3_headers(Algorithm::Sha256);
    headers[0].1 = "the-proxy-says-so".into();
    let refused = rig.send(&call.raw(&form(&call.query), &headers)).await;
    assert_eq!(refused.member("Code"), "SignatureDoesNotMatch");
}

#[tokio::test]
async fn a_payload_of_64_kib_in_the_query_is_taken_over_http1() {
    let rig = Rig::start().await;
    // Every character of its Base64 is escaped: 262,152 bytes of query and more.
    let payload = "+".repeat(87_380) + "+w==";
    let escaped = "%2B".repeat(87_380) + "%2Bw%3D%3D";
    let mut client = rig.connect().await;
    for times in 1..=3 {
        let call = Call::new().with("Payload", &payload);
        let query = form(&call.query).replace(&form(&pairs(&[("P", &payload)]))[2..], &escaped);
        assert!(query.len() > 262_000);
        client.write(&call.raw(&query, &call.v3_headers(Algorithm::Sha256))).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(rig.stored.lock().len(), times);
        assert_eq!(rig.stored.lock()[times - 1].payload.bytes().len(), 64 * 1024);
        // A short one in between, on the same connection.
        client.write(&Call::new().with("Payload", "%%").v3(Algorithm::Sha256)).await;
        assert_eq!(client.reply().await.member("Code"), "InvalidParameter.Payload");
    }
    let v1 =
        Call { verb: Verb::Get, ..Call::new() }.with("Payload", &payload).with("Format", "JSON");
    client.write(&v1.v1()).await;
    assert_eq!(client.reply().await.status, 200);
    // Pipelined behind a call with a body: refused by somebody, and never taken for a body.
    let mut both = Call::new().in_form().v3(Algorithm::Sha256);
    both.extend(Call::new().with("Payload", &payload).v3(Algorithm::Sha256));
    client.write(&both).await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn http2_serves_many_calls_of_one_connection() {
    let rig = Rig::start().await;
    let stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for index in 0..20 {
        let mut call = Call { host: "weir.example:1".into(), ..Call::new() };
        if index % 2 == 0 {
            call = call.in_form();
        }
        let mut request =
            http::Request::post(format!("http://weir.example:1/?{}", form(&call.query)));
        let headers = call.v3_headers(Algorithm::Sha256);
        for (name, value) in headers.iter().filter(|(name, _)| name != "host") {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(call.body))).unwrap();
        let reply = sender.clone().send_request(request).await.unwrap();
        assert_eq!(reply.status(), 200);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"{\"MsgId\""));
    }
    assert_eq!(rig.stored.lock().len(), 20);
}

#[tokio::test]
async fn a_body_in_chunks_after_a_continue_is_one_body() {
    let rig = Rig::start().await;
    let call = Call::new().in_form().header("expect", "100-continue");
    let request = call.v3(Algorithm::Sha256);
    let text = String::from_utf8(request).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let head =
        head.replace(&format!("content-length: {}", body.len()), "transfer-encoding: chunked");
    let mut client = rig.connect().await;
    client.write(format!("{head}\r\n\r\n").as_bytes()).await;
    for part in body.as_bytes().chunks(7) {
        client.write(format!("{:x}\r\n", part.len()).as_bytes()).await;
        client.write(part).await;
        client.write(b"\r\n").await;
    }
    client.write(b"0\r\n\r\n").await;
    assert_stored(&rig, &client.reply().await, 1);
}
