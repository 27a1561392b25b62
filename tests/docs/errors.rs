//! `docs/errors.md` from the OpenAPI document, which has it from the table of answers.

use std::fmt::Write;

use serde_json::Value;

const HEAD: &str = "\
# Errors of the data port

Generated from the code (`make docs`), as [openapi.json](openapi.json) is. Every answer of weir is
JSON, or XML where a V1 call asks for it, with `RequestId`, `HostId`, `Code`, `Message` and
`Recommend`; behind the message below may stand a detail, such as the text that was signed, the
skew of a clock or the offset of a bad byte. `x-acs-request-id` is the RequestId, and the log has
it.

A refused call is not billed and leaves nothing behind. Try again, with a new nonce, what is 408,
429 or 500, after `Retry-After` if there is one; the other calls are wrong and stay so. A
SendMessageFailed may have been stored where its text says that the outcome is unknown.

What is no HTTP at all is answered by the HTTP library: an empty 400 or 431, and the connection
closes.

| status | code | when | message |
|---|---|---|---|
";

/// The page.
pub(crate) fn page(openapi: &str) -> String {
    let document: Value = serde_json::from_str(openapi).expect("it is JSON");
    let answers = document["components"]["responses"].as_object().expect("there are answers");
    let mut text = HEAD.to_owned();
    for (name, answer) in answers {
        let status = name.trim_start_matches("Answer");
        let examples = &answer["content"]["application/json"]["examples"];
        let said = answer["description"].as_str().unwrap_or_default();
        for (code, when) in said.lines().filter_map(entry) {
            let example = &examples[code.replace("{Name}", "")]["value"]["Message"];
            let message = example.as_str().unwrap_or_default();
            let _ = writeln!(text, "| {status} | `{code}` | {when} | {message} |");
        }
    }
    text
}

/// The code and the occasion of a line of a description.
fn entry(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("- `")?.split_once("`: ")
}
