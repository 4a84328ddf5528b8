//! `quorate subscriptions list`: who subscribes to what.
//!
//! Owns: the flags, the pages, the layout. Does not: match; the server does. Limits: ADMIN_PAGE_ROWS rows per request.

use clap::{Args, Subcommand};
use quorate_api::{Subscription, SubscriptionPage};

use crate::exit::Outcome;
use crate::http::{Method, ask};
use crate::limits::ADMIN_PAGE_ROWS;
use crate::operator::{AdminArgs, Query, warn_incomplete};
use crate::output::{self, Output};
use crate::table::Table;
use crate::watch::WatchFlags;

/// Flags of `quorate subscriptions`.
#[derive(Args, Debug)]
pub struct SubscriptionsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List subscriptions, by client identifier and filter
    List(ListArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Those of this client identifier
    #[arg(long, value_name = "CLIENT_ID")]
    client_id: Option<String>,
    /// Those with this topic filter, letter by letter
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Those that receive what is published to this topic
    #[arg(long, value_name = "TOPIC")]
    matches: Option<String>,
    /// Begin where a list before ended, as it said
    #[arg(long, value_name = "PLACE")]
    after: Option<String>,
    /// Most subscriptions to list; 0 for all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    watch: WatchFlags,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
pub async fn run(args: SubscriptionsArgs) -> Outcome {
    let Action::List(args) = args.action;
    args.watch.show(args.admin.output, async || frame(&args).await).await
}

/// One list, as text or JSON.
async fn frame(args: &ListArgs) -> Outcome<String> {
    let mut all = SubscriptionPage { next: args.after.clone(), ..SubscriptionPage::default() };
    let max = if args.limit == 0 { usize::MAX } else { args.limit };
    loop {
        let left = max.saturating_sub(all.subscriptions.len()).min(ADMIN_PAGE_ROWS);
        let query = Query::new("/v1/subscriptions")
            .with("client_id", args.client_id.as_deref())
            .with("filter", args.filter.as_deref())
            .with("matches", args.matches.as_deref())
            .with("limit", Some(left))
            .with("after", all.next.take());
        let page: SubscriptionPage = ask(Method::Get, &args.admin.admin, query.as_str(), None).await?;
        all.subscriptions.extend(page.subscriptions);
        all.incomplete_groups = page.incomplete_groups;
        all.next = page.next;
        if all.next.is_none() || all.subscriptions.len() >= max {
            break;
        }
    }
    warn_incomplete(&all.incomplete_groups, true);
    if let (Some(next), Output::Text) = (&all.next, args.admin.output) {
        eprintln!("there may be more: --after {next:?}, or --limit 0 for all");
    }
    Ok(match args.admin.output {
        Output::Json => output::json(&all)?,
        Output::Text => render(&all.subscriptions),
    })
}

fn render(subscriptions: &[Subscription]) -> String {
    let mut table = Table::new(&["CLIENT", "FILTER", ">QOS", "KIND", "NODE", "OPTIONS"]);
    for row in subscriptions {
        table.row(vec![
            row.client_id.clone(),
            row.filter.clone(),
            row.qos.to_string(),
            if row.durable { "durable" } else { "transient" }.to_owned(),
            row.node.clone().unwrap_or_else(|| "-".to_owned()),
            options(row),
        ]);
    }
    table.render()
}

fn options(row: &Subscription) -> String {
    let mut words = Vec::new();
    if row.no_local {
        words.push("no-local".to_owned());
    }
    if row.retain_as_published {
        words.push("retain-as-published".to_owned());
    }
    match row.retain_handling {
        Some(1) => words.push("retained-if-new".to_owned()),
        Some(2) => words.push("no-retained".to_owned()),
        _ => {}
    }
    words.extend(row.identifier.map(|identifier| format!("identifier={identifier}")));
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_named_only_when_they_are_not_the_usual_ones() {
        let mut row =
            Subscription { client_id: "c".to_owned(), filter: "a/#".to_owned(), ..Default::default() };
        assert_eq!(options(&row), "");
        row.no_local = true;
        row.retain_handling = Some(2);
        row.identifier = Some(9);
        assert_eq!(options(&row), "no-local,no-retained,identifier=9");
        assert!(render(&[row]).contains("c       a/#"), "a row begins with client and filter");
    }
}
