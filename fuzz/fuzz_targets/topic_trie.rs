//! Filters in and out of the trie in any order: what matches a topic is what matches it filter by filter.
//!
//! Input: operations, see the loop. Filters and topics are made of few levels, so that they meet.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use quorate_codec::{Text, TopicFilter, TopicName};
use quorate_fuzz::Bytes;
use quorate_state::TopicTrie;

const LEVELS: [&str; 8] = ["", "a", "b", "ab", "$x", "+", "+", "#"];

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let mut trie: TopicTrie<u32> = TopicTrie::new();
    let mut model: BTreeMap<String, u32> = BTreeMap::new();
    let mut number = 0;
    while !bytes.is_empty() {
        match bytes.below(4) {
            0 | 1 => {
                let Some(filter) = filter(&mut bytes) else { continue };
                number += 1;
                *trie.entry(filter.as_str(), || 0) = number;
                model.insert(filter.as_str().to_owned(), number);
            }
            2 => {
                let Some(filter) = filter(&mut bytes) else { continue };
                assert_eq!(trie.remove(filter.as_str()), model.remove(filter.as_str()));
            }
            _ => {
                let Some(topic) = topic(&mut bytes) else { continue };
                let mut found = Vec::new();
                trie.match_topic(topic.as_str(), |value| found.push(*value));
                found.sort_unstable();
                let fits = |(filter, _): &(&String, &u32)| {
                    Text::parse(filter)
                        .ok()
                        .and_then(|text| TopicFilter::new(text).ok())
                        .is_some_and(|filter| filter.matches(&topic))
                };
                let mut expected: Vec<u32> = model.iter().filter(fits).map(|(_, number)| *number).collect();
                expected.sort_unstable();
                assert_eq!(found, expected, "{}", topic.as_str());
            }
        }
        assert_eq!(trie.len(), model.len());
    }
});

fn levels(bytes: &mut Bytes<'_>, kinds: usize) -> String {
    let count = 1 + bytes.below(5);
    let levels: Vec<&str> = (0..count).map(|_| LEVELS[bytes.below(kinds)]).collect();
    levels.join("/")
}

fn filter(bytes: &mut Bytes<'_>) -> Option<TopicFilter> {
    TopicFilter::new(Text::parse(&levels(bytes, LEVELS.len())).ok()?).ok()
}

fn topic(bytes: &mut Bytes<'_>) -> Option<TopicName> {
    TopicName::new(Text::parse(&levels(bytes, 5)).ok()?).ok()
}
