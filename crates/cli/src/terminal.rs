//! The terminal that standard output goes to: its size, and colours where they are wanted.
//!
//! Owns: asking for the size, the choice of `--color`, the few colours that tables use.
//! Does not: write. What is written with colours goes through `output`, which takes them out where they are not wanted.
//! Invariants: without a terminal nothing is cut: what is piped into a file or program is whole.

use std::io::IsTerminal;

use clap::ValueEnum;

/// When output has colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// Has all that is written later follow the choice.
    pub fn choose(self) {
        let choice = match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// What a colour says. Nothing is said by a colour alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// Needs somebody.
    Bad,
    /// A heading.
    Heading,
}

impl Tone {
    /// `text` in this colour.
    pub fn paint(self, text: &str) -> String {
        let code = match self {
            Tone::Good => "32",
            Tone::Odd => "33",
            Tone::Bad => "31",
            Tone::Heading => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Columns and rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// Size of the terminal that standard output is; `None` when it is none, or does not say.
pub fn size() -> Option<Size> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0 && size.ws_row > 0)
        .then(|| Size { columns: usize::from(size.ws_col), rows: usize::from(size.ws_row) })
}
