//! Tells the crate which commit it is built from, for `--version` and `weir_build_info`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=WEIR_COMMIT");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
    let given = std::env::var("WEIR_COMMIT").ok();
    let commit = given.or_else(git_commit).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=WEIR_COMMIT={commit}");
}

fn git_commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
