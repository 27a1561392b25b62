//! The command line: one file a command.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 78 bad configuration (`EX_CONFIG` of sysexits.h).

mod check;
mod client;
mod completions;
mod dead_letters;
mod demo;
mod devices;
mod files;
mod journal;
mod logging;
mod man;
mod notify;
mod ops_port;
mod progress;
mod ready;
mod send;
mod serve;
mod table;
mod usage;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::ledger::ReadError;
use crate::tls;

/// Version and commit, as `--version` and `weir_build_info` show them.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("WEIR_COMMIT"), ")");

const EXIT_USAGE: u8 = 2;
const EXIT_CONFIG: u8 = 78;

const ABOUT: &str = "Takes SendMessage calls of ApsaraMQ for MQTT over HTTP, limits and bills \
    them, and hands the messages to MQTT devices.";

const AFTER_HELP: &str = "\
Without a command weir serves. Without --config it serves a demo: one account, one instance, one
topic, and a key made at the first start and kept in weir-data/demo.toml. It prints what to paste.

Examples:
  weir                                     serve the demo
  weir --config weir.toml                  serve
  weir --config weir.toml check            is the file good?
  weir send 'hello'                        send to the running demo
  weir usage --by hour                     what was billed

Exit codes:
  0   done; for serve: drained after SIGTERM or ctrl-C
  1   failed: a refused message, a port in use, a disk that lost a sync
  2   usage: an unknown option or a missing value
  78  bad configuration; the one line on stderr names the key and the fix

Environment:
  ALIBABA_CLOUD_ACCESS_KEY_ID, ALIBABA_CLOUD_ACCESS_KEY_SECRET   who `weir send` signs as
  WEIR_ENDPOINT                                                  where `weir send` sends to
  SSL_CERT_FILE                                                  whom `weir send` trusts
  NOTIFY_SOCKET, WATCHDOG_USEC                                   set by systemd for `serve`
  RUST_LOG                                                       what is logged: weir=debug

Files:
  weir-data/demo.toml    the demo's configuration and key, mode 0600; only without --config
  weir-data/             the demo's data; else data_dir of the configuration";

#[derive(Parser)]
#[command(name = "weir", version = VERSION, about = ABOUT, after_help = AFTER_HELP)]
struct Arguments {
    /// Read the configuration from this file; without it no file is looked for
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or ctrl-C; the default command
    #[command(long_about = serve::LONG_ABOUT, after_help = serve::AFTER_HELP)]
    Serve,
    /// Send a message, or many, as an SDK would
    #[command(long_about = send::LONG_ABOUT, after_help = send::AFTER_HELP)]
    Send(send::Arguments),
    /// Show what was billed, check the ledger, or export it
    #[command(long_about = usage::LONG_ABOUT)]
    Usage(usage::Arguments),
    /// List the connected and stored sessions of devices
    #[command(long_about = devices::LONG_ABOUT, after_help = devices::AFTER_HELP)]
    Devices(devices::Arguments),
    /// Check the configuration, bind nothing, and say what it means
    #[command(after_help = check::AFTER_HELP)]
    Check(check::Arguments),
    /// Look into the journal, while weir runs or is stopped
    #[command(after_help = journal::AFTER_HELP)]
    Journal(journal::Arguments),
    /// Write the completions of a shell to standard output
    #[command(long_about = completions::LONG_ABOUT)]
    Completions(completions::CompletionsArguments),
    /// Write the man pages into a folder, for a package
    #[command(hide = true)]
    Man(man::ManArguments),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    fn because(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    tls::install_provider();
    let config = arguments.config.as_deref();
    let result = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(config),
        Command::Send(send) => send::run(&send),
        Command::Usage(usage) => usage::run(config, &usage),
        Command::Devices(devices) => devices::run(config, &devices),
        Command::Check(check) => check::run(config, &check),
        Command::Journal(journal) => journal::run(config, &journal),
        Command::Completions(completions) => {
            completions::run(&completions);
            Ok(())
        }
        Command::Man(man) => man::run(&man),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "weir: {failure}");
            match failure {
                Failure::Usage(_) => ExitCode::from(EXIT_USAGE),
                Failure::Config(_) => ExitCode::from(EXIT_CONFIG),
                Failure::Read(_) | Failure::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Prints for people and pipes; a reader that has gone away is no failure.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Where a file's configuration, or the demo's, keeps its data.
fn data_dir(config: Option<&std::path::Path>) -> Result<PathBuf, Failure> {
    config.map_or_else(demo::data_dir, |path| Ok(Config::data_dir(path)?))
}

/// Text of others, fit for a terminal: control characters are shown, not obeyed.
fn printable(text: &str) -> String {
    let shown = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(shown).collect()
}

/// The file's configuration, or the demo's.
fn load(config: Option<&std::path::Path>) -> Result<(Config, Option<demo::Demo>), Failure> {
    match config {
        Some(path) => Ok((Config::load(path)?, None)),
        None => {
            let (config, demo) = demo::open_or_create()?;
            Ok((config, Some(demo)))
        }
    }
}
