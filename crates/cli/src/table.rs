//! Tables for the terminal: a line of headings, columns padded to their widest cell, cut to what the terminal is wide.
//!
//! Owns: layout. Does not: know what the cells mean, decide whether there are colours; see `terminal`.
//! Invariants: a row with too few cells is filled with empty ones; no line ends with a space; without a terminal nothing
//! is cut, on a terminal no line is wider than it; no cell has control characters, whatever a client calls itself.

use crate::terminal::{self, Tone};

/// Words are not cut below this many characters, so that an address stays whole: columns are left out instead.
const WORD_COLUMNS_MIN: usize = 21;

/// Spaces between columns.
const GAP: usize = 2;

/// A table under construction.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

struct Column {
    heading: String,
    side: Side,
}

struct Cell {
    text: String,
    tone: Option<Tone>,
}

/// Which side of its column a cell sits on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// A table with these headings. A heading that starts with `>` is for numbers.
    pub fn new(headings: &[&str]) -> Table {
        let columns = headings
            .iter()
            .map(|heading| match heading.strip_prefix('>') {
                Some(rest) => Column { heading: rest.to_owned(), side: Side::Right },
                None => Column { heading: (*heading).to_owned(), side: Side::Left },
            })
            .collect();
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|text| Cell { text: printable(text), tone: None }).collect());
    }

    /// Colours a cell of the row that was added last.
    pub fn tint(&mut self, column: usize, tone: Tone) {
        if let Some(cell) = self.rows.last_mut().and_then(|row| row.get_mut(column)) {
            cell.tone = Some(tone);
        }
    }

    /// The table as text, each line ended by a newline; fitted to the terminal if there is one.
    pub fn render(&self) -> String {
        self.render_within(terminal::size().map(|size| size.columns))
    }

    /// The table with no line wider than this: words are cut first, then the last columns are left out, which the last
    /// line says.
    pub fn render_within(&self, columns_max: Option<usize>) -> String {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let cells =
                    self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count());
                cells.max().unwrap_or(0).max(column.heading.chars().count())
            })
            .collect();
        if let Some(max) = columns_max {
            self.fit(&mut widths, max);
        }
        let mut text = String::new();
        self.line(
            |at| self.columns.get(at).map(|column| (column.heading.as_str(), Some(Tone::Heading))),
            &widths,
            &mut text,
        );
        for row in &self.rows {
            self.line(|at| row.get(at).map(|cell| (cell.text.as_str(), cell.tone)), &widths, &mut text);
        }
        match self.columns.len() - widths.len() {
            0 => {}
            1 => text.push_str("(1 column does not fit)\n"),
            left_out => text.push_str(&format!("({left_out} columns do not fit)\n")),
        }
        text
    }

    /// Makes the columns narrow enough; when that does not do, fewer.
    fn fit(&self, widths: &mut Vec<usize>, max: usize) {
        while widths.len() > 1 {
            let mut narrow = widths.clone();
            if self.narrow(&mut narrow, max) {
                *widths = narrow;
                return;
            }
            widths.pop();
        }
        if let Some(only) = widths.first_mut() {
            *only = (*only).min(max);
        }
    }

    /// Takes from the widest words until all fit. False: they do not.
    fn narrow(&self, widths: &mut [usize], max: usize) -> bool {
        while widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1) > max {
            let narrowest = |column: &Column| WORD_COLUMNS_MIN.max(column.heading.chars().count());
            let words = widths
                .iter_mut()
                .zip(&self.columns)
                .filter(|(width, column)| column.side == Side::Left && **width > narrowest(column));
            match words.max_by_key(|(width, _)| **width) {
                Some((widest, _)) => *widest -= 1,
                None => return false,
            }
        }
        true
    }

    fn line<'a>(
        &self,
        cell: impl Fn(usize) -> Option<(&'a str, Option<Tone>)>,
        widths: &[usize],
        text: &mut String,
    ) {
        let mut line = String::new();
        let mut owed = 0;
        for (at, (column, width)) in self.columns.iter().zip(widths).enumerate() {
            let (shown, tone) = cell(at).unwrap_or(("", None));
            let shown = cut(shown, *width);
            let padding = width - shown.chars().count();
            let (before, after) = if column.side == Side::Right { (padding, 0) } else { (0, padding) };
            if !shown.is_empty() {
                line.push_str(&" ".repeat(owed + before));
                line.push_str(&tone.map_or_else(|| shown.clone(), |tone| tone.paint(&shown)));
                owed = after + GAP;
            } else {
                owed += width + GAP;
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
}

/// The beginning of a text, with a sign that there was more.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

/// Control characters written out: what a client calls itself must not steer the terminal of whoever looks at it.
pub fn printable(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let each =
        text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() });
    each.collect()
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit: `1.5 MiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 { format!("{number} {name}") } else { format!("{value:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NODE", ">LAG"]);
        table.row(vec!["n1".into(), "12345".into()]);
        table.row(vec!["longname".into()]);
        assert_eq!(plain(&table, None), "NODE        LAG\nn1        12345\nlongname\n");
    }

    /// Without colours.
    fn plain(table: &Table, columns_max: Option<usize>) -> String {
        anstream::adapter::strip_str(&table.render_within(columns_max)).to_string()
    }

    #[test]
    fn words_are_cut_before_columns_are_left_out() {
        let mut table = Table::new(&["CLIENT", ">QUEUED", "NODE", "ADDRESS"]);
        table.row(vec!["a-client-with-a-long-name".into(), "1".into(), "n1".into(), "127.0.0.1:1883".into()]);
        table.row(vec![]);
        let lines = |columns| plain(&table, Some(columns)).lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(80)[1], "a-client-with-a-long-name       1  n1    127.0.0.1:1883");
        assert_eq!(lines(51)[1], "a-client-with-a-long…       1  n1    127.0.0.1:1883");
        assert_eq!(lines(51)[0], "CLIENT                 QUEUED  NODE  ADDRESS");
        let narrow = [
            "CLIENT                     QUEUED  NODE",
            "a-client-with-a-long-name       1  n1",
            "",
            "(1 column does not fit)",
        ];
        assert_eq!(lines(50), narrow);
        assert_eq!(lines(5), ["CLIE…", "a-cl…", "", "(3 columns do not fit)"]);
    }

    #[test]
    fn colours_do_not_move_columns_and_names_do_not_steer_the_terminal() {
        let mut table = Table::new(&["NODE", "STATE", "PEER"]);
        table.row(vec!["n\x1b[2J".into(), "down".into(), "x".into()]);
        table.tint(1, Tone::Bad);
        table.tint(9, Tone::Bad);
        let text = table.render_within(None);
        assert!(text.contains("\x1b[31mdown\x1b[0m") && !text.contains("\x1b[2J"), "{text:?}");
        assert_eq!(plain(&table, None), "NODE        STATE  PEER\nn\\u{1b}[2J  down   x\n");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        for (number, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB")] {
            assert_eq!(bytes(number), text);
        }
    }
}
