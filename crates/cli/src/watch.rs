//! `--watch`: the same answer again and again, until interrupted.
//!
//! Owns: the flag, the pause, redrawing in place on a terminal. Does not: know what is shown.
//! Invariants: a node that cannot be reached for a while does not end the watch; JSON is one document a line.
//! Limits: WATCH_PAUSE_MIN, WATCH_PAUSE_MAX.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use crate::exit::{Exit, Failure, Outcome};
use crate::limits::{WATCH_PAUSE_MAX, WATCH_PAUSE_MIN};
use crate::output::{self, Output};
use crate::terminal::{self, Size};

/// The flag.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct WatchFlags {
    /// Show it again every so many seconds (2 when none are given), until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = seconds)]
    watch: Option<Duration>,
}

/// A number of seconds, such as `2` or `0.5`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let (min, max) = (WATCH_PAUSE_MIN.as_secs_f64(), WATCH_PAUSE_MAX.as_secs());
        format!("{text:?} is not a number of seconds from {min} to {max}")
    };
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    let pause = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if (WATCH_PAUSE_MIN..=WATCH_PAUSE_MAX).contains(&pause) { Ok(pause) } else { Err(wrong()) }
}

impl WatchFlags {
    /// Prints what `frame` gives: once, or again and again when the flag is set.
    ///
    /// # Errors
    /// With the flag, those of `frame` other than that nobody was reached; without it, all.
    pub async fn show(self, output: Output, frame: impl AsyncFn() -> Outcome<String>) -> Outcome {
        let Some(pause) = self.watch else {
            return Ok(output::print(&frame().await?)?);
        };
        let in_place = output == Output::Text && std::io::stdout().is_terminal();
        loop {
            match frame().await {
                Ok(text) if in_place => output::print(&redraw(&text, terminal::size()))?,
                Ok(text) => output::print(&text)?,
                Err(Failure { exit: Exit::Unreachable, error: Some(error), .. }) => eprintln!("{error:#}"),
                Err(failure) => return Err(failure),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }
}

/// The text from the upper left corner on, over what was there: no line of it flickers, none is left over.
pub fn redraw(text: &str, size: Option<Size>) -> String {
    let rows = size.map_or(usize::MAX, |size| size.rows.saturating_sub(1).max(1));
    let lines = text.lines().count();
    let shown = if lines > rows { rows - 1 } else { lines };
    let mut drawn = "\x1b[H".to_owned();
    let columns = size.map_or(usize::MAX, |size| size.columns);
    for line in text.lines().take(shown) {
        // Tables, which may have colours, fit already. A line that wraps would push the first ones off the screen.
        let end = line
            .char_indices()
            .nth(columns)
            .filter(|_| !line.contains('\x1b'))
            .map_or(line.len(), |(at, _)| at);
        drawn.push_str(line.get(..end).unwrap_or(line));
        drawn.push_str("\x1b[K\n");
    }
    if lines > shown {
        drawn.push_str(&format!("({} more lines)\x1b[K\n", lines - shown));
    }
    drawn.push_str("\x1b[J");
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_number_of_seconds_within_bounds() {
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "x", "0", "-1", "NaN", "inf", "1e9", "5s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_what_was_there_goes() {
        assert_eq!(redraw("a\nb\n", None), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        let size = Some(Size { columns: 80, rows: 4 });
        assert_eq!(redraw("a\nb\nc\n", size), "\x1b[Ha\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J");
        assert_eq!(redraw("0123456789ä\n", Some(Size { columns: 3, rows: 9 })), "\x1b[H012\x1b[K\n\x1b[J");
        assert_eq!(redraw("a\nb\nc\nd\n", size), "\x1b[Ha\x1b[K\nb\x1b[K\n(2 more lines)\x1b[K\n\x1b[J");
    }
}
