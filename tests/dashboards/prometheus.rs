//! A real Prometheus that scrapes what a test tells it, with the rules of the checkout.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Lines, Owned, PATIENCE, eventually};

/// What Prometheus shows an ops port that asks for a token.
pub(crate) const TOKEN: &str = "a-token-of-the-dashboards-test-0001";

/// A running Prometheus.
pub(crate) struct Prometheus {
    at: SocketAddr,
    log: Lines,
    _process: Owned,
    _folder: TempDir,
}

/// One series of an answer.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: serde_json::Map<String, Value>,
    pub(crate) values: Vec<f64>,
}

impl Series {
    /// A label, or nothing.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// The newest value.
    pub(crate) fn last(&self) -> f64 {
        *self.values.last().expect("no series is without a value")
    }
}

impl Prometheus {
    /// Scrapes the targets of each job, once a second and with the token, and waits until it has
    /// seen each of them.
    ///
    /// Alerts fire at once: the minutes of their `for` are promtool's to try.
    pub(crate) fn start(jobs: &[(&str, &[SocketAddr])]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in ["weir.rules.yml", "weir.alerts.yml"] {
            let text = fs::read_to_string(checkout("dashboards/rules").join(file)).expect("rules");
            let hasty = |line: &str| match line.trim_start().starts_with("for: ") {
                true => "        for: 0s".to_owned(),
                false => line.to_owned(),
            };
            let text: Vec<_> = text.lines().map(hasty).collect();
            fs::write(folder.path().join(file), text.join("\n")).expect("the rules are written");
        }
        let mut config =
            "global: {scrape_interval: 1s, evaluation_interval: 1s, scrape_timeout: 1s}\n\
                          rule_files: [weir.rules.yml, weir.alerts.yml]\nscrape_configs:\n"
                .to_owned();
        for (job, targets) in jobs {
            config += &format!(
                "- job_name: {job}\n  authorization: {{credentials: {TOKEN}}}\n  \
                 static_configs: [{{targets: {targets:?}}}]\n",
                targets = targets.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
            );
        }
        fs::write(folder.path().join("prometheus.yml"), config).expect("it is written");
        let mut command = Command::new(binary());
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=series"]);
        command.arg("--web.listen-address=127.0.0.1:0").stderr(Stdio::piped());
        let mut process = Owned(command.spawn().expect("prometheus starts"));
        let log = Lines::of("prometheus", process.0.stderr.take().expect("it is piped"));
        let at = log.wait_for("its address", |lines| {
            let line = lines.iter().find(|line| line.contains("msg=\"Listening on\""))?;
            line.rsplit_once("address=")?.1.trim().parse().ok()
        });
        let at = at.unwrap_or_else(|why| panic!("{why}"));
        let prometheus = Self { at, log, _process: process, _folder: folder };
        for (job, targets) in jobs {
            for target in *targets {
                let seen = format!("weir_ready{{job=\"{job}\",instance=\"{target}\"}}[1m]");
                prometheus.wait_for(&format!("count_over_time({seen})"), 3.0);
            }
        }
        prometheus
    }

    /// Waits until a query has one series, with at least this value.
    pub(crate) fn wait_for(&self, query: &str, at_least: f64) {
        eventually(&format!("{query} >= {at_least}\n{}", self.log.text()), || {
            // It answers 503 until it has read its own files.
            let found = self.try_query(query).ok()?;
            found.first().is_some_and(|series| series.last() >= at_least).then_some(())
        });
    }

    /// An instant query.
    pub(crate) fn query(&self, query: &str) -> Vec<Series> {
        self.try_query(query).unwrap_or_else(|error| panic!("{query}\n{error}"))
    }

    fn try_query(&self, query: &str) -> Result<Vec<Series>, String> {
        Ok(series(&self.ask("query", &[("query", query)])?))
    }

    /// The last `seconds` of a query, a value a second.
    pub(crate) fn query_range(&self, query: &str, seconds: u64) -> Result<Vec<Series>, String> {
        let end = self.query("time()").first().map_or(0.0, Series::last);
        let start = end - f64::from(u32::try_from(seconds).expect("a test's range is short"));
        let (start, end) = (start.to_string(), end.to_string());
        let range = [("query", query), ("start", &start), ("end", &end), ("step", "1")];
        Ok(series(&self.ask("query_range", &range)?))
    }

    /// One of the lists of the HTTP API, such as `rules`.
    pub(crate) fn list(&self, name: &str, parameters: &[(&str, &str)]) -> Value {
        self.ask(name, parameters).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn ask(&self, name: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let query =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let (head, body) = get(self.at, &format!("/api/v1/{name}?{query}"));
        let mut answer: Value =
            serde_json::from_str(&body).map_err(|error| format!("{head}: {error}\n{body}"))?;
        match answer["status"] == "success" {
            true => Ok(answer["data"].take()),
            false => Err(body),
        }
    }
}

fn series(data: &Value) -> Vec<Series> {
    let number = |pair: &Value| pair[1].as_str()?.parse::<f64>().ok();
    // The one value of a scalar; a vector's series; a matrix' series.
    if data["resultType"] == "scalar" {
        let values = number(&data["result"]).into_iter().collect();
        return vec![Series { labels: serde_json::Map::new(), values }];
    }
    let one = |found: &Value| Series {
        labels: found["metric"].as_object().cloned().unwrap_or_default(),
        values: match found["values"].as_array() {
            Some(values) => values.iter().filter_map(number).collect(),
            None => number(&found["value"]).into_iter().collect(),
        },
    };
    data["result"].as_array().into_iter().flatten().map(one).collect()
}

/// Head and body of a GET. HTTP/1.0, so that the body comes in one piece.
pub(crate) fn get(address: SocketAddr, path: &str) -> (String, String) {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().unwrap_or_else(|error| panic!("GET {path} of {address}: {error}"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

/// A path of the checkout.
pub(crate) fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn binary() -> PathBuf {
    let ours = checkout("target/tools/bin/prometheus");
    let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("prometheus")).collect::<Vec<_>>()
    });
    let found = std::iter::once(ours).chain(on_path).find(|path| path.is_file());
    found.expect("prometheus is missing: `make tools` brings it to target/tools/bin")
}
