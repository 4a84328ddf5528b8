//! A program that lets packets wait: those that the kernel queues for it in the network of a node.
//!
//! Owns: taking packets from the queue and giving them back later. Does not: change or drop any.
//! Invariants: it runs as a process of its own, because a queue belongs to the network that its socket was opened in; it ends with its
//! standard input, and says then what it did.
//! Limits: Linux; a packet that still waits when it ends is lost, which TCP makes good.

use std::time::Duration;

use anyhow::{Context, Result};

/// The word that makes this program another one.
pub const COMMAND: &str = "mangle";

/// Number of the queue in each network.
pub const QUEUE: u16 = 5;

/// How packets wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// The shortest wait.
    pub least: Duration,
    /// The longest wait; each packet's is chosen at random.
    pub most: Duration,
    /// Packets keep their order.
    pub ordered: bool,
}

impl Manner {
    /// The arguments of the program.
    pub fn words(self) -> [String; 4] {
        let ms = |time: Duration| time.as_millis().to_string();
        [COMMAND.to_owned(), ms(self.least), ms(self.most), self.ordered.to_string()]
    }

    /// What arguments after the word mean.
    ///
    /// # Errors
    /// When they are not those of [`Manner::words`].
    pub fn parse(words: &[String]) -> Result<Manner> {
        let mut words = words.iter();
        let mut next = || words.next().context("mangle needs: shortest and longest wait in ms, ordered");
        let (least, most) = (next()?.parse()?, next()?.parse()?);
        let ordered = next()?.parse()?;
        Ok(Manner { least: Duration::from_millis(least), most: Duration::from_millis(most), ordered })
    }
}

/// Runs the program to its end.
///
/// # Errors
/// When there is no queue for it.
#[cfg(target_os = "linux")]
pub fn run(manner: Manner) -> Result<()> {
    linux::run(manner)
}

/// Runs the program to its end.
///
/// # Errors
/// Always: only Linux has such queues.
#[cfg(not(target_os = "linux"))]
pub fn run(_manner: Manner) -> Result<()> {
    anyhow::bail!("only Linux has queues of packets")
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::io::{ErrorKind, Read};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use anyhow::{Context, Result};
    use nfq::{Message, Queue, Verdict};

    use super::{Manner, QUEUE};
    use crate::random::Random;

    /// Packets that wait at most; the kernel drops what is beyond.
    const WAITING_MAX: u32 = 16 * 1024;

    /// Bytes of a packet that are copied: none of its content is needed.
    const COPIED_BYTES: u16 = 64;

    /// Between two looks at the queue.
    const LOOK: Duration = Duration::from_millis(1);

    pub fn run(manner: Manner) -> Result<()> {
        let mut queue = Queue::open().context("open a socket for queues of packets")?;
        queue.bind(QUEUE).context("take the queue")?;
        queue.set_queue_max_len(QUEUE, WAITING_MAX)?;
        queue.set_copy_range(QUEUE, COPIED_BYTES)?;
        queue.set_nonblocking(true);
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read(&mut [0]);
            end.store(true, Ordering::Relaxed);
        });
        let mut line =
            Line { waiting: BTreeMap::new(), manner, random: Random::new(1), taken: 0, last: None };
        let (mut given, mut overtaken) = (0_u64, 0_u64);
        let mut newest = 0;
        while !ended.load(Ordering::Relaxed) {
            line.take_all(&mut queue)?;
            while let Some((number, mut message)) = line.due() {
                given += 1;
                overtaken += u64::from(number < newest);
                newest = newest.max(number);
                message.set_verdict(Verdict::Accept);
                queue.verdict(message).context("give a packet back")?;
            }
            pause();
        }
        println!("{given} packets waited, {overtaken} were overtaken");
        Ok(())
    }

    /// What this program waits on is the clock.
    #[allow(clippy::disallowed_methods)]
    fn pause() {
        std::thread::sleep(LOOK);
    }

    /// Packets that wait, by when their wait ends.
    struct Line {
        waiting: BTreeMap<(Instant, u64), Message>,
        manner: Manner,
        random: Random,
        taken: u64,
        last: Option<Instant>,
    }

    impl Line {
        fn take_all(&mut self, queue: &mut Queue) -> Result<()> {
            loop {
                match queue.recv() {
                    Ok(message) => {
                        self.taken += 1;
                        let due = self.due_of_next();
                        self.waiting.insert((due, self.taken), message);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    // The kernel had no room for a packet: it is lost, as on any network.
                    Err(error) if error.raw_os_error() == Some(NO_BUFFER_SPACE) => {}
                    Err(error) => return Err(error).context("take a packet"),
                }
            }
        }

        fn due_of_next(&mut self) -> Instant {
            let Manner { least, most, ordered } = self.manner;
            let room = usize::try_from(most.saturating_sub(least).as_micros()).unwrap_or(0);
            let more = u64::try_from(self.random.below(room + 1)).unwrap_or(0);
            let due = Instant::now() + least + Duration::from_micros(more);
            let due = if ordered { self.last.map_or(due, |last| last.max(due)) } else { due };
            self.last = Some(due);
            due
        }

        fn due(&mut self) -> Option<(u64, Message)> {
            let first = self.waiting.first_entry().filter(|first| first.key().0 <= Instant::now())?;
            let ((_, number), message) = first.remove_entry();
            Some((number, message))
        }
    }

    /// `ENOBUFS`.
    const NO_BUFFER_SPACE: i32 = 105;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manner_is_read_as_it_is_written() {
        let ms = Duration::from_millis;
        let manner = Manner { least: ms(50), most: ms(500), ordered: true };
        let words = manner.words();
        assert_eq!(words[0], COMMAND);
        assert_eq!(Manner::parse(&words[1..]).unwrap(), manner);
        assert!(Manner::parse(&words[..2]).is_err());
    }
}
