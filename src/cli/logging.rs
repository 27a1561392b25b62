use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";
/// Held at warnings whatever `RUST_LOG` says: below that these crates print packets, frames or
/// statements, and with them payloads, passwords and signatures.
const HELD: [&str; 9] = [
    "rmqtt",
    "rmqtt_net",
    "rmqtt_codec",
    "tungstenite",
    "tokio_tungstenite",
    "hyper",
    "hyper_util",
    "h2",
    "mio",
];

/// Logs to stderr: for people on a terminal, a JSON object a line otherwise.
pub(super) fn start() {
    let asked = std::env::var("RUST_LOG").unwrap_or_else(|_| DEFAULT_FILTER.to_owned());
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(held(&asked)))
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.with_target(false).init();
    } else {
        log.json().flatten_event(true).init();
    }
}

/// The filter asked for, less what it says of the crates that are held, and of spans: weir has none
/// of its own, and within a span a filter lets everything through, whatever it says of the crate.
fn held(asked: &str) -> String {
    let names = |directive: &str| {
        if directive.contains(['[', ']', '{', '}']) {
            return true;
        }
        let target = directive.trim().split(['=', ':']).next().unwrap_or_default();
        HELD.contains(&target)
    };
    let kept = asked.split(',').filter(|directive| !names(directive)).map(str::to_owned);
    let held = HELD.iter().map(|name| format!("{name}=warn"));
    kept.chain(held).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_ask_for_the_logs_of_a_crate_that_prints_packets() {
        let filter = held(
            "trace,rmqtt::v3=trace,rmqtt=debug,[Connection]=trace,weir=debug,h2[frame]=trace,\
             [poll{a=1,b=2}]=trace",
        );
        assert!(filter.starts_with("trace,weir=debug,rmqtt=warn,"), "{filter}");
        assert_eq!(filter.matches("h2").count(), 1);
        assert_eq!(filter.matches("trace").count(), 1);
    }
}
