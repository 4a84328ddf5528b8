//! A frame of `quorate top` as text that fits the terminal.
//!
//! Owns: what is shown where, and in which order. Does not: ask, write.
//! Invariants: never more lines than the terminal has, never a line wider than it.

use std::cmp::Reverse;

use quorate_api::QueueLength;

use super::frame::{Frame, NodeLine, Told};
use crate::table::{Table, bytes, thousands};
use crate::terminal::{Size, Tone};

/// Order of the queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Most messages first.
    #[default]
    Messages,
    /// Most bytes first.
    Bytes,
    /// Longest wait first.
    Oldest,
}

impl Order {
    /// The next one, for the key `s`.
    pub fn next(self) -> Order {
        match self {
            Order::Messages => Order::Bytes,
            Order::Bytes => Order::Oldest,
            Order::Oldest => Order::Messages,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Order::Messages => "messages",
            Order::Bytes => "bytes",
            Order::Oldest => "age",
        }
    }
}

/// The frame as lines. Without a size nothing is cut.
pub fn render(frame: &Frame, order: Order, size: Option<Size>) -> String {
    let columns = size.map(|size| size.columns);
    let rows = size.map_or(usize::MAX, |size| size.rows);
    let mut parts = vec![head(frame), String::new()];
    parts.extend(lines(&nodes(frame).render_within(columns)));
    parts.push(String::new());
    let left = rows.saturating_sub(parts.len());
    // A line each for the headings, one between the two parts.
    let (queues_max, events_max) = share(left.saturating_sub(3), frame.queues.len(), frame.events.len());
    if queues_max > 0 {
        parts.extend(lines(&queues(frame, order, queues_max).render_within(columns)));
        parts.push(String::new());
    }
    if events_max > 0 {
        parts.extend(lines(&events(frame, events_max).render_within(columns)));
    }
    if parts.last().is_some_and(String::is_empty) {
        parts.pop();
    }
    parts.truncate(rows);
    let fitted: Vec<String> =
        parts.into_iter().enumerate().map(|(at, line)| fit(at, line, columns)).collect();
    fitted.join("\n") + "\n"
}

/// The first line has no colours and is cut; tables fit already.
fn fit(at: usize, line: String, columns: Option<usize>) -> String {
    match columns {
        Some(columns) if at == 0 => line.chars().take(columns).collect(),
        _ => line,
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// How the lines are shared: both get what they need when it is there, else half each, the rest to whom can use it.
fn share(lines: usize, queues: usize, events: usize) -> (usize, usize) {
    let half = lines / 2;
    let for_queues = queues.min(lines.saturating_sub(events.min(half)));
    (for_queues, events.min(lines.saturating_sub(for_queues)))
}

fn head(frame: &Frame) -> String {
    let groups = match frame.leaderless.as_slice() {
        [] => format!("{} groups", frame.groups),
        leaderless => format!("{} OF {} GROUPS WITHOUT LEADER", leaderless.len(), frame.groups),
    };
    format!(
        "{} by {} | {groups} | {} conns | {} sess | {} queued ({}) | {} inflight",
        frame.cluster,
        frame.seen_by,
        thousands(frame.connections),
        thousands(frame.sessions),
        thousands(frame.queued_messages),
        bytes(frame.queued_bytes),
        thousands(frame.inflight),
    )
}

fn nodes(frame: &Frame) -> Table {
    let headings =
        ["NODE", "STATE", ">LEADS", ">CONNS", ">IN/S", ">OUT/S", ">P99 MS", ">DROP/S", ">B IN/S", ">B OUT/S"];
    let mut table = Table::new(&headings);
    for node in &frame.nodes {
        let (state, tone) = state(node);
        let unknown = || "-".to_owned();
        let figures = node.figures.as_ref();
        table.row(vec![
            node.name.clone(),
            state,
            node.leads.to_string(),
            node.connections.map_or_else(unknown, thousands),
            figures.map_or_else(unknown, |figures| rate(figures.messages_in_per_s)),
            figures.map_or_else(unknown, |figures| rate(figures.messages_out_per_s)),
            figures.and_then(|figures| figures.publish_latency_p99_us).map_or_else(unknown, milliseconds),
            figures.map_or_else(unknown, |figures| rate(figures.dropped_per_s)),
            figures.map_or_else(unknown, |figures| byte_rate(figures.bytes_in_per_s)),
            figures.map_or_else(unknown, |figures| byte_rate(figures.bytes_out_per_s)),
        ]);
        table.tint(1, tone);
        if figures.is_some_and(|figures| figures.dropped_per_s > 0.0) {
            table.tint(7, Tone::Odd);
        }
    }
    table
}

fn state(node: &NodeLine) -> (String, Tone) {
    let (word, tone) = match node {
        NodeLine { live: false, .. } => ("down", Tone::Bad),
        NodeLine { fenced: true, .. } => ("fenced", Tone::Bad),
        NodeLine { draining: true, .. } => ("draining", Tone::Odd),
        NodeLine { ready: Some(false), .. } => ("not ready", Tone::Bad),
        NodeLine { ready: None, .. } => ("live", Tone::Good),
        NodeLine { ready: Some(true), .. } => ("ready", Tone::Good),
    };
    (word.to_owned(), tone)
}

fn queues(frame: &Frame, order: Order, rows: usize) -> Table {
    let mut sorted: Vec<&QueueLength> = frame.queues.iter().collect();
    match order {
        Order::Messages => sorted.sort_by_key(|queue| Reverse(queue.messages)),
        Order::Bytes => sorted.sort_by_key(|queue| Reverse(queue.bytes)),
        Order::Oldest => sorted.sort_by_key(|queue| Reverse(queue.oldest_ms)),
    }
    let heading = format!("LONGEST QUEUES BY {}", order.word().to_uppercase());
    let mut table = Table::new(&[&heading, "NODE", ">MESSAGES", ">BYTES", ">OLDEST"]);
    for queue in sorted.into_iter().take(rows) {
        table.row(vec![
            queue.client_id.clone(),
            queue.node.clone().unwrap_or_else(|| if queue.online { "online" } else { "offline" }.to_owned()),
            thousands(queue.messages),
            bytes(queue.bytes),
            queue.oldest_ms.map_or_else(|| "-".to_owned(), age),
        ]);
    }
    table
}

fn events(frame: &Frame, rows: usize) -> Table {
    let mut table = Table::new(&[">AGO", "NODE", "EVENT"]);
    for Told { by, event } in frame.events.iter().take(rows) {
        table.row(vec![age(frame.at_ms.saturating_sub(event.at_ms)), by.clone(), event.text.clone()]);
    }
    table
}

/// `1234.5` as `1,234`, `3.21` as `3.2`.
fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 10.0 {
        format!("{per_second:.1}")
    } else {
        thousands(whole(per_second))
    }
}

fn byte_rate(per_second: f64) -> String {
    bytes(whole(per_second))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, which is what is wanted"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{}", microseconds / 1000, microseconds % 1000 / 100)
}

/// A time that passed, in its largest unit.
fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{Event, Figures};

    fn example(nodes: usize, queues: usize, events: usize) -> Frame {
        let node = |at: usize| NodeLine {
            name: format!("node-with-a-long-name-{at}"),
            live: at != 1,
            figures: Some(Figures {
                messages_in_per_s: 123_456.7,
                bytes_out_per_s: 9e8,
                ..Figures::default()
            }),
            connections: Some(1_000_000),
            ..NodeLine::default()
        };
        let queue = |at: usize| QueueLength {
            client_id: format!("client-{at}-{}\x1b[2J", "x".repeat(200)),
            messages: 10_000_000 + at as u64,
            bytes: 1 << (40 - at % 40),
            oldest_ms: Some(at as u64 * 1000),
            ..QueueLength::default()
        };
        let event = |at: usize| Told {
            by: "n1".into(),
            event: Event { at_ms: at as u64, text: "lost ".repeat(50), ..Event::default() },
        };
        Frame {
            at_ms: 100_000,
            cluster: "c".repeat(63),
            seen_by: "n1".into(),
            nodes: (0..nodes).map(node).collect(),
            queues: (0..queues).map(queue).collect(),
            events: (0..events).map(event).collect(),
            ..Frame::default()
        }
    }

    fn plain(text: &str) -> Vec<String> {
        anstream::adapter::strip_str(text).to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_frame_fits_the_terminal() {
        for (nodes, queues, events) in
            [(3, 0, 0), (3, 20, 20), (9, 20, 20), (32, 20, 20), (1, 1, 0), (0, 0, 5)]
        {
            for (columns, rows) in [(80, 23), (80, 10), (40, 5), (200, 60)] {
                let text =
                    render(&example(nodes, queues, events), Order::Bytes, Some(Size { columns, rows }));
                let lines = plain(&text);
                assert!(lines.len() <= rows, "{nodes} {queues} {events} in {rows} rows:\n{text}");
                let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
                assert!(widest <= columns, "{widest} in {columns} columns:\n{text}");
                assert!(!text.contains("\x1b[2J"), "a client steers the terminal");
            }
        }
    }

    #[test]
    fn queues_and_events_share_what_is_left() {
        for (lines, queues, events, expected) in [
            (10, 20, 20, (5, 5)),
            (10, 2, 20, (2, 8)),
            (10, 20, 2, (8, 2)),
            (10, 3, 3, (3, 3)),
            (0, 3, 3, (0, 0)),
        ] {
            assert_eq!(share(lines, queues, events), expected, "{lines} {queues} {events}");
        }
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_what_is_down_says_so() {
        let mut frame = example(2, 0, 0);
        frame.nodes[0].figures = None;
        let text = plain(&render(&frame, Order::Messages, None)).join("\n");
        assert!(text.contains("down") && text.contains("  -  "), "{text}");
        assert!(text.contains("123,457"), "{text}");
    }

    #[test]
    fn each_order_puts_another_queue_first() {
        let queue = |name: &str, messages, bytes, oldest| QueueLength {
            client_id: name.into(),
            messages,
            bytes,
            oldest_ms: Some(oldest),
            ..QueueLength::default()
        };
        let mut frame = example(0, 0, 0);
        frame.queues = vec![queue("many", 9, 1, 1), queue("large", 1, 9, 1), queue("old", 1, 1, 9)];
        let mut order = Order::default();
        for first in ["many", "large", "old", "many"] {
            let text = plain(&render(&frame, order, None)).join("\n");
            let at = |name: &str| text.find(name).unwrap();
            assert!(["many", "large", "old"].iter().all(|name| at(first) <= at(name)), "{first}:\n{text}");
            order = order.next();
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([rate(0.0), rate(3.21), rate(1234.5)], ["0", "3.2", "1,235"]);
        assert_eq!(
            [age(5_999), age(61_000), age(7_200_000), age(200_000_000)],
            ["5 s", "1 min", "2 h", "2 d"]
        );
        assert_eq!(milliseconds(12_345), "12.3");
    }
}
