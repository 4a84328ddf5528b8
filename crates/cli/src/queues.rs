//! `quorate queues` and `quorate slow-consumers`: where messages wait, and for whom.
//!
//! Owns: the flags and the layout. Does not: rank; the server does. Limits: at most 100 lines.

use clap::Args;
use quorate_api::{LongestQueues, QueueLength, SlowConsumer, SlowConsumers};

use crate::exit::Outcome;
use crate::http::{Method, ask};
use crate::operator::{AdminArgs, Query, warn_incomplete};
use crate::output::{self, Output};
use crate::table::{Table, bytes, thousands};
use crate::watch::WatchFlags;

/// Flags of `quorate queues` and `quorate slow-consumers`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// How many to show, at most 100
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100))]
    top: u16,
    #[command(flatten)]
    watch: WatchFlags,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Shows the longest queues.
pub async fn run(args: TopArgs) -> Outcome {
    args.watch.show(args.admin.output, async || queues_frame(&args).await).await
}

async fn queues_frame(args: &TopArgs) -> Outcome<String> {
    let query = Query::new("/v1/queues").with("top", Some(args.top));
    let found: LongestQueues = ask(Method::Get, &args.admin.admin, query.as_str(), None).await?;
    warn_incomplete(&found.incomplete_groups, found.complete);
    Ok(match args.admin.output {
        Output::Json => output::json(&found)?,
        Output::Text => render_queues(&found.queues),
    })
}

/// Shows the slowest consumers.
pub async fn run_slow(args: TopArgs) -> Outcome {
    args.watch.show(args.admin.output, async || consumers_frame(&args).await).await
}

async fn consumers_frame(args: &TopArgs) -> Outcome<String> {
    let query = Query::new("/v1/slow-consumers").with("top", Some(args.top));
    let found: SlowConsumers = ask(Method::Get, &args.admin.admin, query.as_str(), None).await?;
    warn_incomplete(&found.incomplete_groups, found.complete);
    Ok(match args.admin.output {
        Output::Json => output::json(&found)?,
        Output::Text => render_consumers(&found.consumers),
    })
}

fn render_queues(queues: &[QueueLength]) -> String {
    let mut table = Table::new(&["CLIENT", ">MESSAGES", ">BYTES", ">OLDEST", "NODE"]);
    for queue in queues {
        table.row(vec![
            queue.client_id.clone(),
            thousands(queue.messages),
            bytes(queue.bytes),
            age(queue.oldest_ms),
            place(queue.online, queue.node.as_deref()),
        ]);
    }
    table.render()
}

fn render_consumers(consumers: &[SlowConsumer]) -> String {
    let mut table = Table::new(&["CLIENT", "NODE", ">INFLIGHT", ">QUEUED", ">OLDEST UNACKED", ">DROPPED"]);
    for consumer in consumers {
        let inflight = consumer.inflight.map_or_else(|| "?".to_owned(), thousands);
        table.row(vec![
            consumer.client_id.clone(),
            place(true, consumer.node.as_deref()),
            format!("{inflight}/{}", thousands(consumer.inflight_max.into())),
            thousands(consumer.queued),
            age(consumer.oldest_unacked_ms),
            thousands(consumer.dropped),
        ]);
    }
    table.render()
}

fn place(online: bool, node: Option<&str>) -> String {
    if online { node.unwrap_or("?") } else { "offline" }.to_owned()
}

/// A time in the largest unit that leaves at least two of it.
fn age(age_ms: Option<u64>) -> String {
    let Some(age_ms) = age_ms else { return "?".to_owned() };
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)] {
        if age_ms >= 2 * unit_ms {
            return format!("{} {unit}", age_ms / unit_ms);
        }
    }
    format!("{age_ms} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short_and_not_wrong() {
        for (age_ms, text) in [
            (Some(0), "0 ms"),
            (Some(1999), "1999 ms"),
            (Some(2000), "2 s"),
            (Some(119_999), "119 s"),
            (Some(120_000), "2 min"),
            (Some(7_200_000), "2 h"),
            (Some(200_000_000), "2 d"),
            (None, "?"),
        ] {
            assert_eq!(age(age_ms), text);
        }
    }

    #[test]
    fn what_is_not_known_is_a_question_mark() {
        let consumer =
            SlowConsumer { client_id: "c".to_owned(), inflight_max: 1000, ..SlowConsumer::default() };
        let text = render_consumers(&[consumer]);
        assert!(text.lines().nth(1).unwrap().contains("?/1,000"), "{text}");
        let queue = QueueLength { client_id: "c".to_owned(), messages: 1, ..QueueLength::default() };
        assert!(render_queues(&[queue]).contains("offline"));
    }
}
