use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::config::{Key, REFERENCE, Section};

use super::{Arguments, Failure, VERSION};

const MANUAL: &str = "weir";

/// What `weir man` takes.
#[derive(clap::Args)]
pub(super) struct ManArguments {
    /// The folder to write to; it is made if it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes a page a command, and one for the configuration file.
pub(super) fn run(arguments: &ManArguments) -> Result<(), Failure> {
    let out = &arguments.out;
    let failed = |error| Failure::because(&out.display().to_string(), error);
    fs::create_dir_all(out).map_err(failed)?;
    write_all(out).map_err(failed)
}

fn write_all(out: &Path) -> io::Result<()> {
    let mut weir = Arguments::command().disable_help_subcommand(true);
    weir.build();
    let mut left = vec![weir];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|it| !it.is_hide_set()).cloned());
        let man = Man::new(command.clone()).source(format!("weir {VERSION}")).manual(MANUAL);
        fs::write(out.join(man.get_filename()), page(&man, &command)?)?;
    }
    fs::write(out.join("weir.toml.5"), file_page().render())
}

fn page(man: &Man, command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = vec![];
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    if let Some(text) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        sections(&mut rest, &text.to_string());
    }
    rest.control("SH", ["SEE ALSO"]);
    let pages = command.get_subcommands().filter(|it| !it.is_hide_set());
    let pages = pages.filter_map(|it| it.get_display_name());
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let above = name.rsplit_once('-').map(|(above, _)| above);
    for page in above.into_iter().chain(pages) {
        rest.text([bold(page), roman("(1),")]);
    }
    rest.text([bold("weir.toml"), roman("(5)")]);
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// A section for each heading of a text after `--help`, a line that ends with a colon and has
/// indented ones below; what stands before the first is notes.
fn sections(roff: &mut Roff, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let is_heading = |at: usize| {
        let next = lines.get(at + 1).copied().unwrap_or_default();
        lines[at].ends_with(':') && !lines[at].starts_with(' ') && next.starts_with("  ")
    };
    let (mut titled, mut verbatim) = (false, false);
    for (at, line) in lines.iter().enumerate() {
        if is_heading(at) {
            end(roff, &mut verbatim);
            let title = match line.trim_end_matches(':') {
                "Exit codes" => "EXIT STATUS".to_owned(),
                title => title.to_uppercase(),
            };
            roff.control("SH", [title.as_str()]);
            roff.control("nf", []);
            (titled, verbatim) = (true, true);
        } else if line.is_empty() {
            if !verbatim {
                roff.control("PP", []);
            }
        } else {
            if verbatim && !line.starts_with("  ") {
                end(roff, &mut verbatim);
                roff.control("PP", []);
            }
            if !titled {
                roff.control("SH", ["NOTES"]);
                titled = true;
            }
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
    }
    end(roff, &mut verbatim);
}

fn end(roff: &mut Roff, verbatim: &mut bool) {
    if std::mem::take(verbatim) {
        roff.control("fi", []);
    }
}

fn file_page() -> Roff {
    let mut roff = Roff::new();
    roff.control("TH", ["weir.toml", "5", "", &format!("weir {VERSION}"), MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("weir.toml - configuration of weir")]);
    roff.control("SH", ["DESCRIPTION"]);
    for line in [
        "The TOML file that weir --config names. A key that weir does not know is refused, and \
         everything is read at the start.",
        "A duration is written \"500ms\", \"30s\" or \"72h\"; a size \"64 MiB\" or \"1 GB\"; an \
         address \"127.0.0.1:8080\" or \"[::1]:8080\". A bound is part of what is allowed.",
    ] {
        roff.text([roman(line)]);
        roff.control("PP", []);
    }
    for Section { path, text, keys } in REFERENCE {
        let title = match path.strip_suffix("[]") {
            _ if path.is_empty() => "TOP".to_owned(),
            Some(array) => format!("[[{}]]", array.replace("[]", "")),
            None => format!("[{path}]"),
        };
        roff.control("SH", [title.as_str()]);
        roff.text([roman(*text)]);
        for key in *keys {
            key_entry(&mut roff, key);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("weir"), roman("(1),")]);
    roff.text([bold("weir-check"), roman("(1)")]);
    roff
}

fn key_entry(roff: &mut Roff, key: &Key) {
    let Key { name, kind, default, bounds, text, .. } = key;
    roff.control("TP", []);
    let mut head = vec![bold(*name), roman(" = "), italic(*kind)];
    let bounds = bounds.map(|(least, most)| format!("{least} to {most}"));
    let default = default.map(|default| format!("default {default}"));
    let both: Vec<String> = default.into_iter().chain(bounds).collect();
    if !both.is_empty() {
        head.push(roman(format!(" ({})", both.join(", "))));
    }
    roff.text(head);
    roff.text([roman(*text)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(command: &clap::Command, found: &mut Vec<String>) {
        found.push(command.get_display_name().unwrap_or("weir").to_owned());
        for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            commands(below, found);
        }
    }

    /// The lines of a section.
    fn section<'p>(page: &'p str, title: &str) -> Vec<&'p str> {
        let lines = page.lines().skip_while(|line| *line != format!(".SH {title}")).skip(1);
        lines.take_while(|line| !line.starts_with(".SH")).collect()
    }

    #[test]
    fn every_command_has_a_page_that_says_what_it_does_and_how_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path()).unwrap();
        let mut weir = Arguments::command().disable_help_subcommand(true);
        weir.build();
        let mut names = vec![];
        commands(&weir, &mut names);
        assert!(names.contains(&"weir-usage-verify".to_owned()), "{names:?}");
        for name in &names {
            let page = fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
            let words = section(&page, "DESCRIPTION").join(" ").split(' ').count();
            assert!(words > 5, "{name}(1) says what it does:\n{page}");
            for title in ["NAME", "SYNOPSIS", "OPTIONS", "\"EXIT STATUS\"", "EXAMPLES"] {
                assert!(!section(&page, title).is_empty(), "{name}(1) has {title}:\n{page}");
            }
        }
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, names.len() + 1, "and no page besides them and weir.toml(5)");
    }

    #[test]
    fn the_page_of_the_file_explains_every_key() {
        let page = file_page().render();
        for section in REFERENCE {
            for Key { name, text, .. } in section.keys {
                let heading = page.find(&format!("\\fB{name}\\fR = ")).expect("the key is there");
                let first = text.split(['\'', '-', '"', '.']).next().unwrap_or_default();
                assert!(page[heading..].contains(first), "{name} is explained");
            }
        }
    }

    #[test]
    fn a_line_with_a_colon_and_indented_ones_below_it_is_a_heading() {
        let mut roff = Roff::new();
        sections(&mut roff, "Before: it\n\nExamples:\n  weir .x\n\nExit codes:\n  0   done\nafter");
        let page = roff.render();
        let expected = ".SH NOTES\nBefore: it\n.PP\n.SH EXAMPLES\n.nf\nweir .x\n.fi\n\
            .SH \"EXIT STATUS\"\n.nf\n0   done\n.fi\n.PP\nafter\n";
        assert!(page.ends_with(expected), "{page}");
    }
}
