//! Reads a parsed TOML document key by key, collecting every error with its place.
//!
//! Owns: [`Reader`] (the collected errors of one file) and [`Section`] (one table being read).
//! Does not: know any key. Invariants: a key that nobody asked for is an error; reading never stops at the first error.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::units;

/// Where in the file something stands: a byte range.
pub type Place = Range<usize>;

/// The errors of one file, with what is needed to give them a line and a column.
pub struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    errors: Vec<(usize, ConfigError)>,
}

impl<'a> Reader<'a> {
    /// A reader for this file and its text.
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        Reader { file, text, errors: Vec::new() }
    }

    /// Notes an error at a place.
    pub fn error(&mut self, place: &Place, message: impl Into<String>, hint: impl Into<String>) {
        let (line, column) = self.position(place.start);
        self.errors.push((
            place.start,
            ConfigError {
                file: self.file.to_owned(),
                line,
                column,
                message: message.into(),
                hint: hint.into(),
            },
        ));
    }

    /// All errors, ordered by place.
    pub fn into_errors(mut self) -> Vec<ConfigError> {
        self.errors.sort_by_key(|(offset, _)| *offset);
        self.errors.into_iter().map(|(_, error)| error).collect()
    }

    /// Whether no error was noted.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

/// One table of the file. Ask for each known key, then call [`Section::finish`].
pub struct Section<'t, 'i> {
    name: String,
    place: Place,
    table: Option<&'t DeTable<'i>>,
    asked: BTreeSet<&'static str>,
}

impl<'t, 'i> Section<'t, 'i> {
    /// A section for a table that stands at `place`; `name` is for messages.
    pub fn new(name: impl Into<String>, place: Place, table: Option<&'t DeTable<'i>>) -> Self {
        Section { name: name.into(), place, table, asked: BTreeSet::new() }
    }

    /// Where the table stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether the file has this table.
    pub fn is_present(&self) -> bool {
        self.table.is_some()
    }

    fn value(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.asked.insert(key);
        let table = self.table?;
        table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    /// Where the value of a key stands; the table itself when it is absent.
    pub fn place_of(&self, key: &str) -> Place {
        self.table
            .and_then(|table| table.iter().find(|(name, _)| name.get_ref().as_ref() == key))
            .map_or_else(|| self.place.clone(), |(_, value)| value.span())
    }

    fn wrong_type(&self, reader: &mut Reader<'_>, key: &str, value: &Spanned<DeValue<'i>>, wanted: &str) {
        reader.error(
            &value.span(),
            format!(
                "`{}` is {}, but {wanted} is needed",
                self.full(key),
                article(value.get_ref().type_str())
            ),
            format!("write {key} = {}", example(wanted)),
        );
    }

    /// Name of a key with its table, for messages.
    pub fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// A sub-table; absent ones read as empty.
    pub fn section(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Section<'t, 'i> {
        let name = self.full(key);
        match self.value(key) {
            None => Section::new(name, self.place.clone(), None),
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => Section::new(name, value.span(), Some(table)),
                _ => {
                    self.wrong_type(reader, key, value, "a table");
                    Section::new(name, value.span(), None)
                }
            },
        }
    }

    /// An array of tables; `None` when the key is absent.
    pub fn sections(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Option<Vec<Section<'t, 'i>>> {
        let name = self.full(key);
        let value = self.value(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(reader, key, value, "an array of tables");
            return Some(Vec::new());
        };
        let mut sections = Vec::new();
        for (position, item) in array.iter().enumerate() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Section::new(format!("{name}[{position}]"), item.span(), Some(table)));
                }
                _ => self.wrong_type(reader, key, item, "an array of tables"),
            }
        }
        Some(sections)
    }

    /// A string.
    pub fn string(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => {
                self.wrong_type(reader, key, value, "a string");
                None
            }
        }
    }

    /// A string if it is one, without counting the key as asked for.
    pub fn peek_string(&self, key: &str) -> Option<&'t str> {
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// An array of strings, each with its place.
    pub fn strings(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Option<Vec<(String, Place)>> {
        let value = self.value(key)?;
        let wanted = "an array of strings";
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(reader, key, value, wanted);
            return None;
        };
        let mut texts = Vec::new();
        for item in array.iter() {
            match item.get_ref() {
                DeValue::String(text) => texts.push((text.to_string(), item.span())),
                _ => self.wrong_type(reader, key, item, wanted),
            }
        }
        Some(texts)
    }

    /// A boolean.
    pub fn boolean(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                self.wrong_type(reader, key, value, "true or false");
                None
            }
        }
    }

    /// A whole number within bounds, both included.
    pub fn number(&mut self, reader: &mut Reader<'_>, key: &'static str, min: u64, max: u64) -> Option<u64> {
        let value = self.value(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(reader, key, value, "a whole number");
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX);
        if number < i128::from(min) || number > i128::from(max) {
            let full = self.full(key);
            reader.error(
                &value.span(),
                format!("`{full}` is {number}, outside {min} to {max}"),
                format!("choose a number from {min} to {max}"),
            );
            return None;
        }
        u64::try_from(number).ok()
    }

    /// A share, from 0 to 1.
    pub fn fraction(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Option<f64> {
        let value = self.value(key)?;
        let number: f64 = match value.get_ref() {
            DeValue::Integer(integer) => integer.as_str().parse().unwrap_or(f64::NAN),
            DeValue::Float(float) => float.as_str().parse().unwrap_or(f64::NAN),
            _ => {
                self.wrong_type(reader, key, value, "a number from 0 to 1");
                return None;
            }
        };
        if !(0.0..=1.0).contains(&number) {
            let full = self.full(key);
            reader.error(&value.span(), format!("`{full}` is outside 0 to 1"), "choose a number from 0 to 1");
            return None;
        }
        Some(number)
    }

    /// Bytes with a unit, within bounds.
    pub fn bytes(&mut self, reader: &mut Reader<'_>, key: &'static str, min: u64, max: u64) -> Option<u64> {
        let value = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::String(text) => match units::bytes(text) {
                Ok(number) => number,
                Err(error) => {
                    let full = self.full(key);
                    reader.error(
                        &value.span(),
                        format!("`{full}`: {error}"),
                        "write bytes like \"64KiB\" or \"2MiB\"",
                    );
                    return None;
                }
            },
            _ => {
                self.wrong_type(reader, key, value, "a size with a unit");
                return None;
            }
        };
        if number < min || number > max {
            let full = self.full(key);
            reader.error(
                &value.span(),
                format!("`{full}` is {number} bytes, outside {min} to {max}"),
                format!("choose a size from {min}B to {max}B"),
            );
            return None;
        }
        Some(number)
    }

    /// A duration with a unit, within bounds.
    pub fn duration(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        min: Duration,
        max: Duration,
    ) -> Option<Duration> {
        let value = self.value(key)?;
        let duration = match value.get_ref() {
            DeValue::String(text) => match units::duration(text) {
                Ok(duration) => duration,
                Err(error) => {
                    let full = self.full(key);
                    reader.error(
                        &value.span(),
                        format!("`{full}`: {error}"),
                        "write durations like \"500ms\", \"30s\" or \"7d\"",
                    );
                    return None;
                }
            },
            _ => {
                self.wrong_type(reader, key, value, "a duration with a unit");
                return None;
            }
        };
        if duration < min || duration > max {
            let full = self.full(key);
            reader.error(
                &value.span(),
                format!("`{full}` is {duration:?}, outside {min:?} to {max:?}"),
                format!("choose a duration from {min:?} to {max:?}"),
            );
            return None;
        }
        Some(duration)
    }

    /// One word out of a list.
    pub fn choice<T: Copy>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let place = self.place_of(key);
        let text = self.string(reader, key)?;
        if let Some((_, chosen)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*chosen);
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let full = self.full(key);
        reader.error(
            &place,
            format!("`{full}` is \"{text}\""),
            format!("choose one of {}", names.join(", ")),
        );
        None
    }

    /// A path, taken from `base` when relative.
    pub fn path(&mut self, reader: &mut Reader<'_>, key: &'static str, base: &Path) -> Option<PathBuf> {
        let place = self.place_of(key);
        let text = self.string(reader, key)?;
        if text.is_empty() {
            let full = self.full(key);
            reader.error(&place, format!("`{full}` is empty"), "name a file or folder");
            return None;
        }
        Some(base.join(text))
    }

    /// Notes that a key is missing.
    pub fn missing(&self, reader: &mut Reader<'_>, key: &str, hint: &str) {
        reader.error(&self.place, format!("`{}` is missing", self.full(key)), hint);
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, reader: &mut Reader<'_>) {
        let Some(table) = self.table else { return };
        for (key, _) in table.iter() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(name) {
                continue;
            }
            let known: Vec<&str> = self.asked.iter().copied().collect();
            let hint = match closest(name, &known) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            let full = self.full(name);
            reader.error(&key.span(), format!("`{full}` is not a known key"), hint);
        }
    }
}

fn article(type_name: &str) -> String {
    match type_name.chars().next() {
        Some('a' | 'e' | 'i' | 'o' | 'u') => format!("an {type_name}"),
        _ => format!("a {type_name}"),
    }
}

fn example(wanted: &str) -> &'static str {
    match wanted {
        "a string" => "\"text\"",
        "true or false" => "true",
        "a whole number" => "16",
        "a size with a unit" => "\"2MiB\"",
        "a duration with a unit" => "\"30s\"",
        "an array of strings" => "[\"text\"]",
        "an array of tables" => "[ { … } ], or use [[ ]]",
        _ => "{ … }, or use [ ]",
    }
}

/// The known key nearest to what was written, when it is near enough to be a slip.
fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (edit_distance(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let substitute = row.get(j).copied().unwrap_or(0) + usize::from(from != *to);
            let delete = row.get(j + 1).copied().unwrap_or(0) + 1;
            let insert = next.get(j).copied().unwrap_or(0) + 1;
            next.push(substitute.min(delete).min(insert));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
