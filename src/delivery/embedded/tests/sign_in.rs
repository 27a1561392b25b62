use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5::ConnectReturnCode as V5Code;

use super::*;

async fn refusal(
    broken: &Broken,
    client_id: &str,
    user: &str,
    password: &str,
) -> ConnectReturnCode {
    let mut options = broken.options("post-cn-a", client_id);
    options.set_credentials(user, password);
    match TestDevice::connect(options).await {
        Ok(_) => ConnectReturnCode::Success,
        Err(code) => code,
    }
}

async fn refusal_v5(broken: &Broken, client_id: &str, user: &str, password: &str) -> V5Code {
    let port = broken.broker.local_addr().port();
    let mut options = v5::MqttOptions::new(client_id, "127.0.0.1", port);
    options.set_credentials(user, password);
    let (_client, mut events) = v5::AsyncClient::new(options, 10);
    match tokio::time::timeout(PATIENCE, events.poll()).await.unwrap() {
        Ok(v5::Event::Incoming(v5::mqttbytes::v5::Packet::ConnAck(ack))) => ack.code,
        Err(v5::ConnectionError::ConnectionRefused(code)) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refusal_carries_the_code_of_its_protocol() {
    let broken = start().await;
    let long = format!("GID_x@@@{}", "d".repeat(57));
    let good = sign(CLIENT, "secret-1");
    let (bad_v3, bad_v5) = (ConnectReturnCode::BadUserNamePassword, V5Code::BadUserNamePassword);
    let (denied_v3, denied_v5) = (ConnectReturnCode::NotAuthorized, V5Code::NotAuthorized);
    for (client_id, user, password, v3, v5) in [
        (CLIENT, "Signature|LTAI1|post-cn-a", &good, ConnectReturnCode::Success, V5Code::Success),
        ("l", "Device|lamp|post-cn-a", &"dark".into(), ConnectReturnCode::Success, V5Code::Success),
        ("l", "Device|lamp|post-cn-a", &"light".into(), bad_v3, bad_v5),
        (CLIENT, "Signature|LTAI1|post-cn-a", &sign(CLIENT, "x"), bad_v3, bad_v5),
        (CLIENT, "Signature|LTAI9|post-cn-a", &good, bad_v3, bad_v5),
        (CLIENT, "nobody", &good, bad_v3, bad_v5),
        (CLIENT, "Signature|LTAI2|post-cn-a", &sign(CLIENT, "secret-2"), denied_v3, denied_v5),
        ("lamp", "Signature|LTAI1|post-cn-a", &sign("lamp", "secret-1"), denied_v3, denied_v5),
        (
            &long,
            "Signature|LTAI1|post-cn-a",
            &sign(&long, "secret-1"),
            ConnectReturnCode::BadClientId,
            V5Code::ClientIdentifierNotValid,
        ),
    ] {
        assert_eq!(refusal(&broken, client_id, user, password).await, v3, "{client_id} {user}");
        assert_eq!(refusal_v5(&broken, client_id, user, password).await, v5, "{client_id} {user}");
    }
}

#[tokio::test]
async fn a_device_without_user_name_is_not_let_in() {
    let broken = start().await;
    let port = broken.broker.local_addr().port();
    let outcome = TestDevice::connect(MqttOptions::new(CLIENT, "127.0.0.1", port)).await;
    assert_eq!(outcome.err(), Some(ConnectReturnCode::BadUserNamePassword));
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_key_and_what_to_do() {
    let broken = start().await;
    let listen = broken.broker.local_addr();
    let config = Config {
        listen,
        connections_max: 10,
        access_keys: Vec::new(),
        instances: Vec::new(),
        limits: Limits::default(),
    };
    let metrics = DeviceMetrics::new(&Registry::new(), &[]).unwrap();
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(SystemClock));
    let started = EmbeddedBroker::start(&config, folder.path(), clock, &metrics).await;
    let error = started.err().unwrap().to_string();
    let expected = format!("delivery.embedded.listen: cannot listen on {listen}: ");
    assert!(error.starts_with(&expected) && error.contains("choose another"), "{error}");
}
