use serde::Serialize;

use super::request_id::RequestId;
use super::response::Asked;
use crate::message::MessageId;

const XML_HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";

/// How an answer's body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// V3, unsigned calls, and V1 with `Format=JSON`.
    Json,
    /// V1 with `Format=XML`, or none.
    Xml,
}

/// The error body, member for member.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorBody<'c> {
    request_id: &'c str,
    host_id: &'c str,
    code: &'c str,
    message: &'c str,
    recommend: &'c str,
}

/// `MsgId` and `RequestId`, and never a `Code`: pop-core takes any for an error.
pub(super) fn success(format: Format, message_id: MessageId, request_id: RequestId) -> Vec<u8> {
    let mut digits = uuid::Uuid::encode_buffer();
    let simple = uuid::Uuid::from_u128(message_id.to_u128()).simple();
    let message_id = simple.encode_upper(&mut digits).as_bytes();
    let request_id = request_id.as_bytes();
    let parts: [&[u8]; 5] = match format {
        Format::Json => [b"{\"MsgId\":\"", message_id, b"\",\"RequestId\":\"", request_id, b"\"}"],
        Format::Xml => [
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><SendMessageResponse><MsgId>",
            message_id,
            b"</MsgId><RequestId>",
            request_id,
            b"</RequestId></SendMessageResponse>",
        ],
    };
    let mut body = Vec::with_capacity(192);
    parts.iter().for_each(|part| body.extend_from_slice(part));
    body
}

/// The body of a refusal.
pub(super) fn error(asked: &Asked<'_>, code: &str, message: &str) -> Vec<u8> {
    let request_id = asked.request_id.to_string();
    let recommend = format!(
        "https://api.aliyun.com/troubleshoot?q={code}&product=OnsMqtt&requestId={request_id}"
    );
    let error = ErrorBody {
        request_id: &request_id,
        host_id: asked.host,
        code,
        message,
        recommend: &recommend,
    };
    match asked.format {
        // Five strings are always JSON.
        Format::Json => serde_json::to_vec(&error).unwrap_or_default(),
        Format::Xml => xml(&error),
    }
}

fn xml(error: &ErrorBody<'_>) -> Vec<u8> {
    let members = [
        ("RequestId", error.request_id),
        ("HostId", error.host_id),
        ("Code", error.code),
        ("Message", error.message),
        ("Recommend", error.recommend),
    ];
    let mut text = format!("{XML_HEAD}<Error>");
    for (name, value) in members {
        text.push_str(&format!("<{name}>"));
        escape_into(&mut text, value);
        text.push_str(&format!("</{name}>"));
    }
    text.push_str("</Error>");
    text.into_bytes()
}

/// Character data of XML 1.0, section 2.4; what section 2.2 forbids altogether becomes U+FFFD.
fn escape_into(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(character),
            '\0'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => out.push('\u{FFFD}'),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request_id::RequestIds;
    use proptest::prelude::*;

    #[test]
    fn a_success_is_pinned_in_both_formats() {
        let (message, request) = (MessageId::from_u128(0xAB), RequestIds::new(0).next());
        let written = |format| String::from_utf8(success(format, message, request)).unwrap();
        assert_eq!(
            written(Format::Json),
            "{\"MsgId\":\"000000000000000000000000000000AB\",\
             \"RequestId\":\"00000000-0000-5000-8000-000000000000\"}"
        );
        assert_eq!(
            written(Format::Xml),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><SendMessageResponse>\
             <MsgId>000000000000000000000000000000AB</MsgId>\
             <RequestId>00000000-0000-5000-8000-000000000000</RequestId></SendMessageResponse>"
        );
    }

    proptest! {
        #[test]
        fn no_message_breaks_out_of_its_element(text in "[\\x00-\\x7f<>&é]{0,60}") {
            let asked = Asked {
                request_id: RequestIds::new(0).next(),
                host: &text,
                format: Format::Xml,
                quota: None,
            };
            let body = String::from_utf8(error(&asked, "Code", &text)).unwrap();
            prop_assert_eq!(body.matches('<').count(), 1 + 2 + 5 * 2);
            let json = error(&Asked { format: Format::Json, ..asked }, "Code", &text);
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(json["Message"].as_str(), Some(text.as_str()));
        }
    }
}
