//! Arguments -> one subcommand -> exit code.

fn main() {}
