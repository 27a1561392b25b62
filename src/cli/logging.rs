use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info,rmqtt=warn,rmqtt_net=warn,rmqtt_codec=warn";
/// Never logged, whatever `RUST_LOG` says: these crates print packets or frames, and with them
/// payloads and signatures.
const SILENCED: [&str; 6] =
    ["rmqtt=warn", "rmqtt_net=warn", "rmqtt_codec=warn", "hyper=info", "h2=info", "rumqttc=info"];

/// Logs to stderr: for people on a terminal, a JSON object a line otherwise.
pub(super) fn start() {
    let asked = std::env::var("RUST_LOG").unwrap_or_else(|_| DEFAULT_FILTER.to_owned());
    let filter =
        SILENCED.iter().fold(EnvFilter::new(asked), |filter, silenced| match silenced.parse() {
            Ok(directive) => filter.add_directive(directive),
            Err(_) => filter,
        });
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.with_target(false).init();
    } else {
        log.json().flatten_event(true).init();
    }
}
