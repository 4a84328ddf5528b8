//! Any two texts as filter and topic: the checks agree with the rules said in another way, and so does matching.
//!
//! Input: the filter, a zero byte, the topic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_codec::limits::LEVELS_MAX;
use quorate_codec::{Text, TopicFilter, TopicName};

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let (Some(Ok(filter)), Some(Ok(topic))) =
        (parts.next().map(std::str::from_utf8), parts.next().map(std::str::from_utf8))
    else {
        return;
    };
    let name = Text::parse(topic).ok().and_then(|text| TopicName::new(text).ok());
    let parsed = Text::parse(filter).ok().and_then(|text| TopicFilter::new(text).ok());
    if let Ok(text) = Text::parse(topic) {
        let levels: Vec<&str> = text.split('/').collect();
        let good = !text.is_empty() && levels.len() <= LEVELS_MAX && !text.contains(['+', '#']);
        assert_eq!(name.is_some(), good);
    }
    if let Ok(text) = Text::parse(filter) {
        assert_eq!(parsed.is_some(), is_filter(&text));
    }
    let (Some(name), Some(parsed)) = (name, parsed) else {
        return;
    };
    let inner = match parsed.shared() {
        Some((group, inner)) => {
            assert_eq!(format!("$share/{group}/{inner}"), filter);
            inner
        }
        None => parsed.clone(),
    };
    let dollar = topic.starts_with('$') && inner.as_str().starts_with(['+', '#']);
    let (filters, levels): (Vec<&str>, Vec<&str>) = (inner.levels().collect(), name.levels().collect());
    assert_eq!(parsed.matches(&name), !dollar && matches(&filters, &levels));
});

/// The rules of filters, level by level.
fn is_filter(text: &str) -> bool {
    let mut levels: Vec<&str> = text.split('/').collect();
    if text.is_empty() || levels.len() > LEVELS_MAX {
        return false;
    }
    if levels[0] == "$share" && levels.len() > 1 {
        let name = levels[1];
        if name.is_empty() || name.contains(['+', '#']) || levels.len() < 3 || levels[2..] == [""] {
            return false;
        }
        levels.drain(..2);
    }
    let last = levels.len() - 1;
    levels.iter().enumerate().all(|(index, level)| {
        !level.contains(['+', '#']) || *level == "+" || (*level == "#" && index == last)
    })
}

/// The rules of matching, by recursion.
fn matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        ([], []) => true,
        (["#"], _) => true,
        ([pattern, patterns @ ..], [level, levels @ ..]) => {
            (*pattern == "+" || pattern == level) && matches(patterns, levels)
        }
        _ => false,
    }
}
