//! `quorate events`, `quorate log-level` and `quorate reload`: one node while it runs.
//!
//! Owns: asking and laying the answers out. Does not: decide anything.
//! Invariants: `events --follow` shows each event once, and says when some were missed.

use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use quorate_api::{Event, EventPage, LogLevel, LogLevelChange, Reload};

use crate::exit::{Exit, Failure, Outcome};
use crate::http::{self, Method};
use crate::operator::AdminArgs;
use crate::output::{self, Output};
use crate::utc::utc;

/// Pause between two looks of `events --follow`.
const FOLLOW_PAUSE: Duration = Duration::from_millis(500);

/// Flags of `quorate events`.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Wait for later ones until interrupted
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    asked: AdminArgs,
}

/// Flags of `quorate log-level`.
#[derive(Args, Debug)]
pub struct LogLevelArgs {
    /// A level, or a filter such as info,quorate_node=debug; shows the one in force without it
    filter: Option<String>,
    /// Return to the filter before after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "filter")]
    seconds: Option<u64>,
    #[command(flatten)]
    asked: AdminArgs,
}

/// Flags of `quorate reload`.
#[derive(Args, Debug)]
pub struct ReloadArgs {
    #[command(flatten)]
    asked: AdminArgs,
}

/// Runs `quorate events`.
pub async fn events(args: EventsArgs) -> Outcome {
    let mut after: Option<u64> = None;
    loop {
        let path = match after {
            Some(after) => format!("/v1/events?limit=1000&after={after}"),
            None => "/v1/events?limit=1000".to_owned(),
        };
        let page: EventPage = match http::ask(Method::Get, &args.asked.admin, &path, None).await {
            // A node that starts again is worth waiting for.
            Err(Failure { exit: Exit::Unreachable, .. }) if args.follow && after.is_some() => {
                tokio::select! {
                    () = tokio::time::sleep(FOLLOW_PAUSE) => continue,
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                }
            }
            page => page?,
        };
        if page.missed > 0 {
            eprintln!("{} events came and went meanwhile", page.missed);
        }
        show(&page, args.asked.output)?;
        let more = !page.events.is_empty();
        after = Some(page.next);
        if !args.follow && !more {
            return Ok(());
        }
        if !more {
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_PAUSE) => (),
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }
}

fn show(page: &EventPage, form: Output) -> Outcome {
    for event in &page.events {
        match form {
            Output::Json => output::print_json(event)?,
            Output::Text => output::print(&line(event))?,
        }
    }
    Ok(())
}

fn line(event: &Event) -> String {
    let node = event.node.as_ref().map_or_else(String::new, |node| format!(" ({node})"));
    format!("{}  {:<22}  {}{node}\n", utc(event.at_ms), event.kind, event.text)
}

/// Runs `quorate log-level`.
pub async fn log_level(args: LogLevelArgs) -> Outcome {
    const PATH: &str = "/v1/log-level";
    let admin = &args.asked.admin;
    let level: LogLevel = match args.filter {
        None => http::ask(Method::Get, admin, PATH, None).await?,
        Some(filter) => {
            let change = LogLevelChange { filter, seconds: args.seconds };
            let body = serde_json::to_string(&change).context("format as JSON")?;
            http::ask(Method::Put, admin, PATH, Some(&body)).await?
        }
    };
    match args.asked.output {
        Output::Json => output::print_json(&level)?,
        Output::Text => {
            let time = level.seconds.map_or_else(String::new, |seconds| format!(" (for {seconds} s more)"));
            output::print(&format!("{}{time}\n", level.filter))?;
        }
    }
    Ok(())
}

/// Runs `quorate reload`. A configuration that is refused is a failure.
pub async fn reload(args: ReloadArgs) -> Outcome {
    const PATH: &str = "/v1/reload";
    let admin = &args.asked.admin;
    let response = http::request(Method::Post, admin, PATH, None).await.map_err(http::unreached)?;
    if response.status != 200 && response.status != 422 {
        return Err(http::refusal(admin, &response));
    }
    let reload: Reload = serde_json::from_slice(&response.body)
        .with_context(|| format!("read the answer of {admin}{PATH}"))?;
    match args.asked.output {
        Output::Json => output::print_json(&reload)?,
        Output::Text => output::print(&render(&reload))?,
    }
    match reload.error {
        None => Ok(()),
        Some(error) => {
            let problem = anyhow!("the configuration was refused, nothing has changed: {}", error.message);
            Err(Failure::new(Exit::Failed, problem).hint(error.hint))
        }
    }
}

fn render(reload: &Reload) -> String {
    if !reload.errors.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    for (keys, what) in [
        (&reload.applied, "in force now"),
        (&reload.needs_restart, "needs a restart"),
        (&reload.without_effect, "without effect (the cluster keeps what it began with)"),
    ] {
        keys.iter().for_each(|key| text.push_str(&format!("{what}: {key}\n")));
    }
    if text.is_empty() { "nothing has changed\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_a_line() {
        let event = Event {
            at_ms: 1_000,
            kind: "node_down".to_owned(),
            node: Some("n2".to_owned()),
            text: "Control declared node 2 down.".to_owned(),
            ..Event::default()
        };
        let expected =
            "1970-01-01T00:00:01.000Z  node_down               Control declared node 2 down. (n2)\n";
        assert_eq!(line(&event), expected);
    }

    #[test]
    fn reload_tells_each_key_and_what_becomes_of_it() {
        let keys = |key: &str| vec![key.to_owned()];
        let reload = Reload {
            applied: keys("log.level"),
            needs_restart: keys("node.data_dir"),
            without_effect: keys("cluster.name"),
            ..Reload::default()
        };
        let text = render(&reload);
        assert!(text.starts_with("in force now: log.level\nneeds a restart: node.data_dir\n"), "{text}");
        assert!(text.contains("cluster.name"), "{text}");
        assert_eq!(render(&Reload::default()), "nothing has changed\n");
    }
}
