//! Files of one node are damaged while it is down: a bit is flipped, or the end is cut off.
//!
//! Owns: choosing the place, and the operator's part: a node that does not start on what is left gets an empty folder.
//! Proof: the file is read back from the disk and differs. Does not: damage more nodes than the cluster can do without.
//! Invariants: all nodes are whole before, so everything acknowledged is on the others.
//! Limits: places are chosen where a file has content: the log takes its space before it needs it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Injected, Nemesis};
use crate::cluster::{Cluster, Settled};
use crate::machine::{self, lacking};
use crate::random::Random;

/// Kinds of files below the data folder. Each is chosen as often as any other.
const KINDS: [&str; 5] = ["log", "bodies", "checkpoints", "identity", "founding.json"];

/// Exit codes of a node that does not start on damaged files: corrupt, unusable, a failed read or write.
const REFUSES: [i32; 3] = [65, 69, 74];

/// The nemesis.
pub struct Damage {
    cuts: bool,
    victim: usize,
    said: String,
    problems: Vec<String>,
}

impl Damage {
    /// A bit is another one.
    pub fn flips() -> Damage {
        Damage { cuts: false, victim: 0, said: String::new(), problems: Vec::new() }
    }

    /// The end of a file is missing.
    pub fn cuts() -> Damage {
        Damage { cuts: true, ..Damage::flips() }
    }

    fn damage(&self, file: &Path, random: &mut Random) -> Result<String> {
        let before = fs::read(file)?;
        // Zeros at the end are space that nobody has written to.
        let used = before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        ensure!(used > 0, "{} has no content", file.display());
        let place = random.below(used);
        let handle = fs::File::options().write(true).open(file)?;
        if self.cuts {
            handle.set_len(u64::try_from(place)?)?;
        } else {
            let byte = before.get(place).copied().unwrap_or_default() ^ (1 << random.below(8));
            handle.write_all_at(&[byte], u64::try_from(place)?)?;
        }
        handle.sync_all()?;
        drop(handle);
        machine::run("sh", &["-c", "sync; echo 3 > /proc/sys/vm/drop_caches"])?;
        ensure!(fs::read(file)? != before, "{} is as it was", file.display());
        let what = if self.cuts { "cut off at" } else { "a bit flipped at" };
        Ok(format!("{what} {place} of {used} bytes"))
    }
}

impl Nemesis for Damage {
    fn name(&self) -> &'static str {
        if self.cuts { "truncated-file" } else { "flipped-bit" }
    }

    fn what(&self) -> &'static str {
        if self.cuts {
            "the end of a file of one node is missing when it starts"
        } else {
            "a bit in a file of one node is another one when it starts"
        }
    }

    fn lacking(&self) -> Option<String> {
        lacking(&["sync"])
    }

    fn lasts(&self, _random: &mut Random) -> Duration {
        Duration::ZERO
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        self.victim = random.below(cluster.nodes.len());
        self.problems.clear();
        cluster.kill(&[self.victim])?;
        let data = cluster.data(self.victim)?;
        let (name, file) = choose(&data, random)?;
        self.said = format!("{name} {}", self.damage(&file, random)?);
        let aside_before = set_aside(&data);
        cluster.run(self.victim)?;
        let became = match cluster.wait_settled(self.victim)? {
            Settled::Ready if set_aside(&data) == aside_before => "the node goes on".to_owned(),
            Settled::Ready => "the node has joined anew".to_owned(),
            Settled::JoinsAnew => "the node joins anew".to_owned(),
            Settled::Ended(status) => {
                if !status.code().is_some_and(|code| REFUSES.contains(&code)) {
                    self.problems.push(format!("{}: ended with {status}", self.said));
                }
                // As the documents say: move the folder away, start with an empty one.
                let aside = data.with_extension("damaged");
                let _ = fs::remove_dir_all(&aside);
                fs::rename(&data, &aside).context("move the data folder away")?;
                cluster.run(self.victim)?;
                format!("{status}, an empty folder")
            }
        };
        self.said = format!("{}, {became}", self.said);
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        Ok(self.said.clone())
    }

    fn problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.run_all()
    }
}

/// Folders with damaged state that the node has set aside.
fn set_aside(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> =
        entries.filter(|path| path.is_dir() && path.to_string_lossy().contains("damaged-")).collect();
    folders.sort();
    folders
}

/// A file with content, of any kind that there is.
fn choose(data: &Path, random: &mut Random) -> Result<(String, PathBuf)> {
    let mut kinds: Vec<Vec<PathBuf>> = KINDS.iter().map(|kind| files(&data.join(kind))).collect();
    kinds.retain(|files| !files.is_empty());
    let kind = kinds.get(random.below(kinds.len())).context("a file in the data folder")?;
    let file = kind.get(random.below(kind.len())).context("a file of this kind")?;
    let name = file.strip_prefix(data)?.display().to_string();
    Ok((name, file.clone()))
}

/// All files with content at a path or below it, in order.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        let used = fs::read(path).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0));
        return if used { vec![path.to_owned()] } else { Vec::new() };
    }
    let mut below: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    below.sort();
    below.iter().flat_map(|path| files(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_another_one() {
        let folder = std::env::temp_dir().join(format!("quorate-faults-damage-{}", std::process::id()));
        fs::create_dir_all(folder.join("log")).unwrap();
        let file = folder.join("log/segment-1");
        let content = [vec![7; 100], vec![0; 1000]].concat();
        fs::write(&file, &content).unwrap();
        fs::write(folder.join("log/spare"), vec![0; 1000]).unwrap();
        assert_eq!(files(&folder), std::slice::from_ref(&file), "a file of zeros has no content");
        let mut random = Random::new(3);
        if lacking(&["sync"]).is_none() {
            Damage::flips().damage(&file, &mut random).unwrap();
            let flipped = fs::read(&file).unwrap();
            let differ = flipped.iter().zip(&content).filter(|(one, other)| one != other).count();
            assert_eq!((flipped.len(), differ), (content.len(), 1));
            Damage::cuts().damage(&file, &mut random).unwrap();
            assert!(fs::read(&file).unwrap().len() < 100);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
