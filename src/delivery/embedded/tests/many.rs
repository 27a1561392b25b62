//! More devices than one task may ask about without a break.

use super::*;

/// tokio lets a task wait 128 times before it makes it yield.
const DEVICES: usize = 300;

#[test]
fn devices_sign_in_while_all_others_are_counted_and_listed() {
    let (done, ended) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sign_in_while_counting());
        done.send(()).unwrap();
    });
    // Were a count to keep the table locked where it yields, that one thread would block for good.
    ended.recv_timeout(PATIENCE * 3).expect("devices sign in");
}

async fn sign_in_while_counting() {
    let broken = start().await;
    let instance = InstanceId::parse("post-cn-a").unwrap();
    let tenant = Arc::clone(broken.broker.tenants.of_instance("post-cn-a").unwrap());
    let counting = tokio::spawn(async move {
        loop {
            tenant.sweep().await;
            tokio::task::yield_now().await;
        }
    });
    let mut devices = vec![];
    for number in 0..DEVICES {
        let client_id = format!("GID_Test@@@{number:04}");
        devices.push(broken.device("post-cn-a", &client_id).await);
    }
    let page = broken.broker.devices(&instance, None, 1_000).await.unwrap();
    assert_eq!((page.connected, page.stored, page.devices.len()), (DEVICES, 0, DEVICES));
    counting.abort();
}
