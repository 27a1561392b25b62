//! The dashboards as Grafana reads them: variables filled in, queries sent where they belong.

use std::fs;

use serde_json::{Map, Value};

use super::prometheus::{Prometheus, Series, checkout, get};

/// What a rate is taken over: the test's whole traffic lies in it.
pub(crate) const RATE_SECONDS: u32 = 240;
/// What a dashboard shows.
const RANGE_SECONDS: u64 = 600;

/// What is chosen in a dashboard's variables.
pub(crate) struct Chosen {
    /// The replicas, each by the address of its ops port, as Prometheus names it. A row of money is
    /// the first's.
    pub(crate) replicas: Vec<String>,
    /// The instances.
    pub(crate) instances: Vec<String>,
    /// Milliseconds since 1970.
    pub(crate) now: u64,
}

/// A dashboard.
pub(crate) struct Dashboard(Value);

/// A panel that shows something.
pub(crate) struct Panel<'d> {
    pub(crate) title: &'d str,
    pub(crate) targets: Vec<&'d Value>,
}

/// What a query of a panel found.
#[derive(Debug)]
pub(crate) enum Found {
    /// Prometheus' series.
    Series(Vec<Series>),
    /// The ledger's rows, by the names of their columns.
    Rows(Vec<Map<String, Value>>),
}

impl Dashboard {
    /// Every dashboard of the checkout.
    pub(crate) fn all() -> Vec<Self> {
        let files = fs::read_dir(checkout("dashboards")).expect("the folder is there");
        let paths = files.map(|file| file.expect("it can be read").path());
        let boards = paths.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        let boards = boards.map(|path| fs::read(path).expect("it can be read"));
        boards.map(|text| Self(serde_json::from_slice(&text).expect("it is JSON"))).collect()
    }

    pub(crate) fn uid(&self) -> &str {
        self.0["uid"].as_str().expect("a dashboard has an uid")
    }

    /// The panels, rows left out: they show nothing of their own.
    pub(crate) fn panels(&self) -> Vec<Panel<'_>> {
        let panels = self.0["panels"].as_array().expect("panels").iter();
        panels.filter(|panel| panel["type"] != "row").map(Panel::of).collect()
    }

    /// The name and the query of each variable that asks Prometheus.
    pub(crate) fn queried_variables(&self) -> Vec<(&str, &str)> {
        let all = self.0["templating"]["list"].as_array().expect("variables").iter();
        let text = |value| Value::as_str(value).expect("a variable has a name and a query");
        let asks = all.filter(|variable| variable["type"] == "query");
        asks.map(|one| (text(&one["name"]), text(&one["query"]["query"]))).collect()
    }
}

impl<'d> Panel<'d> {
    fn of(panel: &'d Value) -> Self {
        let title = panel["title"].as_str().expect("a panel has a title");
        Self { title, targets: panel["targets"].as_array().into_iter().flatten().collect() }
    }
}

impl Chosen {
    /// A text with its variables filled in; one that nobody knows fails the test.
    pub(crate) fn fill(&self, text: &str) -> String {
        let several = |values: &[String]| match values {
            // Within a string of PromQL a backslash is written twice.
            [one] => one.replace('.', "\\\\."),
            several => format!("({})", several.join("|").replace('.', "\\\\.")),
        };
        let from = self.now - RANGE_SECONDS * 1_000;
        let filled = text
            .replace("$__rate_interval", &format!("{RATE_SECONDS}s"))
            .replace("$__range", &format!("{RANGE_SECONDS}s"))
            .replace("${__from}", &from.to_string())
            .replace("${__to}", &self.now.to_string())
            .replace("${scheme}", "http")
            .replace("${replica:raw}", &self.replicas[0])
            .replace("${instance:csv}", &self.instances.join(","))
            .replace("$replica", &several(&self.replicas))
            .replace("$instance", &several(&self.instances));
        assert!(!filled.contains('$'), "a variable that is none: {filled}");
        filled
    }

    /// The values of a variable: `label_values(selector, label)`.
    pub(crate) fn values(&self, prometheus: &Prometheus, query: &str) -> Vec<String> {
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = inner.and_then(|pair| pair.rsplit_once(", ")).expect(query);
        let found = prometheus
            .list(&format!("label/{label}/values"), &[("match[]", self.fill(selector).as_str())]);
        let values = found.as_array().into_iter().flatten();
        values.map(|value| value.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Sends one query of a panel.
    pub(crate) fn ask(&self, prometheus: &Prometheus, target: &Value) -> Result<Found, String> {
        match target["datasource"]["type"].as_str() {
            Some("prometheus") => {
                assert_eq!(target["datasource"]["uid"], "${datasource}");
                let query = self.fill(target["expr"].as_str().ok_or("no expr")?);
                let found = match target["instant"] == true {
                    true => Ok(prometheus.query(&query)),
                    false => prometheus.query_range(&query, 60),
                };
                found.map(Found::Series)
            }
            Some("yesoreyeram-infinity-datasource") => {
                assert_eq!(target["datasource"]["uid"], "${ledger}");
                self.rows(target).map(Found::Rows)
            }
            other => Err(format!("{other:?} is no datasource of ours")),
        }
    }

    /// What the Infinity datasource makes of an answer: an object's selected fields, typed.
    fn rows(&self, target: &Value) -> Result<Vec<Map<String, Value>>, String> {
        let text = |value: &Value| self.fill(value.as_str().unwrap_or_default());
        let url = text(&target["url"]);
        let (address, path) = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| format!("{url} is no URL of an ops port"))?;
        let parameters = target["url_options"]["params"].as_array().into_iter().flatten();
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters.map(|one| (text(&one["key"]), text(&one["value"]))))
            .finish();
        let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
        let (head, body) = get(address, &format!("/{path}?{query}"));
        if !head.contains(" 200 ") {
            return Err(format!("{url}?{query}: {head}\n{body}"));
        }
        let rows: Vec<Value> = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let columns = target["columns"].as_array().ok_or("no columns")?;
        rows.iter().map(|row| columns.iter().map(|column| select(row, column)).collect()).collect()
    }
}

fn select(row: &Value, column: &Value) -> Result<(String, Value), String> {
    let selector = column["selector"].as_str().ok_or("no selector")?;
    let found = row.get(selector).ok_or_else(|| format!("{row} has no {selector}"))?;
    let fits = match column["type"].as_str() {
        Some("number") => found.is_u64(),
        Some("string") => found.is_string(),
        Some("timestamp") => {
            found.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())
        }
        _ => false,
    };
    let name = column["text"].as_str().ok_or("no text")?;
    match fits {
        true => Ok((name.to_owned(), found.clone())),
        false => Err(format!("{selector} of {row} is no {}", column["type"])),
    }
}
