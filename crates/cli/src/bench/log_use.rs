//! What the servers wrote to their logs, from their `/metrics`.
//!
//! Owns: which metrics count. Does not: know Prometheus beyond lines of a name and a number.
//! Invariants: figures of a server that started again meanwhile are not used: its counters began anew.

use anyhow::{Context, anyhow};
use serde::Serialize;

use crate::http;

/// Counters of one server at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogCounters {
    syncs: u64,
    records: u64,
    bytes: u64,
}

/// What all servers wrote during a measurement.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct LogUse {
    /// Servers.
    pub servers: u64,
    /// Syncs (fdatasync) of all their logs.
    pub syncs: u64,
    /// Records appended to all their logs: one may hold many messages.
    pub records: u64,
    /// Bytes of these records.
    pub bytes: u64,
    /// Messages published for each sync of one server, on average of the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_sync: Option<f64>,
}

/// Counters of each server, by the URL of its admin listener.
pub async fn counters_of(admins: &[String]) -> anyhow::Result<Vec<LogCounters>> {
    let mut all = Vec::with_capacity(admins.len());
    for admin in admins {
        let answer = http::get(admin, "/metrics").await?;
        anyhow::ensure!(answer.status == 200, "{admin}/metrics answered {}", answer.status);
        let text = String::from_utf8_lossy(&answer.body);
        all.push(parse(&text).with_context(|| format!("read the log's figures in {admin}/metrics"))?);
    }
    Ok(all)
}

fn parse(text: &str) -> anyhow::Result<LogCounters> {
    let figure = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let value = lines.find(|(metric, _)| *metric == name).and_then(|(_, value)| value.parse().ok());
        value.ok_or_else(|| anyhow!("no {name}"))
    };
    Ok(LogCounters {
        syncs: figure("quorate_log_syncs_total")?,
        records: figure("quorate_log_records_total")?,
        bytes: figure("quorate_log_bytes_total")?,
    })
}

impl LogUse {
    /// The difference of two readings, for so many published messages. `None` without servers, or if one of them has
    /// started again.
    pub fn between(before: &[LogCounters], after: &[LogCounters], messages: u64) -> Option<LogUse> {
        let mut sum = LogCounters::default();
        for (before, after) in before.iter().zip(after) {
            sum.syncs += after.syncs.checked_sub(before.syncs)?;
            sum.records += after.records.checked_sub(before.records)?;
            sum.bytes += after.bytes.checked_sub(before.bytes)?;
        }
        let servers = u64::try_from(after.len()).ok().filter(|servers| *servers > 0)?;
        let LogCounters { syncs, records, bytes } = sum;
        let per_sync = messages as f64 * servers as f64 / syncs as f64;
        Some(LogUse {
            servers,
            syncs,
            records,
            bytes,
            messages_per_sync: (syncs > 0 && messages > 0).then_some(per_sync),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(syncs: u64) -> LogCounters {
        LogCounters { syncs, records: 2 * syncs, bytes: 100 * syncs }
    }

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = "# HELP quorate_log_syncs_total Syncs\nquorate_log_syncs_total_other 9\n\
                    quorate_log_syncs_total 7\nquorate_log_records_total 14\nquorate_log_bytes_total 700\n";
        assert_eq!(parse(text).unwrap(), counters(7));
        assert!(parse("quorate_log_syncs_total 7\n").is_err());
    }

    #[test]
    fn messages_per_sync_is_of_one_server() {
        let used = LogUse::between(&[counters(5); 3], &[counters(15); 3], 1000).unwrap();
        assert_eq!((used.servers, used.syncs, used.records, used.bytes), (3, 30, 60, 3000));
        assert_eq!(used.messages_per_sync, Some(100.0));
        assert_eq!(LogUse::between(&[counters(5)], &[counters(5)], 1000).unwrap().messages_per_sync, None);
        assert_eq!(LogUse::between(&[counters(5)], &[counters(4)], 1000), None, "it started again");
        assert_eq!(LogUse::between(&[], &[], 1000), None);
    }
}
