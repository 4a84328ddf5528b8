//! `quorate sessions`: find sessions, show one, close its connection, end it.
//!
//! Owns: the flags, the pages of a list, the layout. Does not: choose sessions; the server does.
//! Invariants: a purge says what is lost before it asks. Limits: ADMIN_PAGE_ROWS rows per request.

use clap::{Args, Subcommand};
use quorate_api::{Kicked, Purged, SessionExplanation, SessionPage, SessionSummary};

use crate::exit::Outcome;
use crate::http::{Method, ask};
use crate::limits::ADMIN_PAGE_ROWS;
use crate::operator::{AdminArgs, LeaveArgs, Query, agree, warn_incomplete};
use crate::output::{self, Output};
use crate::table::{Table, bytes, thousands};
use crate::watch::WatchFlags;
use crate::{explain, http};

/// Flags of `quorate sessions`.
#[derive(Args, Debug)]
pub struct SessionsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List sessions, by client identifier
    List(ListArgs),
    /// Show one session and why its client gets nothing; the same as `quorate explain session`
    Show(OneArgs),
    /// Close the connection of a session; a durable session is kept
    Kick(OneArgs),
    /// End a session with its queue and subscriptions; its connection is closed
    Purge(PurgeArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Those whose client identifier begins with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Those with a connection
    #[arg(long, conflicts_with = "offline")]
    online: bool,
    /// Those without a connection
    #[arg(long)]
    offline: bool,
    /// Those with at least N queued messages
    #[arg(long, value_name = "N")]
    min_queued: Option<u64>,
    /// Those with a connection on this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Begin after this client identifier
    #[arg(long, value_name = "CLIENT_ID")]
    after: Option<String>,
    /// Most sessions to list; 0 for all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    watch: WatchFlags,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args, Debug)]
struct OneArgs {
    /// Client identifier
    client_id: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args, Debug)]
struct PurgeArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    leave: LeaveArgs,
}

/// Runs the command.
pub async fn run(args: SessionsArgs) -> Outcome {
    match args.action {
        Action::List(args) => list(args).await,
        Action::Show(OneArgs { client_id, admin }) => {
            explain::show(&admin.admin, &client_id, admin.output).await
        }
        Action::Kick(args) => kick(args).await,
        Action::Purge(args) => purge(args).await,
    }
}

fn path(client_id: &str) -> String {
    format!("/v1/sessions/{}", http::percent_encoded(client_id))
}

async fn list(args: ListArgs) -> Outcome {
    args.watch.show(args.admin.output, async || frame(&args).await).await
}

/// One list, as text or JSON.
async fn frame(args: &ListArgs) -> Outcome<String> {
    let mut all = SessionPage { next: args.after.clone(), ..SessionPage::default() };
    let max = if args.limit == 0 { usize::MAX } else { args.limit };
    loop {
        let left = max.saturating_sub(all.sessions.len()).min(ADMIN_PAGE_ROWS);
        let query = Query::new("/v1/sessions")
            .with("prefix", args.prefix.as_deref())
            .with("online", (args.online || args.offline).then_some(args.online))
            .with("min_queued", args.min_queued)
            .with("node", args.node.as_deref())
            .with("limit", Some(left))
            .with("after", all.next.take());
        let page: SessionPage = ask(Method::Get, &args.admin.admin, query.as_str(), None).await?;
        all.read_from = page.read_from;
        all.sessions.extend(page.sessions);
        all.missing_partitions = page.missing_partitions;
        all.next_after = page.next_after;
        all.next = page.next;
        if all.next.is_none() || all.sessions.len() >= max {
            break;
        }
    }
    warn_incomplete(&all.missing_partitions, true);
    if let (Some(next), Output::Text) = (&all.next, args.admin.output) {
        eprintln!("there may be more: --after {next:?}, or --limit 0 for all");
    }
    Ok(match args.admin.output {
        Output::Json => output::json(&all)?,
        Output::Text => render(&all.sessions),
    })
}

fn render(sessions: &[SessionSummary]) -> String {
    let headings =
        ["CLIENT", "NODE", "KIND", ">SUBSCRIPTIONS", ">QUEUED", ">BYTES", ">INFLIGHT", ">PARTITION"];
    let mut table = Table::new(&headings);
    for session in sessions {
        // Those of a transient session are on its node, and not counted here.
        let counted = |count: String| if session.durable { count } else { "-".to_owned() };
        table.row(vec![
            session.client_id.clone(),
            session.node.clone().unwrap_or_else(|| "-".to_owned()),
            if session.durable { "durable" } else { "transient" }.to_owned(),
            counted(thousands(session.subscriptions)),
            counted(thousands(session.queued_messages)),
            counted(bytes(session.queued_bytes)),
            counted(thousands(session.inflight)),
            session.partition.to_string(),
        ]);
    }
    table.render()
}

async fn kick(args: OneArgs) -> Outcome {
    let OneArgs { client_id, admin } = args;
    let kicked: Kicked = ask(Method::Post, &admin.admin, &format!("{}/kick", path(&client_id)), None).await?;
    match admin.output {
        Output::Json => output::print_json(&kicked)?,
        Output::Text => {
            let node = kicked.node.as_deref().unwrap_or("its node");
            let text = match kicked.kicked {
                true => format!("{node} closes the connection of {client_id:?}\n"),
                false => format!("{client_id:?} has no connection\n"),
            };
            output::print(&text)?;
        }
    }
    Ok(())
}

async fn purge(args: PurgeArgs) -> Outcome {
    let PurgeArgs { one: OneArgs { client_id, admin }, leave } = args;
    if !leave.yes {
        let known = explain::ask(&admin.admin, &client_id).await?;
        agree(leave, &loss(&known))?;
    }
    let purged: Purged = ask(Method::Delete, &admin.admin, &path(&client_id), None).await?;
    match admin.output {
        Output::Json => output::print_json(&purged)?,
        Output::Text => output::print(&match purged.existed {
            true => format!("the session of {client_id:?} has ended\n"),
            false => format!("{client_id:?} has no session\n"),
        })?,
    }
    Ok(())
}

/// What a purge would take away.
fn loss(known: &SessionExplanation) -> String {
    let client_id = &known.client_id;
    let Some(session) = &known.session else {
        return format!("purge the session of {client_id:?}, which has none");
    };
    if !session.durable {
        let node = session.owner.as_ref().map_or("its node", |owner| owner.node.name.as_str());
        return format!("purge the transient session of {client_id:?}, with its connection on {node}");
    }
    let waiting = session.queue.messages + session.inflight.sent + session.inflight.held;
    let connection = match &session.owner {
        Some(owner) => format!("its connection on {}", owner.node.name),
        None => "no connection".to_owned(),
    };
    format!(
        "purge the session of {client_id:?}, with {} undelivered messages, {} subscriptions and {connection}",
        thousands(waiting),
        thousands(session.subscription_count)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{SessionNode, SessionOwner, SessionState};

    #[test]
    fn purge_says_what_is_lost() {
        let mut known = SessionExplanation { client_id: "c".to_owned(), ..SessionExplanation::default() };
        assert_eq!(loss(&known), "purge the session of \"c\", which has none");
        let mut session = SessionState { durable: true, subscription_count: 2, ..SessionState::default() };
        (session.queue.messages, session.inflight.held) = (1500, 3);
        known.session = Some(session.clone());
        let text =
            "purge the session of \"c\", with 1,503 undelivered messages, 2 subscriptions and no connection";
        assert_eq!(loss(&known), text);
        let node = SessionNode { name: "n2".to_owned(), ..SessionNode::default() };
        session.owner = Some(SessionOwner { node, ..SessionOwner::default() });
        known.session = Some(session);
        assert!(loss(&known).ends_with("and its connection on n2"));
        known.session.as_mut().unwrap().durable = false;
        assert_eq!(loss(&known), "purge the transient session of \"c\", with its connection on n2");
    }

    #[test]
    fn table_shows_who_is_where_with_how_much() {
        let sessions = [
            SessionSummary {
                client_id: "plant-1".to_owned(),
                node: Some("n2".to_owned()),
                owner: Some(2),
                durable: true,
                subscriptions: 3,
                queued_messages: 1200,
                queued_bytes: 4096,
                inflight: 10,
                partition: 7,
            },
            SessionSummary { client_id: "x".to_owned(), ..SessionSummary::default() },
        ];
        let text = render(&sessions);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["plant-1", "n2", "durable", "3", "1,200", "4.0", "KiB", "10", "7"]);
        assert_eq!(lines[2], ["x", "-", "transient", "-", "-", "-", "-", "0"]);
    }
}
