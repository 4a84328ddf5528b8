//! `quorate top`: the cluster live in the terminal.
//!
//! Owns: the keys, the pace, going on with another node when the asked one does not answer. Does not: ask or lay out; see
//! `frame` and `view`.
//! Invariants: a slow or dead node never holds up a key; the terminal is given back on every way out, see `screen`.
//! Limits: one look at a time; WATCH_PAUSE_MIN.

mod frame;
mod screen;
mod view;

use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::exit::{Failure, Outcome};
use crate::output::{self, Output};
use crate::terminal::{self, Size};
use crate::watch::{redraw, seconds};
use frame::Frame;
use screen::Screen;
use view::Order;

/// Flags of `quorate top`.
#[derive(Args, Debug)]
#[command(after_help = "\
Keys: q ends, s sorts the queues by messages, bytes or age, p (or space) pauses, r looks again at once.
A column with - is not told by this version of the nodes.")]
pub struct TopArgs {
    /// Admin address of any node; when it does not answer any more, the others are asked
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9883")]
    admin: String,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    interval: Duration,
    /// Print one frame and end; needs no terminal
    #[arg(long)]
    once: bool,
    /// Form of the frame; JSON needs --once
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command until `q`, or prints one frame.
pub async fn run(args: TopArgs) -> Outcome {
    if args.once {
        let frame = frame::take(&args.admin, &Frame::default()).await?;
        return Ok(output::print(&match args.output {
            Output::Json => output::json(&frame)?,
            Output::Text => view::render(&frame, Order::default(), terminal::size()),
        })?);
    }
    if args.output == Output::Json {
        return Err(Failure::usage("a live view is no JSON")
            .hint("add --once, or use `quorate status --watch --output json`"));
    }
    // Before the terminal is taken: a wrong address is an error like any other.
    let first = frame::take(&args.admin, &Frame::default()).await?;
    let ends = Ends::listen()?;
    let screen = Screen::take().context("take the terminal")?;
    let Some(_screen) = screen else {
        return Err(
            Failure::usage("standard input and output are no terminal").hint("add --once for one frame")
        );
    };
    Live::new(args, first).run(ends).await
}

/// Keys that wait for a frame to be drawn.
const KEYS_WAITING_MAX: usize = 16;

/// Signals that end the view.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    resized: Signal,
}

impl Ends {
    fn listen() -> anyhow::Result<Ends> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Ends {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            resized: listen(SignalKind::window_change())?,
        })
    }
}

type Look = Pin<Box<dyn Future<Output = (String, Outcome<Frame>)>>>;

/// The view and what the keys made of it.
struct Live {
    args: TopArgs,
    asked: String,
    frame: Frame,
    order: Order,
    paused: bool,
    trouble: Option<String>,
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    Quit,
    Sort,
    Pause,
    Look,
    Other,
}

impl Key {
    fn of(byte: u8) -> Key {
        match byte {
            // Ctrl-C and Ctrl-D among them.
            b'q' | b'Q' | 3 | 4 => Key::Quit,
            b's' | b'S' => Key::Sort,
            b'p' | b'P' | b' ' => Key::Pause,
            b'r' | b'R' => Key::Look,
            _ => Key::Other,
        }
    }
}

impl Live {
    fn new(args: TopArgs, frame: Frame) -> Live {
        let asked = args.admin.clone();
        Live { args, asked, frame, order: Order::default(), paused: false, trouble: None }
    }

    async fn run(mut self, mut ends: Ends) -> Outcome {
        let mut keys = keys();
        let mut next = Instant::now() + self.args.interval;
        let mut look: Option<Look> = None;
        loop {
            self.draw()?;
            tokio::select! {
                key = keys.recv() => match key.map(Key::of) {
                    // Without one the terminal has gone.
                    Some(Key::Quit) | None => return Ok(()),
                    Some(Key::Sort) => self.order = self.order.next(),
                    Some(Key::Pause) => self.paused = !self.paused,
                    Some(Key::Look) => next = Instant::now(),
                    Some(Key::Other) => {}
                },
                (asked, outcome) = pending(&mut look) => {
                    look = None;
                    next = Instant::now() + self.args.interval;
                    self.take(asked, outcome);
                }
                () = sleep_until(next), if look.is_none() && !self.paused => look = Some(self.look()),
                _ = ends.resized.recv() => {}
                _ = ends.interrupt.recv() => return Ok(()),
                _ = ends.terminate.recv() => return Ok(()),
                _ = ends.hang_up.recv() => return Ok(()),
            }
        }
    }

    /// Asks the node that answered last, then the others.
    fn look(&self) -> Look {
        let others = self.frame.others.iter().chain([&self.args.admin]).filter(|admin| **admin != self.asked);
        let admins: Vec<String> = std::iter::once(&self.asked).chain(others).cloned().collect();
        let before = self.frame.clone();
        Box::pin(async move {
            let mut failed = None;
            for admin in admins {
                match frame::take(&admin, &before).await {
                    Ok(frame) => return (admin, Ok(frame)),
                    Err(failure) => failed = failed.or(Some((admin, Err(failure)))),
                }
            }
            failed.unwrap_or_else(|| (String::new(), Err(Failure::usage("there is nobody to ask"))))
        })
    }

    fn take(&mut self, asked: String, outcome: Outcome<Frame>) {
        match outcome {
            Ok(frame) => {
                self.trouble = (asked != self.asked).then(|| format!("{} does not answer", self.asked));
                (self.asked, self.frame) = (asked, frame);
            }
            Err(failure) => self.trouble = failure.error.map(|error| format!("{error:#}")),
        }
    }

    fn draw(&self) -> anyhow::Result<()> {
        let size = terminal::size().unwrap_or(Size { columns: 80, rows: 24 });
        // The last line is the foot, and the one below it stays empty: a newline there would scroll.
        let within = Size { rows: size.rows.saturating_sub(2).max(1), ..size };
        let mut text = view::render(&self.frame, self.order, Some(within));
        text.push_str(&self.foot(size.columns));
        text.push('\n');
        match output::print(&redraw(&text, Some(size))) {
            // A frame that is not drawn is not worth an end.
            Err(error) if is_interrupted(&error) => Ok(()),
            drawn => drawn,
        }
    }

    fn foot(&self, columns: usize) -> String {
        let state = match (&self.trouble, self.paused) {
            (Some(trouble), _) => trouble.clone(),
            (None, true) => "paused".to_owned(),
            (None, false) => format!("every {} s", self.args.interval.as_secs_f64()),
        };
        let foot = format!("q quit  s sort  p pause  r refresh  | {state}");
        foot.chars().filter(|c| !c.is_control()).take(columns).collect()
    }
}

/// Keys as they are pressed. The thread waits for standard input, and ends with the program at the latest.
fn keys() -> mpsc::Receiver<u8> {
    // When it is full the thread waits, and with it whoever types.
    let (sender, keys) = mpsc::channel(KEYS_WAITING_MAX);
    std::thread::spawn(move || {
        for key in io::stdin().lock().bytes().map_while(Result::ok) {
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

/// The look that is underway; never, without one.
async fn pending(look: &mut Option<Look>) -> (String, Outcome<Frame>) {
    match look {
        Some(look) => look.await,
        None => std::future::pending().await,
    }
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Live {
        let args = TopArgs {
            admin: "http://127.0.0.1:1".into(),
            interval: Duration::from_secs(2),
            once: false,
            output: Output::Text,
        };
        Live::new(args, Frame { seen_by: "n1".into(), ..Frame::default() })
    }

    #[test]
    fn keys_have_their_meaning() {
        for (byte, key) in [
            (b'q', Key::Quit),
            (3, Key::Quit),
            (b's', Key::Sort),
            (b' ', Key::Pause),
            (b'r', Key::Look),
            (27, Key::Other),
        ] {
            assert_eq!(Key::of(byte), key, "{byte}");
        }
    }

    #[test]
    fn another_node_is_asked_and_named_when_the_first_is_gone() {
        let mut live = live();
        live.take("http://127.0.0.1:2".into(), Ok(Frame { seen_by: "n2".into(), ..Frame::default() }));
        assert_eq!((live.asked.as_str(), live.frame.seen_by.as_str()), ("http://127.0.0.1:2", "n2"));
        assert!(live.foot(80).contains("http://127.0.0.1:1 does not answer"), "{}", live.foot(80));
        live.take("x".into(), Err(Failure::usage("nobody\x1b[2J answers")));
        assert_eq!(live.frame.seen_by, "n2", "the last frame stays");
        let foot = live.foot(60);
        assert!(foot.contains("nobody") && !foot.contains('\x1b') && foot.chars().count() <= 60, "{foot}");
    }
}
