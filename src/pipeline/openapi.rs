//! Both ports in one OpenAPI document.

use serde_json::{Value, json};

use crate::{ops, wire};

const ABOUT: &str = "\
weir takes SendMessage calls of ApsaraMQ for MQTT over HTTP, limits and bills them, and hands the \
messages to MQTT devices. The data port (`http.listen`) takes calls; the ops port (`ops.listen`) \
shows health, metrics and usage.";

const LICENSE: &str = env!("CARGO_PKG_LICENSE");

/// What both ports take and answer, as OpenAPI 3.1.
#[must_use]
pub fn openapi() -> String {
    let mut paths = serde_json::Map::new();
    for (mut of_port, url, description) in [
        (wire::paths(), "http://127.0.0.1:8080", "the data port, http.listen"),
        (ops::paths(), "http://127.0.0.1:8081", "the ops port, ops.listen"),
    ] {
        for (path, item) in of_port.as_object_mut().into_iter().flatten() {
            item["servers"] = json!([{ "url": url, "description": description }]);
            paths.insert(path.clone(), item.take());
        }
    }
    let mut components = wire::components();
    components["securitySchemes"]["bearer"] = ops::security();
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "weir",
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "description": ABOUT,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": LICENSE, "identifier": LICENSE },
        },
        "tags": [{ "name": "data port" }, { "name": "ops port" }],
        "paths": Value::Object(paths),
        "components": components,
    });
    format!("{document:#}\n")
}
