//! An open-loop sender: calls leave by a plan, not when the last answer came, and a latency counts
//! from the planned moment. A server that stalls so shows its stall (no coordinated omission).

mod account;
mod connection;
mod plan;
mod report;
mod signed;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

/// A signature is good for 15 minutes; the last call has to arrive before that.
const LENGTH_SECONDS_MAX: u64 = 14 * 60;

const LONG_ABOUT: &str = "\
Sends SendMessage calls at a planned rate and measures how weir takes them.

All calls are signed before the first is sent (V3, ACS3-HMAC-SHA256, each with a nonce of its own),
so signing costs nothing while it is measured. Each call has a moment at which it is due; a
connection that is free takes the next one, waits for its moment and sends it. Where all connections
are busy calls leave late, and their latency counts from the moment they were due.";

const AFTER_HELP: &str = "\
Output:
  A report on standard output; with --json FILE the same as JSON. Latencies are in milliseconds, of
  calls due after the ramp, from the planned moment to the last byte of the answer. \"late\" counts
  calls that left over 5 ms after their moment: with many of them, give more --connections, or the
  server (or this machine) is past what it can do.

Exit codes:
  0  every call was answered with a 200 or a throttling (429, or 400 with Throttling.User)
  1  some call was answered otherwise, or not at all
  2  usage

Memory: about 100 bytes a call.

Examples:
  The demo at 800 calls a second for 30 s, with the server's CPU time:
    export ALIBABA_CLOUD_ACCESS_KEY_ID=… ALIBABA_CLOUD_ACCESS_KEY_SECRET=…
    open_loop --rate 800 --duration 30s --pid $(pidof weir)

  20,000 a second over 40 instances, after a ramp of 10 s:
    open_loop --rate 20000 --ramp 10s --instance post-cn-load000001..40 --connections 256";

#[derive(Parser)]
#[command(name = "open_loop", about = "Load weir at a planned rate", long_about = LONG_ABOUT,
    after_help = AFTER_HELP)]
struct Arguments {
    /// Where to send to, as host:port; given more than once, connections take turns
    #[arg(long, value_name = "HOST:PORT", env = "WEIR_ENDPOINT", default_value = "127.0.0.1:8080")]
    endpoint: Vec<String>,
    /// Who signs
    #[arg(long, value_name = "ID", env = "ALIBABA_CLOUD_ACCESS_KEY_ID")]
    key: String,
    /// The key's secret; better given by the environment
    #[arg(long, env = "ALIBABA_CLOUD_ACCESS_KEY_SECRET", hide_env_values = true)]
    secret: String,
    /// The instance to send to; ID..N stands for N of them, counted up from ID's last digits;
    /// instances take turns
    #[arg(long, value_name = "ID[..N]", default_value = "post-cn-demo0000001")]
    instance: String,
    /// The topic to send to
    #[arg(long, default_value = "TopicA")]
    topic: String,
    /// Bytes of a payload before Base64, up to 65,536
    #[arg(long, value_name = "N", default_value = "200",
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    payload_bytes: u32,
    /// Calls a second, up to 1,000,000
    #[arg(long, value_name = "N", default_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How long to send at this rate; with the ramp 14 minutes at most
    #[arg(long, value_name = "TIME", default_value = "30s",
        value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How long to rise to this rate, evenly from 0; not part of the latencies
    #[arg(long, value_name = "TIME", default_value = "0s",
        value_parser = humantime::parse_duration)]
    ramp: Duration,
    /// Connections, each kept open and with one call at a time, up to 4,096
    #[arg(long, value_name = "N", default_value = "64",
        value_parser = clap::value_parser!(u32).range(1..=4_096))]
    connections: u32,
    /// The server's process, on this machine, to tell its CPU time a call
    #[arg(long)]
    pid: Option<u32>,
    /// Write the report to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "open_loop: {why}");
            ExitCode::from(2)
        }
    }
}

/// Whether every call was answered as weir answers a good one.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let plan = plan::Plan::new(arguments.rate, arguments.ramp, arguments.duration);
    if plan.length() > Duration::from_secs(LENGTH_SECONDS_MAX) {
        return Err("--ramp and --duration: a signature is good for 15 minutes, so 14m is the \
                    most; run it again instead"
            .into());
    }
    if plan.calls() == 0 {
        return Err("--rate and --duration: that is not a single call".into());
    }
    let instances = signed::instances(&arguments.instance)?;
    let endpoints: Vec<(String, SocketAddr)> =
        arguments.endpoint.iter().map(|text| resolve(text)).collect::<Result<_, _>>()?;
    let hosts: Vec<&str> = endpoints.iter().map(|(host, _)| host.as_str()).collect();
    let calls = signed::sign_all(arguments, &instances, &hosts, plan.calls())?;
    let load = connection::Load { plan, calls, endpoints, connections: arguments.connections };
    let before = arguments.pid.map(account::cpu_time).transpose()?;
    let (tally, elapsed) = connection::send_all(&Arc::new(load))?;
    let cpu = match (before, arguments.pid) {
        (Some(before), Some(pid)) => Some(account::cpu_time(pid)?.saturating_sub(before)),
        _ => None,
    };
    let report = report::Report::new(&plan, &tally, elapsed, cpu);
    let _ = std::io::stdout().write_all(report.text().as_bytes());
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json())
            .map_err(|error| format!("--json {}: {error}", path.display()))?;
    }
    Ok(report.is_clean())
}

fn resolve(text: &str) -> Result<(String, SocketAddr), String> {
    let host = text.trim_start_matches("http://").trim_end_matches('/');
    let found = std::net::ToSocketAddrs::to_socket_addrs(host)
        .map_err(|error| format!("--endpoint {text}: {error}"))?
        .next();
    Ok((host.to_owned(), found.ok_or_else(|| format!("--endpoint {text}: no address"))?))
}
