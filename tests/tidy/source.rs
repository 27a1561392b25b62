//! Rust sources as flat tokens with their lines.
//!
//! Tokens, because a syntax tree keeps the bodies of macros closed (`select!`, `assert!`), and a
//! rule that a macro hides from is no rule.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// The checkout.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every Rust file of the crate.
pub(crate) static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(read_all);

/// One word, mark, literal or bracket; `::`, `->` and `=>` are one token each.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
    /// Within something that is compiled for tests only.
    pub(crate) in_test: bool,
}

/// A name with its path, groups of a `use` spelled out.
pub(crate) struct Name {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    pub(crate) in_test: bool,
}

/// One Rust file.
pub(crate) struct Source {
    /// From the root of the checkout, such as `src/wire/mod.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    /// The whole file is compiled for tests only.
    pub(crate) only_tests: bool,
}

impl Token {
    fn is_ident(&self) -> bool {
        self.text.starts_with(|first: char| first == '_' || first.is_alphabetic())
    }
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let path = relative(path);
        let stream: TokenStream =
            text.parse().unwrap_or_else(|error| panic!("{path} is no Rust: {error}"));
        let mut tokens = vec![];
        flatten(stream, &mut tokens);
        mark_tests(&mut tokens);
        let only_tests = !path.starts_with("src/") || tokens.iter().all(|token| token.in_test);
        Self { path, text, tokens, only_tests }
    }

    /// `["journal", "open"]` for `src/journal/open.rs`; `["lib"]` for `src/lib.rs`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        path.trim_end_matches("/mod").split('/').collect()
    }

    /// The tokens that are part of the product.
    pub(crate) fn product(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter().filter(|token| !self.only_tests && !token.in_test)
    }

    /// Lines without those that only tests need.
    pub(crate) fn product_lines(&self) -> usize {
        let mut tested: Vec<usize> = vec![];
        for block in self.tokens.chunk_by(|a, b| a.in_test == b.in_test) {
            if let ([first, ..], [.., last]) = (block, block)
                && first.in_test
            {
                tested.extend(first.line..=last.line);
            }
        }
        tested.dedup();
        self.text.lines().count() - tested.len()
    }

    /// Every path of two segments and more.
    pub(crate) fn names(&self) -> Vec<Name> {
        let mut names = vec![];
        let mut at = 0;
        while at < self.tokens.len() {
            at = self.name_at(at, &[], &mut names);
        }
        names.retain(|name| name.segments.len() > 1);
        names
    }

    fn name_at(&self, mut at: usize, prefix: &[String], names: &mut Vec<Name>) -> usize {
        let first = &self.tokens[at];
        if !first.is_ident() {
            return at + 1;
        }
        let mut segments = [prefix, std::slice::from_ref(&first.text)].concat();
        while self.text_at(at + 1) == "::" {
            match self.tokens.get(at + 2) {
                Some(next) if next.is_ident() => segments.push(next.text.clone()),
                Some(next) if next.text == "{" => {
                    return self.group_at(at + 3, &segments, names);
                }
                _ => break,
            }
            at += 2;
        }
        names.push(Name { segments, line: first.line, in_test: first.in_test });
        at + 1
    }

    fn group_at(&self, mut at: usize, prefix: &[String], names: &mut Vec<Name>) -> usize {
        while !matches!(self.text_at(at), "}" | "") {
            // The new name of `old as new` is no path.
            at = if self.text_at(at) == "as" { at + 2 } else { self.name_at(at, prefix, names) };
        }
        at + 1
    }

    fn text_at(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    /// First and last line of every function, with its name.
    pub(crate) fn functions(&self) -> Vec<(&str, usize, usize)> {
        let heads = self.tokens.windows(2).enumerate();
        let heads = heads.filter(|(_, pair)| pair[0].text == "fn" && pair[1].is_ident());
        let lines = heads.filter_map(|(at, pair)| {
            let end = end_of(&self.tokens, at)?;
            let last = &self.tokens[end];
            (last.text == "}").then_some((pair[1].text.as_str(), pair[0].line, last.line))
        });
        lines.collect()
    }

    /// The words of every attribute, `#[doc]` left out.
    pub(crate) fn attributes(&self) -> Vec<&[Token]> {
        let starts = (0..self.tokens.len()).filter(|at| self.text_at(*at) == "#");
        let bodies = starts.filter_map(|at| {
            let open = at + 1 + usize::from(self.text_at(at + 1) == "!");
            (self.text_at(open) == "[").then(|| &self.tokens[open..=closing(&self.tokens, open)])
        });
        bodies.filter(|body| body[1].text != "doc").collect()
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let token = |text: String, line| Token { text, line, in_test: false };
    let mut joint = None;
    for tree in stream {
        let line = tree.span().start().line;
        let before = joint.take();
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(token(open.to_owned(), line));
                flatten(group.stream(), tokens);
                tokens.push(token(close.to_owned(), group.span_close().start().line));
            }
            TokenTree::Punct(mark) => match (before, mark.as_char()) {
                (Some(first @ ':'), second @ ':') | (Some(first @ ('-' | '=')), second @ '>') => {
                    tokens.push(token(format!("{first}{second}"), line));
                }
                (_, first @ (':' | '-' | '=')) if mark.spacing() == Spacing::Joint => {
                    joint = Some(first);
                }
                (_, alone) => tokens.push(token(alone.to_string(), line)),
            },
            TokenTree::Ident(ident) => {
                tokens.push(token(ident.to_string().replace("r#", ""), line));
            }
            TokenTree::Literal(literal) => tokens.push(token(literal.to_string(), line)),
        }
    }
}

/// Marks whatever stands behind `#[cfg(test)]`, or the file behind `#![cfg(test)]`.
fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at < tokens.len() {
        let inner = tokens.get(at + 1).is_some_and(|token| token.text == "!");
        let open = at + 1 + usize::from(inner);
        if tokens[at].text != "#" || tokens.get(open).is_none_or(|token| token.text != "[") {
            at += 1;
            continue;
        }
        let close = closing(tokens, open);
        let has = |word: &str| tokens[open..close].iter().any(|token| token.text == word);
        if tokens[open + 1].text != "cfg" || !has("test") || has("not") {
            at = close + 1;
            continue;
        }
        let end = if inner { None } else { end_of(tokens, close + 1) };
        let end = end.unwrap_or(tokens.len() - 1);
        tokens[at..=end].iter_mut().for_each(|token| token.in_test = true);
        at = end + 1;
    }
}

/// The token at which the item, field, variant, arm or statement ends that begins at `at`.
fn end_of(tokens: &[Token], mut at: usize) -> Option<usize> {
    let mut angles = 0;
    loop {
        match tokens.get(at)?.text.as_str() {
            "(" | "[" => at = closing(tokens, at),
            "{" => return Some(closing(tokens, at)),
            "<" => angles += 1,
            ">" => angles -= 1,
            ";" => return Some(at),
            "," if angles <= 0 => return Some(at),
            "}" | ")" | "]" => return Some(at - 1),
            _ => {}
        }
        at += 1;
    }
}

/// Where the bracket closes that opens at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

fn read_all() -> Vec<Source> {
    let mut paths = vec![Path::new(ROOT).join("build.rs")];
    for folder in ["src", "tests", "benches", "load-tests"] {
        walk(&Path::new(ROOT).join(folder), &mut paths);
    }
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "rs"));
    let mut sources: Vec<_> = paths.iter().map(|path| Source::read(path)).collect();
    let declared: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let in_test = |folder: &String| {
            source.path == format!("{folder}.rs") || source.path.starts_with(&format!("{folder}/"))
        };
        source.only_tests |= declared.iter().any(in_test);
    }
    sources
}

/// The files, without their ending, that `#[cfg(test)] mod name;` of a source brings in.
fn test_modules(source: &Source) -> Vec<String> {
    let path = Path::new(&source.path);
    let is_root = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| path.ends_with(name));
    let folder = if is_root { path.parent().unwrap().into() } else { path.with_extension("") };
    let tested = source.tokens.windows(3).filter(|three| three[0].in_test);
    let declared = tested.filter(|three| three[0].text == "mod" && three[2].text == ";");
    declared.map(|three| folder.join(&three[1].text).display().to_string()).collect()
}

/// Every file below a folder, of ours: what an install brings in is not.
pub(crate) fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut paths: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !path.is_dir() {
            found.push(path);
        } else if !name.starts_with('.') && name != "node_modules" {
            walk(&path, found);
        }
    }
}

/// A path as it is shown: from the root of the checkout.
pub(crate) fn relative(path: &Path) -> String {
    path.strip_prefix(ROOT).unwrap_or(path).display().to_string()
}
