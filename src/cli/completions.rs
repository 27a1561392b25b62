use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Arguments, say};

pub(super) const LONG_ABOUT: &str = "\
Write what a shell needs to complete commands, options and their values to standard output. Where
it belongs is the shell's affair; the places below are those of Debian's packages.";

const AFTER_HELP: &str = "\
Examples:
  weir completions bash > /usr/share/bash-completion/completions/weir
  weir completions zsh > /usr/share/zsh/vendor-completions/_weir
  weir completions fish > /usr/share/fish/vendor_completions.d/weir.fish
  source <(weir completions bash)                      for this shell only

Exit codes:
  0   done
  2   usage: another shell";

/// What `weir completions` takes.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Writes the completions of a shell.
pub(super) fn run(arguments: &CompletionsArguments) {
    let mut script = vec![];
    generate(arguments.shell, &mut Arguments::command(), "weir", &mut script);
    say(&String::from_utf8_lossy(&script));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_completes_every_command() {
        let commands = Arguments::command();
        for shell in Shell::value_variants() {
            let mut script = vec![];
            generate(*shell, &mut commands.clone(), "weir", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in commands.get_subcommands().filter(|it| !it.is_hide_set()) {
                assert!(script.contains(command.get_name()), "{shell} {}", command.get_name());
            }
        }
    }
}
