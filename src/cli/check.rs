use std::path::Path;

use crate::admission::format_timestamp;
use crate::config::Config;

use super::{Failure, demo, ready, say};

pub(super) const AFTER_HELP: &str = "\
Without --config it checks the demo's file. A secret's variable or file is read, and its value is
not shown.

Examples:
  weir --config weir.toml check
  weir --config weir.toml check && systemctl restart weir
  weir --config weir.toml check --ready

Exit codes:
  0   good; with --ready: the weir that runs is ready
  1   there is no demo here; with --ready: it is not ready, or does not answer
  78  bad; the one line on stderr names the key and the fix";

/// What `weir check` takes.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Ask the weir that runs from this configuration for /readyz instead; exit 1 if it is not
    /// ready, or does not answer within 3 s
    #[arg(long)]
    ready: bool,
}

/// Checks a file, or the demo's, and says what would run, or whether it does.
pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> Result<(), Failure> {
    let (name, config) = match config {
        Some(path) => (path.display().to_string(), Config::load(path)?),
        None => {
            let hint = "there is no demo here yet: give --config FILE, or start weir once";
            let config = demo::config_if_any()?.ok_or_else(|| Failure::Failed(hint.into()))?;
            ("the demo".to_owned(), config)
        }
    };
    if arguments.ready {
        return ready::run(&config);
    }
    say(&summary(&name, &config));
    Ok(())
}

fn summary(name: &str, config: &Config) -> String {
    let devices = config.mqtt.as_ref().map_or_else(
        || config.broker.listen.to_string(),
        |mqtt| format!("at the broker {}", mqtt.address),
    );
    let mut text = format!(
        "{name} is good\n  data       {}\n  http       {}\n  devices    {}\n  ops        {}\n  \
         shards     {}\n  keys       {}\n",
        config.data_dir.display(),
        config.http_listen,
        devices,
        config.ops_listen,
        config.journal.shards,
        config.admission.access_keys.len(),
    );
    let certificates = [("http.tls", &config.ports.http_tls), ("ops.tls", &config.ports.ops_tls)];
    for (key, tls) in certificates {
        let Some(Ok(until)) = tls.as_ref().map(crate::tls::Config::check) else { continue };
        text += &format!("  {key:<10} until {}\n", format_timestamp(until));
    }
    if config.admission.replicas.get() > 1 {
        text += &format!("  replicas   {}, which share each limit\n", config.admission.replicas);
    }
    for instance in &config.admission.instances {
        text += &format!(
            "  instance   {} of account {}: {}/s, burst {}, topics {}\n",
            instance.id,
            instance.account,
            instance.rate.qps,
            instance.rate.burst,
            instance.topics.join(" "),
        );
    }
    text
}
