//! What the port has, and how OpenAPI describes it.

use serde_json::{Map, Value, json};

use super::{devices, usage};

/// A page of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Metrics,
    Healthz,
    Readyz,
    Usage,
    Devices,
    Openapi,
}

impl Page {
    pub(super) const ALL: [Self; 6] =
        [Self::Metrics, Self::Healthz, Self::Readyz, Self::Usage, Self::Devices, Self::Openapi];

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Usage => "/usage",
            Self::Devices => "/devices",
            Self::Openapi => "/openapi.json",
        }
    }

    pub(super) fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.path() == path)
    }

    /// Whether it is shown to whoever asks: probes have no token.
    pub(super) const fn is_probe(self) -> bool {
        matches!(self, Self::Healthz | Self::Readyz)
    }

    fn operation(self) -> Value {
        let (id, summary, mut responses) = match self {
            Self::Metrics => (
                "metrics",
                "Every metric family, in Prometheus' text format",
                json!({ "200": plain("The families; docs/metrics.md describes them.") }),
            ),
            Self::Healthz => {
                ("healthz", "Whether the process answers", json!({ "200": plain("It does.") }))
            }
            Self::Readyz => (
                "readyz",
                "Whether calls should be sent here",
                json!({
                    "200": plain("`ready`: calls are taken."),
                    "503": plain("`recovering`, `draining`, `poisoned` or `stalled`."),
                }),
            ),
            Self::Usage => ("usage", "What was billed", usage::responses()),
            Self::Devices => {
                ("devices", "The sessions of an instance's devices", devices::responses())
            }
            Self::Openapi => (
                "openapi",
                "This description",
                json!({ "200": {
                    "description": "OpenAPI 3.1.",
                    "content": { "application/json": { "schema": { "type": "object" } } },
                } }),
            ),
        };
        let parameters = match self {
            Self::Usage => usage::parameters(),
            Self::Devices => devices::parameters(),
            _ => vec![],
        };
        let mut operation = json!({
            "operationId": id,
            "summary": summary,
            "tags": ["ops port"],
            "parameters": parameters,
        });
        if !self.is_probe() {
            responses["401"] = plain("There is an ops.token, and it was not shown.");
            operation["security"] = json!([{}, { "bearer": [] }]);
        }
        operation["responses"] = responses;
        operation
    }
}

/// The paths of the port.
#[must_use]
pub fn paths() -> Value {
    let path = |page: Page| (page.path().to_owned(), json!({ "get": page.operation() }));
    Value::Object(Page::ALL.into_iter().map(path).collect::<Map<_, _>>())
}

/// How a caller shows `ops.token`.
#[must_use]
pub fn security() -> Value {
    json!({
        "type": "http", "scheme": "bearer",
        "description": "ops.token, where there is one: any address but this machine's has to have.",
    })
}

/// An answer in plain text.
pub(super) fn plain(description: &str) -> Value {
    let content = json!({ "text/plain": { "schema": { "type": "string" } } });
    json!({ "description": description, "content": content })
}
