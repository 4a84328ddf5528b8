//! `quorate backup`: the state of the whole cluster in one file.
//!
//! Owns: the file on its way: written beside its name, read back, and only then named. Does not: know what is in it; see
//! `quorate_server::backup`.
//! Invariants: a file of the wanted name is a whole backup that was read back from the disk. Limits: BACKUP_WAIT_MAX for each
//! piece.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use quorate_server::backup::format::{BackupEnd, BackupHead, BackupReader, Frame};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::http::{self, AnswerStream, Opened};
use crate::limits::BACKUP_WAIT_MAX;
use crate::operator::AdminArgs;
use crate::output::{self, Output};
use crate::table::{bytes, thousands};
use crate::utc::utc;

/// Flags of `quorate backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Where to write it; readable by you alone, for it holds the messages of the cluster
    file: PathBuf,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    asked: AdminArgs,
}

/// What was written.
#[derive(Serialize, Debug)]
struct Written {
    file: PathBuf,
    backup: String,
    cluster: String,
    taken_at_unix_ms: u64,
    groups: u32,
    records: u64,
    bodies: u64,
    bytes: u64,
}

/// Runs the command.
pub async fn run(args: BackupArgs) -> Outcome {
    if args.file.exists() && !args.force {
        return Err(Failure::usage(format!("{} is there already", args.file.display()))
            .hint("choose another name, or give --force to replace it"));
    }
    let partial = partial_of(&args.file)?;
    let outcome = tokio::select! {
        outcome = take(&args, &partial) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
    };
    if outcome.is_err() {
        // Perhaps it was never made.
        let _removed_or_absent = fs::remove_file(&partial);
    }
    let written = outcome?;
    match args.asked.output {
        Output::Json => output::print_json(&written)?,
        Output::Text => output::print(&format!(
            "backup {} of cluster {}, taken {}: {} groups, {} records, {} bodies, {} in {}\n",
            written.backup,
            written.cluster,
            utc(written.taken_at_unix_ms),
            written.groups,
            thousands(written.records),
            thousands(written.bodies),
            bytes(written.bytes),
            written.file.display(),
        ))?,
    }
    Ok(())
}

/// The name beside the wanted one that the file has until it is whole.
fn partial_of(file: &Path) -> Outcome<PathBuf> {
    let Some(name) = file.file_name() else {
        return Err(Failure::usage(format!("{} names no file", file.display())));
    };
    let mut name = name.to_owned();
    name.push(".partial");
    Ok(file.with_file_name(name))
}

async fn take(args: &BackupArgs, partial: &Path) -> Outcome<Written> {
    let mut answer = match http::open(&args.asked.admin, "/v1/backup", "{}").await.map_err(http::unreached)? {
        Opened::Stream(answer) => answer,
        Opened::Other(response) => return Err(http::refusal(&args.asked.admin, &response)),
    };
    store(&mut answer, partial).await?;
    let (head, end) = read_back(partial)?;
    fs::rename(partial, &args.file).with_context(|| format!("name it {}", args.file.display()))?;
    sync_folder(&args.file)?;
    Ok(Written {
        file: args.file.clone(),
        backup: head.backup,
        cluster: head.cluster,
        taken_at_unix_ms: head.taken_at_unix_ms,
        groups: end.groups,
        records: end.records,
        bodies: end.bodies,
        bytes: fs::metadata(&args.file).map_or(end.bytes, |known| known.len()),
    })
}

/// Writes what comes, as it comes, and syncs it.
async fn store(answer: &mut AnswerStream, partial: &Path) -> Outcome {
    let writing = || format!("write {}", partial.display());
    let created = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial);
    let mut file = created.with_context(writing)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = tokio::time::timeout(BACKUP_WAIT_MAX, answer.read(&mut piece)).await;
        let read = read.map_err(|_| anyhow!("nothing came for {} s", BACKUP_WAIT_MAX.as_secs()))?;
        let read = read.context("read the backup from the node")?;
        let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else { break };
        file.write_all(piece).with_context(writing)?;
    }
    Ok(file.sync_all().with_context(writing)?)
}

/// Reads the file from its beginning to its end.
fn read_back(partial: &Path) -> Outcome<(BackupHead, BackupEnd)> {
    let broken = |error| {
        Failure::from(anyhow!("the backup is not whole: {error}"))
            .hint("the log of the node that was asked says why; take another one")
    };
    let file = File::open(partial).with_context(|| format!("read {} back", partial.display()))?;
    let (mut reader, head) =
        BackupReader::open(BufReader::new(file)).map_err(|error| broken(error.to_string()))?;
    let mut end = None;
    while let Some(frame) = reader.next().map_err(|error| broken(error.to_string()))? {
        if let Frame::End(found) = frame {
            end = Some(found);
        }
    }
    match end {
        Some(BackupEnd { error: Some(error), .. }) => Err(broken(error)),
        Some(end) => Ok((head, end)),
        None => Err(broken("it has no end".to_owned())),
    }
}

fn sync_folder(file: &Path) -> Outcome {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(synced.with_context(|| format!("sync {}", folder.display()))?)
}

/// Bytes read at once.
const PIECE_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_file_is_beside_the_wanted_one() {
        assert_eq!(partial_of(Path::new("a/b.backup")).unwrap(), Path::new("a/b.backup.partial"));
        assert!(partial_of(Path::new("/")).is_err());
    }
}
