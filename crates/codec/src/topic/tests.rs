//! Rules of names, filters and shared subscriptions; matching against a second definition of it.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Result<TopicName, TopicError> {
    TopicName::new(Text::parse(text).unwrap())
}

fn filter(text: &str) -> Result<TopicFilter, TopicError> {
    TopicFilter::new(Text::parse(text).unwrap())
}

#[test]
fn topic_name_outside_the_rules_is_refused() {
    assert_eq!(name(""), Err(TopicError::Empty)); // [MQTT-4.7.3-1]
    assert_eq!(name("a/#"), Err(TopicError::Wildcard)); // [MQTT-3.3.2-2]
    assert_eq!(name("a+b"), Err(TopicError::Wildcard)); // [MQTT-3.3.2-2]
    assert_eq!(name(&"/".repeat(128)), Err(TopicError::Levels { levels: 129, max: 128 }));
    for good in ["/", "a", "a//b", "/a/", "$SYS/x", "$share/g/a", " ", "ä/ö", &"/".repeat(127)] {
        assert_eq!(name(good).unwrap().as_str(), good);
    }
}

#[test]
fn topic_filter_outside_the_rules_is_refused() {
    let check = |text: &str, error| assert_eq!(filter(text), Err(error), "{text}");
    check("", TopicError::Empty); // [MQTT-4.7.3-1]
    for place in ["a/#/b", "a/b#", "#a", "##", "a/b+/c", "+a", "++", "+#"] {
        check(place, TopicError::WildcardPlace); // [MQTT-4.7.1-1], [MQTT-4.7.1-2]
    }
    check("$share//x", TopicError::ShareName); // [MQTT-4.8.2-1]
    check("$share/", TopicError::ShareName); // [MQTT-4.8.2-1]
    check("$share/g+/x", TopicError::ShareName); // [MQTT-4.8.2-2]
    check("$share/#/x", TopicError::ShareName); // [MQTT-4.8.2-2]
    check("$share/g", TopicError::ShareFilter); // [MQTT-4.8.2-2]
    check("$share/g/", TopicError::ShareFilter); // [MQTT-4.8.2-2]
    check("$share/g/a/#/b", TopicError::WildcardPlace);
    check(&"/".repeat(128), TopicError::Levels { levels: 129, max: 128 });
    for good in
        ["#", "+", "/", "+/+", "/+", "a/+/#", "$share", "$share/g/#", "$share/g//", "$SYS/#", "$shared/x"]
    {
        assert_eq!(filter(good).unwrap().as_str(), good);
    }
}

#[test]
fn shared_filter_is_taken_apart() {
    let shared = filter("$share/g/a/+/#").unwrap();
    assert!(shared.is_shared());
    let (group, inner) = shared.shared().unwrap();
    assert_eq!((group, inner.as_str()), ("g", "a/+/#"));
    assert!(!inner.is_shared());
    assert_eq!(filter("$share/g//").unwrap().shared().unwrap().1.as_str(), "/");
    assert_eq!(filter("$share").unwrap().shared(), None);
}

#[test]
fn filter_matches_as_in_the_specification() {
    let check = |pattern: &str, topic: &str, expected: bool| {
        assert_eq!(filter(pattern).unwrap().matches(&name(topic).unwrap()), expected, "{pattern} {topic}");
    };
    // MQTT 5, 4.7.1.2
    for topic in
        ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"]
    {
        check("sport/tennis/player1/#", topic, true);
    }
    check("sport/#", "sport", true);
    check("sport/#", "sports", false);
    check("#", "sport/tennis", true);
    // MQTT 5, 4.7.1.3
    check("sport/tennis/+", "sport/tennis/player1", true);
    check("sport/tennis/+", "sport/tennis/player1/ranking", false);
    check("sport/+", "sport", false);
    check("sport/+", "sport/", true);
    check("+/+", "/finance", true);
    check("/+", "/finance", true);
    check("+", "/finance", false);
    check("+/tennis/#", "sport/tennis", true);
    // [MQTT-4.7.2-1]
    check("#", "$SYS/a", false);
    check("+/monitor/Clients", "$SYS/monitor/Clients", false);
    check("$SYS/#", "$SYS/a", true);
    check("$SYS/monitor/+", "$SYS/monitor/Clients", true);
    check("$share/g/#", "$SYS/a", false);
    check("$share/g/+/b", "a/b", true);
    check("a/#", "a/$b", true);
    // MQTT 5, 4.7.3: case, spaces and slashes count; nothing is normalised [MQTT-4.7.3-4].
    check("ACCOUNTS", "Accounts", false);
    check("a", "a/", false);
    check("/a", "a", false);
    check("e\u{301}", "\u{e9}", false);
}

/// The rules of matching said in another way: recursive, on vectors of levels.
fn matches_by_recursion(filter: &[&str], topic: &[&str]) -> bool {
    match (filter.split_first(), topic.split_first()) {
        (None, None) => true,
        (Some((&"#", _)), _) => true,
        (Some((pattern, patterns)), Some((level, levels))) => {
            (*pattern == "+" || pattern == level) && matches_by_recursion(patterns, levels)
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn filter_matches_like_the_recursive_definition(
        pattern in "(([ab$]?|\\+)/){0,4}([ab$]?|\\+|#)",
        topic in "([ab$]?/){0,4}[ab$]?",
    ) {
        if pattern.is_empty() || topic.is_empty() {
            return Ok(());
        }
        let expected = if topic.starts_with('$') && pattern.starts_with(['+', '#']) {
            false
        } else {
            let (levels, patterns): (Vec<_>, Vec<_>) = (topic.split('/').collect(), pattern.split('/').collect());
            matches_by_recursion(&patterns, &levels)
        };
        let name = name(&topic).unwrap();
        prop_assert_eq!(filter(&pattern).unwrap().matches(&name), expected);
        prop_assert_eq!(filter(&format!("$share/g/{pattern}")).unwrap().matches(&name), expected);
    }

    #[test]
    fn every_topic_name_is_a_filter_that_matches_itself(topic in "[a-c$/]{1,20}") {
        if topic.starts_with("$share/") {
            return Ok(());
        }
        prop_assert!(filter(&topic).unwrap().matches(&name(&topic).unwrap()));
    }

    #[test]
    fn filter_check_is_what_the_levels_say(pattern in "[a+#/]{1,8}") {
        let levels: Vec<&str> = pattern.split('/').collect();
        let good = levels.iter().enumerate().all(|(index, level)| {
            !level.contains(['+', '#']) || *level == "+" || (*level == "#" && index + 1 == levels.len())
        });
        prop_assert_eq!(filter(&pattern).is_ok(), good);
    }
}
