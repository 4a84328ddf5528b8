//! The parts of a backup fit each other: what one group has forgotten of what it sent, the other has received; what one
//! has received, the other has sent.
//!
//! Source: docs/decisions/0032-backup-cut.md. The first half broken means that a restored cluster has lost a message, the
//! second that it drops the next one as a copy.

use super::Broken;
use crate::oracle::{Event, History};

pub fn check(history: &History) -> Result<(), Broken> {
    for entry in &history.entries {
        let Event::Backup { links } = &entry.event else { continue };
        let broken =
            links.iter().find(|link| !(link.forgotten <= link.received && link.received <= link.last));
        if let Some(link) = broken {
            return Err(Broken::new(entry.at, format!("the parts do not fit: {link:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::oracle::BackupLink;

    fn judge(forgotten: u64, received: u64, last: u64) -> bool {
        let mut history = History::default();
        let links = vec![BackupLink { from: 1, to: 2, forgotten, received, last }];
        history.push(Duration::ZERO, Event::Backup { links });
        check(&history).is_ok()
    }

    #[test]
    fn parts_that_lost_or_invented_a_message_are_flagged() {
        assert!(judge(3, 5, 7));
        assert!(judge(3, 3, 3));
        assert!(!judge(6, 5, 7), "forgotten and not received: lost");
        assert!(!judge(3, 8, 7), "received and not sent: the next one counts as a copy");
    }
}
