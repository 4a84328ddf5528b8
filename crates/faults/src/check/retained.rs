//! D9: the retained message of a topic is a linearizable register.
//!
//! Owns: reads against the writes of the only writer. Does not: judge a read that saw nothing: none may have come in time.
//! Invariants: writes of a topic are numbered in the order in which they begin; one begins when the last has its answer or is
//! given up. What was given up may take effect at any later time, so a read of its value is never too old.

use std::collections::BTreeMap;

use super::Index;
use crate::history::{Client, Event, Moment, What};

#[derive(Default)]
struct Register {
    /// Begin, end with success, deletes.
    writes: BTreeMap<u64, (Moment, Option<Moment>, bool)>,
    reads: Vec<Read>,
}

struct Read {
    begin: Moment,
    end: Moment,
    value: u64,
    /// Read from the register, not forwarded by another node.
    retained: bool,
}

/// Reads of what was not written, not yet, not any more, or deleted.
pub fn find(events: &[Event], _index: &Index) -> Vec<String> {
    let mut lines = Vec::new();
    for (register, history) in registers(events) {
        for read in &history.reads {
            if let Some(problem) = history.problem(read) {
                let (value, at) = (read.value, read.begin.0 / 1000);
                let flag = if read.retained { "retained" } else { "as just published" };
                lines.push(format!("register {register}: a read of {value}, {flag}, at {at} ms {problem}"));
            }
        }
    }
    lines
}

fn registers(events: &[Event]) -> BTreeMap<u32, Register> {
    let mut registers: BTreeMap<u32, Register> = BTreeMap::new();
    let mut reading: BTreeMap<Client, Moment> = BTreeMap::new();
    for event in events {
        match event.what {
            What::WriteInvoke { register, sequence, deletes } => {
                let writes = &mut registers.entry(register).or_default().writes;
                writes.insert(sequence, (event.at, None, deletes));
            }
            What::WriteOk { register, sequence } => {
                let writes = &mut registers.entry(register).or_default().writes;
                if let Some((_, ok, _)) = writes.get_mut(&sequence) {
                    *ok = Some(event.at);
                }
            }
            What::ReadInvoke { .. } => {
                reading.insert(event.client, event.at);
            }
            What::ReadOk { register, sequence, retained } => {
                let begin = reading.remove(&event.client).unwrap_or(event.at);
                let read = Read { begin, end: event.at, value: sequence, retained };
                registers.entry(register).or_default().reads.push(read);
            }
            _ => {}
        }
    }
    registers
}

impl Register {
    fn problem(&self, read: &Read) -> Option<String> {
        let Read { begin, end, value, .. } = *read;
        let Some((invoked, ok, deletes)) = self.writes.get(&value) else {
            return Some("shows what was never written".to_owned());
        };
        if *deletes {
            return Some("shows a deletion as a value".to_owned());
        }
        if *invoked > end {
            return Some("shows what was written later".to_owned());
        }
        // Given up: it may take effect after any other.
        (*ok)?;
        let ended_before =
            |(_, (_, ok, _)): &(&u64, &(Moment, Option<Moment>, bool))| ok.is_some_and(|ok| ok < begin);
        let newest = self.writes.range(value + 1..).filter(ended_before).map(|(sequence, _)| *sequence).max();
        if let Some(newest) = newest {
            return Some(format!("is too old: {newest} was acknowledged before"));
        }
        let seen = self.reads.iter().filter(|read| read.end < begin).map(|read| read.value).max();
        seen.filter(|seen| *seen > value).map(|seen| format!("goes back: {seen} was read before"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::found;
    use super::*;

    const WRITER: Client = 0;

    fn write(sequence: u64) -> [(Client, What); 2] {
        let deletes = sequence == 3;
        let invoke = What::WriteInvoke { register: 0, sequence, deletes };
        [(WRITER, invoke), (WRITER, What::WriteOk { register: 0, sequence })]
    }

    fn read(sequence: u64) -> [(Client, What); 2] {
        [(1, What::ReadInvoke { register: 0 }), (1, What::ReadOk { register: 0, sequence, retained: true })]
    }

    fn check(words: &str, parts: &[&[(Client, What)]]) {
        let said = found(find, parts.concat()).join("\n");
        assert!(if words.is_empty() { said.is_empty() } else { said.contains(words) }, "{words:?}: {said:?}");
    }

    #[test]
    fn sound_reads_pass() {
        let [begin, ok] = write(2);
        let info = (WRITER, What::WriteInfo { register: 0, sequence: 2 });
        check("", &[&write(1), &read(1), &write(2), &read(2), &write(3), &write(4), &read(4)]);
        check("", &[&write(1), std::slice::from_ref(&begin), &read(1), &read(2), &[ok]]);
        // Given up, and effective only after later ones.
        check("", &[&write(1), &[begin, info], &read(1), &write(4), &read(4), &read(2)]);
    }

    #[test]
    fn unsound_reads_are_flagged() {
        let [begin, _] = write(2);
        check("never written", &[&write(1), &read(9)]);
        check("written later", &[&write(1), &read(2), &write(2)]);
        check("too old: 2", &[&write(1), &write(2), &read(1)]);
        check("too old: 3", &[&write(1), &write(2), &write(3), &read(2)]);
        check("deletion as a value", &[&write(1), &write(3), &read(3)]);
        check("goes back: 2", &[&write(1), &[begin], &read(2), &read(1)]);
    }
}
