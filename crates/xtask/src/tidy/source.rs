//! A Rust source file cut into code and comments, line by line, with the test code marked.
//!
//! Owns: just enough of Rust's lexical rules: comments, strings, characters, `#[cfg(test)]` items.
//! Does not: parse expressions or types.
//! Invariants: `code`, `comment` and `raw` of a file have the same number of lines; in `code` the content of
//! strings and comments is blanked, so that a pattern found there is code.

use std::collections::BTreeSet;

use super::TextFile;

/// One line of a source file.
#[derive(Debug, Default)]
pub struct Line {
    /// The line as written.
    pub raw: String,
    /// The line without comments and without the content of strings.
    pub code: String,
    /// The comments of the line.
    pub comment: String,
    /// It belongs to code that is compiled for tests only.
    pub test: bool,
}

/// A source file.
#[derive(Debug)]
pub struct Source {
    /// Path relative to the root, with `/`.
    pub path: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

impl Source {
    /// Cuts up one file; whether the file as a whole is a test is decided by [`read`].
    pub fn new(path: &str, text: &str) -> Self {
        let mut source = Self { path: path.to_string(), lines: cut(text) };
        let code: Vec<char> = source.code_text().chars().collect();
        for (first, last) in test_items(&code) {
            for line in source.lines.iter_mut().take(last + 1).skip(first) {
                line.test = true;
            }
        }
        source
    }

    /// The code of the whole file, without comments and strings.
    pub fn code_text(&self) -> String {
        self.lines.iter().map(|line| line.code.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Name of the crate's folder, if the file is in one.
    pub fn crate_folder(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// Lines with their number from 1, without test code.
    pub fn production_lines(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.numbered_lines().filter(|(_, line)| !line.test)
    }

    /// Lines with their number from 1.
    pub fn numbered_lines(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Paths of the files that `#[cfg(test)] mod name;` in this file declares.
    fn test_modules(&self) -> Vec<String> {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let stem = file.trim_end_matches(".rs");
        let base = if matches!(stem, "lib" | "main" | "mod") {
            folder.to_string()
        } else {
            format!("{folder}/{stem}")
        };
        let mut modules = Vec::new();
        for line in self.lines.iter().filter(|line| line.test) {
            let words: Vec<&str> = line.code.split_whitespace().collect();
            if let Some(position) = words.iter().position(|word| *word == "mod")
                && let Some(name) = words.get(position + 1).and_then(|name| name.strip_suffix(';'))
            {
                modules.push(format!("{base}/{name}"));
            }
        }
        modules
    }
}

/// Cuts up all files and marks those as tests that are compiled for tests only.
pub fn read(files: &[TextFile]) -> Vec<Source> {
    let mut sources: Vec<Source> = files.iter().map(|file| Source::new(&file.path, &file.text)).collect();
    let modules: BTreeSet<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        if is_test_file(&source.path, &modules) {
            for line in &mut source.lines {
                line.test = true;
            }
        }
    }
    sources
}

fn is_test_file(path: &str, test_modules: &BTreeSet<String>) -> bool {
    let in_test_folder = path.starts_with("crates/tests/")
        || ["/tests/", "/benches/"]
            .iter()
            .any(|part| path.split_once("/src/").map_or(path, |(a, _)| a).contains(part));
    in_test_folder
        || test_modules.iter().any(|module| {
            path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
}

/// Where the lexer stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Code,
    LineComment,
    /// Depth of nesting.
    BlockComment(u32),
    Text,
    /// Number of `#` that close the raw string.
    RawText(usize),
}

/// Cuts a text into lines of code and comment.
fn cut(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut lines = Vec::new();
    let mut line = Line::default();
    let mut place = Place::Code;
    let mut index = 0;
    while index < chars.len() {
        let (here, next) = (at(index), at(index + 1));
        if here == '\n' {
            if place == Place::LineComment {
                place = Place::Code;
            }
            lines.push(std::mem::take(&mut line));
            index += 1;
            continue;
        }
        let start = index;
        index += 1;
        match place {
            Place::Code => match (here, next) {
                ('/', '/') => place = Place::LineComment,
                ('/', '*') => {
                    place = Place::BlockComment(1);
                    index += 1;
                }
                ('"', _) => {
                    place = Place::Text;
                    line.code.push('"');
                }
                ('r', '"' | '#')
                    if !is_word(at(start.wrapping_sub(1))) || at(start.wrapping_sub(1)) == 'b' =>
                {
                    let hashes = chars.iter().skip(index).take_while(|c| **c == '#').count();
                    if at(index + hashes) == '"' {
                        place = Place::RawText(hashes);
                        index += hashes + 1;
                    }
                    line.code.push('r');
                }
                ('\'', _) => {
                    index = end_of_character(&chars, start);
                    line.code.push('\'');
                }
                _ => line.code.push(here),
            },
            Place::LineComment => {}
            Place::BlockComment(depth) => match (here, next) {
                ('*', '/') => {
                    index += 1;
                    place = if depth == 1 { Place::Code } else { Place::BlockComment(depth - 1) };
                }
                ('/', '*') => {
                    index += 1;
                    place = Place::BlockComment(depth + 1);
                }
                _ => {}
            },
            Place::Text => match here {
                '\\' if next != '\n' => index += 1,
                '"' => {
                    place = Place::Code;
                    line.code.push('"');
                }
                _ => {}
            },
            Place::RawText(hashes) => {
                if here == '"' && (0..hashes).all(|offset| at(index + offset) == '#') {
                    index += hashes;
                    place = Place::Code;
                }
            }
        }
        let consumed: String = chars.iter().skip(start).take(index - start).collect();
        if matches!(place, Place::LineComment | Place::BlockComment(_)) {
            line.comment.push_str(&consumed);
        }
        line.raw.push_str(&consumed);
    }
    if !line.raw.is_empty() {
        lines.push(line);
    }
    lines
}

/// Index behind a character literal that starts at `start`, or behind the `'` of a lifetime.
fn end_of_character(chars: &[char], start: usize) -> usize {
    let at = |offset: usize| chars.get(start + offset).copied().unwrap_or('\0');
    if at(1) == '\\' {
        // The escaped character itself may be a quote.
        let close = (3..14).find(|offset| at(*offset) == '\'');
        return start + close.map_or(1, |offset| offset + 1);
    }
    if at(2) == '\'' { start + 3 } else { start + 1 }
}

/// Part of an identifier.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// First and last line index of every item behind a test attribute.
fn test_items(code: &[char]) -> Vec<(usize, usize)> {
    let text: String = code.iter().collect();
    let mut items = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(any(test", "#[cfg(all(test", "#[test]", "#[tokio::test"] {
        for (byte, _) in text.match_indices(attribute) {
            let start = text.get(..byte).map_or(0, |before| before.chars().count());
            let end = end_of_item(code, start);
            let line_of = |index: usize| code.iter().take(index).filter(|c| **c == '\n').count();
            items.push((line_of(start), line_of(end)));
        }
    }
    items
}

/// Index of the last character of the item whose first attribute starts at `start`.
fn end_of_item(code: &[char], start: usize) -> usize {
    let mut index = start;
    // Attributes: `#[…]`, one after the other.
    while code.get(index) == Some(&'#') {
        index = closing(code, index + 1) + 1;
        while code.get(index).is_some_and(|c| c.is_whitespace()) {
            index += 1;
        }
    }
    while let Some(c) = code.get(index) {
        match c {
            ';' => return index,
            '{' => return closing(code, index),
            '(' | '[' => index = closing(code, index) + 1,
            _ => index += 1,
        }
    }
    code.len().saturating_sub(1)
}

/// Index of the bracket that closes the one at `open`.
fn closing(code: &[char], open: usize) -> usize {
    let mut depth = 0usize;
    for (index, c) in code.iter().enumerate().skip(open) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index;
                }
            }
            _ => {}
        }
    }
    code.len().saturating_sub(1)
}
