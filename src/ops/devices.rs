//! `GET /devices?instance=&after=&limit=`: the sessions of an instance, a page at a time.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};

use super::page::plain;
use super::{JSON, TEXT, text};
use crate::message::InstanceId;

/// Devices of a page, about 250 bytes each; also what a page has without a limit.
pub const PAGE_DEVICES_MAX: usize = 1_000;

/// Which devices are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceQuery {
    /// Of this instance.
    pub instance: InstanceId,
    /// Behind this client id.
    pub after: Option<String>,
    /// At most so many; 1 to [`PAGE_DEVICES_MAX`].
    pub devices_max: usize,
}

/// Who knows the devices.
#[async_trait]
pub trait Devices: Send + Sync + 'static {
    /// A page as a JSON object; none if there is no such instance.
    async fn page(&self, query: &DeviceQuery) -> Option<String>;
}

/// Where the devices are shown once there is a broker: the port is open before.
#[derive(Clone, Default)]
pub struct DeviceBoard(Arc<OnceLock<Arc<dyn Devices>>>);

impl DeviceBoard {
    /// Shows these from now on; only the first call does.
    pub fn show(&self, devices: Arc<dyn Devices>) {
        let _ = self.0.set(devices);
    }

    pub(super) async fn answer(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let query = match parse(query.unwrap_or_default()) {
            Ok(query) => query,
            Err(said) => return text(400, TEXT, format!("{said}\n")),
        };
        let Some(devices) = self.0.get() else {
            return text(503, TEXT, "no broker of weir's own is up\n");
        };
        match devices.page(&query).await {
            Some(page) => text(200, JSON, page),
            None => text(404, TEXT, format!("{}: no such instance\n", query.instance)),
        }
    }
}

fn parse(query: &str) -> Result<DeviceQuery, String> {
    let [mut instance, mut after, mut limit] = [const { None }; 3];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match &*name {
            "instance" => &mut instance,
            "after" => &mut after,
            "limit" => &mut limit,
            other => return Err(format!("{other}: there are instance, after and limit")),
        };
        if place.replace(value.into_owned()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    let instance = instance.ok_or("name an instance: /devices?instance=ID")?;
    let instance = InstanceId::parse(&instance)
        .map_err(|_| format!("instance is {instance:?}: it is letters, digits and hyphens"))?;
    let devices_max = match limit {
        None => PAGE_DEVICES_MAX,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE_DEVICES_MAX).contains(limit))
            .ok_or_else(|| format!("limit is {limit:?}: it is 1 to {PAGE_DEVICES_MAX}"))?,
    };
    Ok(DeviceQuery { instance, after, devices_max })
}

/// The parameters, for OpenAPI.
pub(super) fn parameters() -> Vec<Value> {
    let parameter = |name: &str, required: bool, description: &str, schema: Value| {
        json!({
            "name": name, "in": "query", "required": required, "description": description,
            "schema": schema,
        })
    };
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": PAGE_DEVICES_MAX });
    let text = json!({ "type": "string" });
    vec![
        parameter("instance", true, "Whose devices.", text.clone()),
        parameter("after", false, "Begin behind this client id: `next` of a page.", text),
        parameter("limit", false, "Devices of a page; 1,000 without it.", limit),
    ]
}

/// The answers, for OpenAPI.
pub(super) fn responses() -> Value {
    let text = json!({ "type": "string" });
    let perhaps = json!({ "type": ["string", "null"] });
    let device = json!({
        "type": "object",
        "properties": {
            "client_id": text,
            "state": { "type": "string", "enum": ["connected", "stored"] },
            "since": perhaps,
            "queued": { "type": "integer", "minimum": 0 },
            "protocol": { "type": "string", "enum": ["3.1", "3.1.1", "5"] },
            "link": perhaps,
            "address": perhaps,
        },
    });
    let page = json!({
        "type": "object",
        "properties": {
            "instance_id": text,
            "connected": { "type": "integer", "minimum": 0 },
            "stored": { "type": "integer", "minimum": 0 },
            "devices": { "type": "array", "items": device, "maxItems": PAGE_DEVICES_MAX },
            "next": perhaps,
        },
    });
    json!({
        "200": {
            "description": "A page, in the order of the client ids; `next` is null on the last.",
            "content": { "application/json": { "schema": page } },
        },
        "400": plain("A parameter is unknown, given twice, missing, or not what it should be."),
        "404": plain("There is no such instance."),
        "503": plain("No broker of weir's own is up yet, or there is none."),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    #[async_trait]
    impl Devices for Known {
        async fn page(&self, query: &DeviceQuery) -> Option<String> {
            (query.instance.as_str() == "post-cn-a").then(|| "{}".to_owned())
        }
    }

    #[test]
    fn a_query_is_an_instance_and_a_page_or_says_why_not() {
        let query = parse("instance=post-cn-a&after=GID_x%40%40%401&limit=7").unwrap();
        assert_eq!(query.after.as_deref(), Some("GID_x@@@1"));
        assert_eq!((query.instance.as_str(), query.devices_max), ("post-cn-a", 7));
        assert_eq!(parse("instance=post-cn-a").unwrap().devices_max, PAGE_DEVICES_MAX);
        for (query, said) in [
            ("", "name an instance"),
            ("instance=a%2Fb", "letters, digits"),
            ("instance=post-cn-a&limit=0", "it is 1 to 1000"),
            ("instance=post-cn-a&limit=1001", "it is 1 to 1000"),
            ("instance=post-cn-a&limit=many", "it is 1 to 1000"),
            ("instance=a&instance=b", "instance is given twice"),
            ("instance=a&offset=5", "offset: there are"),
        ] {
            let error = parse(query).unwrap_err();
            assert!(error.contains(said), "{query}: {error}");
        }
    }

    #[tokio::test]
    async fn each_outcome_has_its_status() {
        let board = DeviceBoard::default();
        let status = async |query| board.answer(Some(query)).await.status().as_u16();
        assert_eq!(status("instance=post-cn-a").await, 503);
        board.show(Arc::new(Known));
        assert_eq!(status("instance=post-cn-a").await, 200);
        assert_eq!(status("instance=post-cn-b").await, 404);
        assert_eq!(status("limit=5").await, 400);
    }
}
