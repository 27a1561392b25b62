use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::message::InstanceId;

use super::client::Endpoint;
use super::{Failure, demo, ops_port, printable};

pub(super) const LONG_ABOUT: &str = "\
List the sessions of an instance's devices: those that are connected, and those that are stored
until their device comes back. A running weir is asked on its ops port, which is found in --config,
or in the demo's file, unless --ops names it.

Queued is how many messages wait for a session, to be sent or to be acknowledged. Link is how the
device is connected: tcp, tls, ws (WebSocket) or wss.";

pub(super) const AFTER_HELP: &str = "\
The list comes in the order of the client ids, and is read in pages of 1,000. Who comes or goes
meanwhile may be missing or listed as before. The same is answered as JSON by
GET /devices?instance=ID&after=CLIENT_ID&limit=1000 on the ops port, where `next` is what the next
page begins behind.

Examples:
  weir devices
  weir devices --instance post-cn-a --format csv > devices.csv
  weir devices --ops http://10.0.0.5:8081 --instance post-cn-a
  weir devices --format json | jq '.[] | select(.queued > 1000) | .client_id'

Exit codes:
  0   done; there may be none
  1   failed: no weir answers there, or it has no such instance
  2   usage
  78  bad configuration";

const UNAUTHORIZED: u16 = 401;

/// What `weir devices` takes.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Only of this instance; without it of all that are configured
    #[arg(long, value_name = "ID", value_parser = instance)]
    instance: Option<InstanceId>,
    /// Where the ops port is, as http://host[:port] or https://host[:port]
    #[arg(long, value_name = "URL", requires = "instance")]
    ops: Option<String>,
    /// Whom to trust where --ops is https; without it whom the system trusts
    #[arg(long, value_name = "FILE", requires = "ops")]
    ca: Option<PathBuf>,
    /// The ops port's token, if it asks for one
    #[arg(long, env = "WEIR_OPS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// An array of objects
    Json,
    /// The same columns, with a head line
    Csv,
}

fn instance(text: &str) -> Result<InstanceId, String> {
    InstanceId::parse(text).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct Page {
    connected: usize,
    stored: usize,
    devices: Vec<Device>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Device {
    client_id: String,
    state: String,
    since: Option<String>,
    queued: u64,
    protocol: String,
    link: Option<String>,
    address: Option<String>,
}

/// One session as it is printed.
#[derive(Serialize)]
struct Row<'d> {
    instance_id: &'d str,
    client_id: &'d str,
    state: &'d str,
    since: &'d str,
    queued: u64,
    protocol: &'d str,
    link: &'d str,
    address: &'d str,
}

/// Asks a running weir for its devices, and prints them.
pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> Result<(), Failure> {
    let (endpoint, instances) = whom_to_ask(config, arguments)?;
    let token = arguments.token.as_deref();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("runtime", error))?;
    let mut out = Printer { out: BufWriter::new(io::stdout().lock()), format: arguments.format };
    let printed = runtime.block_on(async {
        out.begin().map_err(Ended::Write)?;
        let (mut rows, mut connected, mut stored) = (0, 0, 0);
        for instance in &instances {
            let mut after = None;
            loop {
                let page = ask(&endpoint, token, instance, after.as_deref()).await?;
                for device in &page.devices {
                    out.row(instance, device, rows == 0).map_err(Ended::Write)?;
                    rows += 1;
                }
                after = page.next;
                if after.is_none() {
                    connected += page.connected;
                    stored += page.stored;
                    break;
                }
            }
        }
        out.end(connected, stored).map_err(Ended::Write)
    });
    match printed {
        Err(Ended::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Ended::Write(error)) => Err(Failure::because("standard output", error)),
        Err(Ended::Asked(said)) => Err(Failure::Failed(said)),
        Ok(()) => Ok(()),
    }
}

/// Why a list ended early.
enum Ended {
    Write(io::Error),
    Asked(String),
}

fn whom_to_ask(
    config: Option<&Path>,
    arguments: &Arguments,
) -> Result<(Endpoint, Vec<InstanceId>), Failure> {
    if let (Some(ops), Some(instance)) = (&arguments.ops, &arguments.instance) {
        let endpoint = Endpoint::parse(ops, arguments.ca.as_deref(), None);
        return Ok((endpoint.map_err(Failure::Usage)?, vec![instance.clone()]));
    }
    let places = match config {
        Some(path) => Config::places(path)?,
        None => demo::places()?,
    };
    if places.ops_listen.port() == 0 {
        let said = "ops.listen has port 0, so nobody knows where it is: give --ops and --instance";
        return Err(Failure::Failed(said.to_owned()));
    }
    let instances = match &arguments.instance {
        Some(instance) => vec![instance.clone()],
        None => places.instances,
    };
    Ok((ops_port::endpoint(places.ops_listen, places.ops_tls.as_ref())?, instances))
}

async fn ask(
    endpoint: &Endpoint,
    token: Option<&str>,
    instance: &InstanceId,
    after: Option<&str>,
) -> Result<Page, Ended> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("instance", instance.as_str());
    if let Some(after) = after {
        query.append_pair("after", after);
    }
    let path = format!("/devices?{}", query.finish());
    let asked = async { endpoint.connect().await?.get(&path, token).await };
    let (status, body) =
        asked.await.map_err(|error| Ended::Asked(format!("{error}; does weir run?")))?;
    let text = String::from_utf8_lossy(&body);
    if status == UNAUTHORIZED {
        return Err(Ended::Asked("the ops port asks for its token: set WEIR_OPS_TOKEN".into()));
    }
    if status != 200 {
        return Err(Ended::Asked(printable(text.trim())));
    }
    serde_json::from_str(&text)
        .map_err(|_| Ended::Asked("an answer that is not weir's: is that the ops port?".into()))
}

struct Printer<W> {
    out: W,
    format: Format,
}

const HEAD: [&str; 8] =
    ["instance_id", "client_id", "state", "since", "queued", "protocol", "link", "address"];

impl<W: Write> Printer<W> {
    fn begin(&mut self) -> io::Result<()> {
        match self.format {
            Format::Table => self.line(&HEAD.map(str::to_owned)),
            Format::Json => write!(self.out, "["),
            Format::Csv => writeln!(self.out, "{}", HEAD.join(",")),
        }
    }

    fn row(&mut self, instance: &InstanceId, device: &Device, first: bool) -> io::Result<()> {
        let Device { client_id, state, since, queued, protocol, link, address } = device;
        let or_none = |text: &Option<String>, none: &str| text.clone().unwrap_or(none.to_owned());
        let none = if self.format == Format::Table { "-" } else { "" };
        let (since, link, address) =
            (or_none(since, none), or_none(link, none), or_none(address, none));
        match self.format {
            Format::Json => {
                write!(self.out, "{}\n  ", if first { "" } else { "," })?;
                let row = Row {
                    instance_id: instance.as_str(),
                    client_id,
                    state,
                    since: &since,
                    queued: *queued,
                    protocol,
                    link: &link,
                    address: &address,
                };
                Ok(serde_json::to_writer(&mut self.out, &row)?)
            }
            format => {
                let client_id = printable(client_id);
                let client_id = if format == Format::Csv { quoted(&client_id) } else { client_id };
                let columns = [
                    instance.to_string(),
                    client_id,
                    state.clone(),
                    since,
                    queued.to_string(),
                    protocol.clone(),
                    link,
                    address,
                ];
                match format {
                    Format::Csv => writeln!(self.out, "{}", columns.join(",")),
                    _ => self.line(&columns),
                }
            }
        }
    }

    fn line(&mut self, columns: &[String; 8]) -> io::Result<()> {
        let [instance, client_id, state, since, queued, protocol, link, address] = columns;
        writeln!(
            self.out,
            "{instance:20}  {client_id:32}  {state:9}  {since:24}  {queued:>6}  {protocol:8}  \
             {link:4}  {address}"
        )
    }

    fn end(&mut self, connected: usize, stored: usize) -> io::Result<()> {
        match self.format {
            Format::Table => writeln!(self.out, "{connected} connected, {stored} stored")?,
            Format::Json => writeln!(self.out, "\n]")?,
            Format::Csv => {}
        }
        self.out.flush()
    }
}

/// A field of CSV (RFC 4180), quoted where it has to be.
fn quoted(field: &str) -> String {
    if field.contains([',', '"']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
