//! What the integration tests share: a running weir, real devices, and waiting with a deadline.

pub(crate) mod caller;
pub(crate) mod certificates;
pub(crate) mod device;
mod lines;
pub(crate) mod weir;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use device::{Device, Subscriber};
pub(crate) use lines::Lines;
pub(crate) use weir::Weir;

/// How long a test waits for anything: far longer than it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// The tenant of a generated configuration.
pub(crate) const KEY_ID: &str = "LTAI5tIntegrationTest001";
pub(crate) const SECRET: &str = "integrationTestSecret000000001";
pub(crate) const INSTANCE: &str = "post-cn-integration1";
pub(crate) const TOPIC: &str = "TopicA";
/// Another of its instances, which is throttled at the second message of a second.
pub(crate) const SLOW: &str = "post-cn-throttled01";
pub(crate) const SLOW_SETTINGS: &str = r#"
    [[instances]]
    id = "post-cn-throttled01"
    account = "1000000000000001"
    topics = ["TopicA"]
    qps = 1
    burst = 1
"#;

#[expect(clippy::disallowed_methods, reason = "a deadline for processes outside this one")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Asks until there is an answer; a test that gets none in time fails with what it waited for.
pub(crate) fn eventually<T>(awaited: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(now() < deadline, "not within {PATIENCE:?}: {awaited}");
        std::thread::sleep(POLL);
    }
}

/// A file of `tests/sdk/`, where the SDKs and their scripts are.
pub(crate) fn sdk_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

/// Starts a tool the tests need, with pipes; one that is not there fails the test.
pub(crate) fn start_tool(command: &mut Command) -> Child {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap_or_else(|error| {
        panic!("{}: {error}; `make tools` installs it", command.get_program().display())
    })
}

/// A process that ends with the test that started it.
pub(crate) struct Owned(pub(crate) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
