//! The terminal while `quorate top` has it: alternate screen, no cursor, keys one by one. And as it was, afterwards.
//!
//! Owns: taking it and giving it back, whatever ends the program but SIGKILL. Does not: draw.
//! Invariants: what was changed is put back exactly once on each way out: return, error, signal (handled by the caller,
//! which returns) and panic (by a hook, since a release build aborts without unwinding).

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Alternate screen, cursor off; what was there is cleared.
const TAKE: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";

/// Colours off, cursor on, the screen that was there before.
const GIVE_BACK: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// The terminal is ours until this is dropped.
pub struct Screen {
    before: Termios,
    /// A panic has given it back, so that its message is seen: not again when the stack unwinds.
    given_back: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal; `None` when standard input or output is none.
    ///
    /// # Errors
    /// When the terminal cannot be asked or set.
    pub fn take() -> io::Result<Option<Screen>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let (in_panic, given_back) = (before.clone(), Arc::new(AtomicBool::new(false)));
        let in_hook = given_back.clone();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !in_hook.swap(true, Ordering::SeqCst) {
                give_back(&in_panic);
            }
            hook(panic);
        }));
        let screen = Screen { before, given_back };
        let mut keys = screen.before.clone();
        // Ctrl-C comes as a key and Ctrl-Z as nothing: neither can leave the screen half taken.
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(&stdin, OptionalActions::Now, &keys)?;
        io::stdout().write_all(TAKE.as_bytes())?;
        io::stdout().flush()?;
        Ok(Some(screen))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if !self.given_back.swap(true, Ordering::SeqCst) {
            give_back(&self.before);
        }
    }
}

fn give_back(before: &Termios) {
    let mut stdout = io::stdout();
    let _gone = stdout.write_all(GIVE_BACK.as_bytes()).and_then(|()| stdout.flush());
    let _gone = tcsetattr(io::stdin(), OptionalActions::Now, before);
}
