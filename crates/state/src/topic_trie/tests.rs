//! The topic trie against the wording of the specification and a plain matcher.

use super::*;

/// Straight from the wording of MQTT 5, 4.7.
fn matches_naive(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let mut filter = filter.split('/');
    let mut topic = topic.split('/');
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(left), Some(right)) if left == right => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

fn matched(trie: &TopicTrie<u32>, topic: &str) -> Vec<u32> {
    let mut found = Vec::new();
    trie.match_topic(topic, |value| found.push(*value));
    found.sort_unstable();
    found
}

#[test]
fn match_topic_of_examples_in_the_specification_agrees() {
    fn check(filter: &str, topic: &str, expected: bool) {
        let mut trie = TopicTrie::new();
        trie.insert(filter, 1);
        assert_eq!(matched(&trie, topic) == [1], expected, "{filter} against {topic}");
        assert_eq!(matches_naive(filter, topic), expected, "{filter} against {topic}");
    }
    check("sport/tennis/player1/#", "sport/tennis/player1", true);
    check("sport/tennis/player1/#", "sport/tennis/player1/ranking", true);
    check("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true);
    check("sport/#", "sport", true);
    check("#", "a/b/c", true);
    check("sport/tennis/+", "sport/tennis/player1", true);
    check("sport/tennis/+", "sport/tennis/player1/ranking", false);
    check("sport/+", "sport", false);
    check("sport/+", "sport/", true);
    check("+/+", "/finance", true);
    check("/+", "/finance", true);
    check("+", "/finance", false);
    check("#", "$SYS/x", false);
    check("+/monitor", "$SYS/monitor", false);
    check("$SYS/#", "$SYS/monitor", true);
    check("$SYS/+", "$SYS/monitor", true);
    check("a/+/b", "a/$x/b", true);
    check("a", "A", false);
}

#[test]
fn remove_of_all_filters_leaves_only_the_root() {
    let filters = ["a/b/c", "a/+/c", "a/#", "#", "+", "+/+/#", "", "/", "a//b", "a/b"];
    let mut trie = TopicTrie::new();
    for (value, filter) in (0..).zip(filters) {
        assert_eq!(trie.insert(filter, value), None);
    }
    assert_eq!(trie.len(), filters.len());
    assert_eq!(trie.insert("a/#", 70), Some(2));
    for filter in filters {
        assert!(trie.get(filter).is_some(), "{filter}");
        assert!(trie.remove(filter).is_some(), "{filter}");
        assert_eq!(trie.remove(filter), None);
    }
    assert!(trie.is_empty());
    assert_eq!(trie.nodes.len(), 1);
    assert_eq!(trie.levels.slots.len(), 0);
    assert!(trie.edges.is_empty());
    assert!(trie.levels.ids.is_empty());
}

#[test]
fn to_sorted_gives_every_filter_back() {
    let filters = ["#", "+", "+/#", "/", "a", "a/#", "a/+", "a/b"];
    let mut trie = TopicTrie::new();
    for filter in filters.iter().rev() {
        trie.insert(filter, ());
    }
    let sorted: Vec<String> = trie.to_sorted().into_iter().map(|(filter, ())| filter).collect();
    assert_eq!(sorted, filters);
}

#[test]
fn match_topic_with_more_levels_than_inline_matches() {
    let deep = vec!["x"; 100].join("/");
    let mut trie = TopicTrie::new();
    trie.insert(&deep, 1);
    trie.insert(&format!("{deep}/#"), 2);
    trie.insert(&vec!["+"; 100].join("/"), 3);
    trie.insert(&vec!["+"; 99].join("/"), 4);
    assert_eq!(matched(&trie, &deep), [1, 2, 3]);
}

#[test]
fn match_topic_with_sixty_thousand_levels_does_not_recurse() {
    let deep = vec!["+"; 60_000].join("/");
    let mut trie = TopicTrie::new();
    trie.insert(&deep, 1);
    assert_eq!(matched(&trie, &"/".repeat(59_999)), [1]);
    assert_eq!(trie.remove(&deep), Some(1));
    assert_eq!(trie.nodes.len(), 1);
}

#[test]
fn match_topic_of_random_filters_agrees_with_the_naive_rule() {
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let words = ["a", "b", "", "$s", "ab"];
    for _ in 0..200 {
        let mut filters = std::collections::BTreeMap::new();
        let mut trie = TopicTrie::new();
        for value in 0..40_u32 {
            let mut levels: Vec<&str> = (0..=random(4))
                .map(|_| if random(3) == 0 { "+" } else { words[random(5) as usize] })
                .collect();
            if random(4) == 0 {
                levels.push("#");
            }
            let filter = levels.join("/");
            if random(5) == 0 {
                let removed = filters.keys().next().cloned().unwrap_or(filter);
                assert_eq!(trie.remove(&removed), filters.remove(&removed));
            } else {
                assert_eq!(trie.insert(&filter, value), filters.insert(filter, value));
            }
        }
        for _ in 0..40 {
            let topic: Vec<&str> = (0..=random(4)).map(|_| words[random(5) as usize]).collect();
            let topic = topic.join("/");
            let mut expected: Vec<u32> = filters
                .iter()
                .filter(|(filter, _)| matches_naive(filter, &topic))
                .map(|(_, value)| *value)
                .collect();
            expected.sort_unstable();
            assert_eq!(matched(&trie, &topic), expected, "{topic} in {filters:?}");
        }
    }
}
