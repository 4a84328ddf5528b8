//! `quorate retained`: list, read and delete retained messages.
//!
//! Owns: the flags, the pages, the layout. Does not: decode Base64: a payload is shown as the server gives it, or as text by
//! `quorate sub --retained-only`. Limits: ADMIN_PAGE_ROWS rows per request.

use clap::{Args, Subcommand};
use quorate_api::{RetainedDeleted, RetainedMessage, RetainedPage, RetainedSummary};

use crate::exit::Outcome;
use crate::http::{Method, ask};
use crate::limits::ADMIN_PAGE_ROWS;
use crate::operator::{AdminArgs, LeaveArgs, Query, agree, warn_incomplete};
use crate::output::{self, Output};
use crate::table::{Table, printable, thousands};
use crate::watch::WatchFlags;

/// Flags of `quorate retained`.
#[derive(Args, Debug)]
pub struct RetainedArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List retained messages, by topic
    List(ListArgs),
    /// Show the retained message of a topic; its payload in Base64
    Get(OneArgs),
    /// Delete the retained message of a topic; subscribers are sent nothing
    Delete(DeleteArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Those whose topics match
    #[arg(long, value_name = "FILTER", default_value = "#")]
    filter: String,
    /// Begin after this topic
    #[arg(long, value_name = "TOPIC")]
    after: Option<String>,
    /// Most messages to list; 0 for all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    watch: WatchFlags,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args, Debug)]
struct OneArgs {
    /// Topic name
    topic: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args, Debug)]
struct DeleteArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    leave: LeaveArgs,
}

/// Runs the command.
pub async fn run(args: RetainedArgs) -> Outcome {
    match args.action {
        Action::List(args) => list(args).await,
        Action::Get(args) => get(args).await,
        Action::Delete(args) => delete(args).await,
    }
}

fn path(topic: &str) -> Query {
    Query::new("/v1/retained/message").with("topic", Some(topic))
}

async fn list(args: ListArgs) -> Outcome {
    args.watch.show(args.admin.output, async || frame(&args).await).await
}

/// One list, as text or JSON.
async fn frame(args: &ListArgs) -> Outcome<String> {
    let mut all = RetainedPage { next: args.after.clone(), ..RetainedPage::default() };
    let max = if args.limit == 0 { usize::MAX } else { args.limit };
    loop {
        let left = max.saturating_sub(all.messages.len()).min(ADMIN_PAGE_ROWS);
        let query = Query::new("/v1/retained")
            .with("filter", Some(&args.filter))
            .with("limit", Some(left))
            .with("after", all.next.take());
        let page: RetainedPage = ask(Method::Get, &args.admin.admin, query.as_str(), None).await?;
        all.messages.extend(page.messages);
        all.incomplete_groups = page.incomplete_groups;
        all.next = page.next;
        if all.next.is_none() || all.messages.len() >= max {
            break;
        }
    }
    warn_incomplete(&all.incomplete_groups, true);
    if let (Some(next), Output::Text) = (&all.next, args.admin.output) {
        eprintln!("there may be more: --after {next:?}, or --limit 0 for all");
    }
    Ok(match args.admin.output {
        Output::Json => output::json(&all)?,
        Output::Text => render(&all.messages),
    })
}

fn render(messages: &[RetainedSummary]) -> String {
    let mut table = Table::new(&["TOPIC", ">QOS", ">PAYLOAD BYTES", ">EXPIRES IN"]);
    for message in messages {
        table.row(vec![
            message.topic.clone(),
            message.qos.to_string(),
            thousands(message.payload_bytes),
            expiry(message.expiry_s),
        ]);
    }
    table.render()
}

fn expiry(expiry_s: Option<u32>) -> String {
    expiry_s.map_or_else(|| "never".to_owned(), |seconds| format!("{} s", thousands(seconds.into())))
}

async fn get(args: OneArgs) -> Outcome {
    let message: RetainedMessage =
        ask(Method::Get, &args.admin.admin, path(&args.topic).as_str(), None).await?;
    match args.admin.output {
        Output::Json => output::print_json(&message)?,
        Output::Text => output::print(&render_one(&message))?,
    }
    Ok(())
}

fn render_one(message: &RetainedMessage) -> String {
    let topic = printable(message.topic.clone());
    let mut text = format!("topic         {topic}\nqos           {}\n", message.qos);
    text.push_str(&format!("expires in    {}\n", expiry(message.expiry_s)));
    if let Some(content_type) = &message.content_type {
        text.push_str(&format!("content type  {}\n", printable(content_type.clone())));
    }
    for (name, value) in &message.user_properties {
        text.push_str(&format!("property      {}\n", printable(format!("{name}: {value}"))));
    }
    let bytes = thousands(message.payload_bytes);
    text.push_str(&format!("payload       {bytes} bytes, in Base64 below\n\n{}\n", message.payload_base64));
    text
}

async fn delete(args: DeleteArgs) -> Outcome {
    let DeleteArgs { one: OneArgs { topic, admin }, leave } = args;
    agree(leave, &format!("delete the retained message of {topic:?}"))?;
    let deleted: RetainedDeleted = ask(Method::Delete, &admin.admin, path(&topic).as_str(), None).await?;
    match admin.output {
        Output::Json => output::print_json(&deleted)?,
        Output::Text => output::print(&match deleted.existed {
            true => format!("the retained message of {topic:?} is deleted\n"),
            false => format!("{topic:?} has no retained message\n"),
        })?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_shown_with_what_it_has() {
        let mut message = RetainedMessage {
            topic: "a/b".to_owned(),
            qos: 1,
            payload_base64: "aGVsbG8=".to_owned(),
            payload_bytes: 5,
            ..RetainedMessage::default()
        };
        let plain = "topic         a/b\nqos           1\nexpires in    never\npayload       5 bytes, in Base64 below\n\naGVsbG8=\n";
        assert_eq!(render_one(&message), plain);
        message.expiry_s = Some(3600);
        message.content_type = Some("text/plain".to_owned());
        message.user_properties = vec![("k".to_owned(), "v".to_owned())];
        let text = render_one(&message);
        assert!(text.contains("3,600 s\ncontent type  text/plain\nproperty      k: v\n"), "{text}");
        let row = RetainedSummary { topic: "a".to_owned(), qos: 0, payload_bytes: 1200, expiry_s: None };
        let text = render(&[row]);
        let cells: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(cells, ["a", "0", "1,200", "never"]);
    }
}
