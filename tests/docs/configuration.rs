//! `docs/configuration.md` from the reference that the parser is held against.

use std::fmt::Write;

use weir::config::{Key, REFERENCE, Section};

const HEAD: &str = "\
# Configuration

Generated from the code (`make docs`): the parser is asked which keys there are, and each default
and bound below is held against it by a test. `man weir.toml` says the same.

`weir --config weir.toml` reads one TOML file; no file is looked for, and without `--config` weir
runs a demo. `weir check --config weir.toml` checks a file, binds nothing, and exits 78 with one
line that names the key and the fix if it is not good. A key that weir does not know is refused. All
of it is read at the start: to change it, restart.

A duration is written `\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"72h\"` or `\"30d\"`; a size
`\"64 MiB\"` or `\"1 GB\"` (1 MiB is 1,048,576 bytes, 1 GB is 1,000,000,000); an address
`\"127.0.0.1:8080\"` or `\"[::1]:8080\"`. A bound is part of what is allowed.

";

const WHOLE: &str = "\
## The whole file

Every key with its default, and one account with one instance. Only `[[accounts]]`, `[[instances]]`
and what is required in them have to be there.

";

/// Tables that change what weir does by being there.
const LEFT_OUT: [&str; 4] = ["http.tls", "ops.tls", "delivery.embedded.tls", "delivery.mqtt"];
/// Keys that are refused beside another's default.
const COMMENTED: [&str; 2] = ["access_sample", "access_bytes_max"];

/// The page.
pub(crate) fn page() -> String {
    let mut text = format!("{HEAD}{WHOLE}```toml\n{}```\n", whole_file());
    for section in REFERENCE {
        let Section { path, text: about, keys } = section;
        let title = match path.strip_suffix("[]") {
            _ if path.is_empty() => "The top".to_owned(),
            Some(array) => format!("`[[{}]]`", array.replace("[]", "")),
            None => format!("`[{path}]`"),
        };
        let _ = write!(text, "\n## {title}\n\n{about}\n\n");
        let _ = writeln!(text, "| key | value | default | bounds | meaning |");
        let _ = writeln!(text, "|---|---|---|---|---|");
        for key in *keys {
            let _ = writeln!(text, "{}", row(key));
        }
    }
    text
}

fn row(key: &Key) -> String {
    let code = |value: &str| format!("`{value}`");
    let bounds = key.bounds.map(|(least, most)| format!("{} to {}", code(least), code(most)));
    let cells = [
        Some(code(key.name)),
        Some(key.kind.to_owned()),
        key.default.map(code),
        bounds,
        Some(key.text.to_owned()),
    ];
    let cells = cells.map(|cell| cell.map_or(" ".to_owned(), |cell| format!(" {cell} ")));
    format!("|{}|", cells.join("|").replace("'|'", "'\\|'").replace("Device|{", "Device\\|{"))
}

/// A file with every default, and one tenant.
pub(crate) fn whole_file() -> String {
    let mut text = String::new();
    for section in REFERENCE.iter().filter(|section| !section.path.contains("[]")) {
        let keys = section.keys.iter().filter_map(|key| Some((key.name, key.default?)));
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() || LEFT_OUT.contains(&section.path) {
            continue;
        }
        if !section.path.is_empty() {
            let _ = write!(text, "\n[{}]\n", section.path);
        }
        for (name, default) in keys {
            let mark = if COMMENTED.contains(&name) { "# " } else { "" };
            let _ = writeln!(text, "{mark}{name} = {default}");
        }
    }
    text + TENANT
}

const TENANT: &str = r#"
[[accounts]]
id = "1000000000000001"

[[accounts.access_keys]]
id = "LTAI5tExample"
secret_file = "key.secret"

[[instances]]
id = "post-cn-example01"
account = "1000000000000001"
topics = ["TopicA"]
qps = 1000
burst = 100
payload = "base64"

[[instances.devices]]
name = "lamp"
password_file = "lamp.password"
"#;
