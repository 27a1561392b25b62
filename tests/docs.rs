//! What is written down about the code says what the code says.
//!
//! `make docs` writes the generated pages anew.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "docs/configuration.rs"]
mod configuration;
#[path = "docs/errors.rs"]
mod errors;
#[path = "docs/metrics.rs"]
mod metrics;
#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;

use std::path::{Path, PathBuf};

use support::Weir;

/// Set by `make docs`: pages are written instead of compared.
const WRITE: &str = "WEIR_WRITE_DOCS";

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// Compares a generated page with the committed one, and names the first line that differs.
fn is_up_to_date(name: &str, generated: &str) {
    let path = page(name);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, generated).expect("docs/ can be written");
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if committed == generated {
        return;
    }
    let (mut ours, mut theirs) = (committed.lines(), generated.lines());
    let line = 1
        + (0..)
            .take_while(|_| {
                let (one, other) = (ours.next(), theirs.next());
                one == other && one.is_some()
            })
            .count();
    let shown = |text: &str| text.lines().nth(line - 1).unwrap_or("its end").to_owned();
    panic!(
        "docs/{name} line {line} is\n  {}\nand the code says\n  {}\n`make docs` writes it anew",
        shown(&committed),
        shown(generated),
    );
}

#[test]
fn the_openapi_document_is_what_the_code_says() {
    is_up_to_date("openapi.json", &weir::pipeline::openapi());
}

#[test]
fn the_page_of_errors_lists_every_code() {
    let page = errors::page(&weir::pipeline::openapi());
    for code in weir::wire::CODES.iter().filter(|code| **code != "OK") {
        assert!(page.contains(&format!("`{code}")), "{code} is on the page");
    }
    is_up_to_date("errors.md", &page);
}

#[test]
fn the_page_of_the_configuration_explains_every_key() {
    is_up_to_date("configuration.md", &configuration::page());
}

#[test]
fn the_whole_file_of_the_page_is_one_that_weir_takes() {
    // The two places it takes secrets from are the reader's.
    let file = configuration::whole_file()
        .replace("secret_file = \"key.secret\"", "secret = \"s\"")
        .replace("password_file = \"lamp.password\"", "password = \"p\"");
    weir::config::Config::parse("docs/configuration.md", &file).expect("it is a good file");
}

#[test]
fn the_page_of_metrics_lists_every_family_a_weir_shows() {
    let weir = Weir::start();
    is_up_to_date("metrics.md", &metrics::page(&weir.ops_page("/metrics")));
}
