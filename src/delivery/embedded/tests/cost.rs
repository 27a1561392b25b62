use super::*;

/// Run by hand: prints what one delivered QoS 1 message costs, the client included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn cost() {
    const MESSAGES: u32 = 200_000;
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    let payload = [7; 200];
    let receiver = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            device.receive().await;
        }
    });
    let started = tokio::time::Instant::now();
    for _ in 0..MESSAGES {
        broken.send("post-cn-a", "TopicA", &payload).await;
    }
    receiver.await.unwrap();
    println!("{:?} a message", started.elapsed() / MESSAGES);
}
