//! Topic filters as a trie: from a topic name to everything that was stored under a matching filter.
//!
//! Owns: filters, split into levels, and one value per filter. Used for the subscriptions of a partition and for
//! the route table of a node, which holds a million filters.
//! Does not: check the rules of filters and topic names; `quorate_codec` has done it.
//! Invariants: no recursion, whatever the number of levels; the order of a match depends on the filters only, not on
//! the order in which they were inserted; a node without value and children does not exist, except the root.
//! Limits: about 100 bytes per node of the trie, and 70 plus its length per distinct level.
//! Spec: MQTT 5, 4.7.

use std::collections::HashMap; // lookup only
use std::sync::Arc;

use crate::hash::NumberState;
use crate::limits::TOPIC_LEVELS_INLINE;

/// "No node", "no value", "no such level".
const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// Topic filters with a value each.
#[derive(Clone, Debug)]
pub struct TopicTrie<V> {
    nodes: Slab<Node>,
    values: Slab<V>,
    levels: Levels,
    /// Child of (node, level). Point lookups only.
    edges: HashMap<u64, u32, NumberState>,
}

/// One level of the filters that go through it. `#` is not a node but a value of the node before it.
#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    level: u32,
    /// Child for the level `+`.
    plus: u32,
    /// Value of the filter that ends here.
    value: u32,
    /// Value of the filter that goes on with `#` and ends.
    hash: u32,
    /// Children other than `plus`.
    children: u32,
}

impl Node {
    fn new(parent: u32, level: u32) -> Self {
        Self { parent, level, plus: NONE, value: NONE, hash: NONE, children: 0 }
    }

    fn is_unused(&self) -> bool {
        self.plus == NONE && self.value == NONE && self.hash == NONE && self.children == 0
    }
}

impl<V> Default for TopicTrie<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> TopicTrie<V> {
    /// A trie without filters.
    #[must_use]
    pub fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(NONE, NONE));
        Self { nodes, values: Slab::new(), levels: Levels::default(), edges: HashMap::default() }
    }

    /// Number of filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no filters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.len() == 0
    }

    /// Calls `visit` with the value of every filter that matches `topic` [MQTT-4.7.1-2, MQTT-4.7.1-3].
    /// A filter that begins with a wildcard does not match a topic that begins with `$` [MQTT-4.7.2-1].
    pub fn match_topic<'t>(&'t self, topic: &str, mut visit: impl FnMut(&'t V)) {
        let mut inline = [NONE; TOPIC_LEVELS_INLINE];
        let mut spilled = Vec::new();
        let levels = self.levels_of(topic, &mut inline, &mut spilled);
        let system = topic.starts_with('$');
        // Branches still to be walked: a node, and how many levels lead to it.
        let mut open: Vec<(u32, usize)> = Vec::new();
        let mut next = Some((ROOT, 0));
        while let Some((index, depth)) = next {
            let node = self.node(index);
            let wildcards = !(system && depth == 0);
            if wildcards && node.hash != NONE {
                visit(self.values.at(node.hash));
            }
            let Some(level) = levels.get(depth) else {
                if node.value != NONE {
                    visit(self.values.at(node.value));
                }
                next = open.pop();
                continue;
            };
            let exact = if node.children == 0 { None } else { self.child(index, *level) };
            let plus = (wildcards && node.plus != NONE).then_some(node.plus);
            next = match (exact, plus) {
                (Some(exact), Some(plus)) => {
                    open.push((plus, depth + 1));
                    Some((exact, depth + 1))
                }
                (Some(only), None) | (None, Some(only)) => Some((only, depth + 1)),
                (None, None) => open.pop(),
            };
        }
    }

    /// The value of a filter.
    #[must_use]
    pub fn get(&self, filter: &str) -> Option<&V> {
        let slot = self.slot(filter)?;
        Some(self.values.at(slot))
    }

    /// The value of a filter, to be changed.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        let slot = self.slot(filter)?;
        Some(self.values.at_mut(slot))
    }

    /// Stores a value; returns the one that was there.
    pub fn insert(&mut self, filter: &str, value: V) -> Option<V> {
        let mut new = Some(value);
        let stored = self.entry(filter, || new.take().expect("called at most once"));
        new.map(|value| std::mem::replace(stored, value))
    }

    /// The value of a filter; `make` supplies it when there is none.
    pub fn entry(&mut self, filter: &str, make: impl FnOnce() -> V) -> &mut V {
        let (path, multi) = split_filter(filter);
        let mut at = ROOT;
        for level in path {
            at = self.child_or_new(at, level);
        }
        let node = self.node(at);
        let mut slot = if multi { node.hash } else { node.value };
        if slot == NONE {
            slot = self.values.insert(make());
            let node = self.nodes.at_mut(at);
            *(if multi { &mut node.hash } else { &mut node.value }) = slot;
        }
        self.values.at_mut(slot)
    }

    /// Takes a filter out; returns its value.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        let (at, multi) = self.find(filter)?;
        let node = self.nodes.at_mut(at);
        let field = if multi { &mut node.hash } else { &mut node.value };
        let slot = std::mem::replace(field, NONE);
        if slot == NONE {
            return None;
        }
        self.prune(at);
        Some(self.values.remove(slot))
    }

    /// All filters with their values, in byte order of the filters. Allocates for each: for people and for tests.
    #[must_use]
    pub fn to_sorted(&self) -> Vec<(String, &V)> {
        let mut all = Vec::with_capacity(self.len());
        for (index, node) in self.nodes.iter() {
            if node.value != NONE {
                all.push((self.path(index, None), self.values.at(node.value)));
            }
            if node.hash != NONE {
                all.push((self.path(index, Some("#")), self.values.at(node.hash)));
            }
        }
        all.sort_by(|left, right| left.0.cmp(&right.0));
        all
    }

    fn path(&self, mut index: u32, last: Option<&'static str>) -> String {
        let mut levels: Vec<&str> = last.into_iter().collect();
        while index != ROOT {
            let node = self.node(index);
            levels.push(if node.level == NONE { "+" } else { self.levels.text(node.level) });
            index = node.parent;
        }
        levels.reverse();
        levels.join("/")
    }

    fn node(&self, index: u32) -> &Node {
        self.nodes.at(index)
    }

    fn child(&self, node: u32, level: u32) -> Option<u32> {
        if level == NONE {
            return None;
        }
        self.edges.get(&edge(node, level)).copied()
    }

    fn levels_of<'a>(&self, topic: &str, inline: &'a mut [u32], spilled: &'a mut Vec<u32>) -> &'a [u32] {
        let mut count = 0;
        for level in topic.split('/') {
            let id = self.levels.find(level);
            match inline.get_mut(count) {
                Some(place) if spilled.is_empty() => *place = id,
                _ => {
                    if spilled.is_empty() {
                        spilled.extend_from_slice(inline);
                    }
                    spilled.push(id);
                }
            }
            count += 1;
        }
        if spilled.is_empty() {
            inline.get(..count).expect("only as many as fit were counted")
        } else {
            spilled
        }
    }

    /// Node of a filter, and whether the filter is that node's `#`.
    fn find(&self, filter: &str) -> Option<(u32, bool)> {
        let (path, multi) = split_filter(filter);
        let mut at = ROOT;
        for level in path {
            at = if level == "+" {
                Some(self.node(at).plus).filter(|plus| *plus != NONE)?
            } else {
                self.child(at, self.levels.find(level))?
            };
        }
        Some((at, multi))
    }

    fn slot(&self, filter: &str) -> Option<u32> {
        let (at, multi) = self.find(filter)?;
        let node = self.node(at);
        Some(if multi { node.hash } else { node.value }).filter(|slot| *slot != NONE)
    }

    fn child_or_new(&mut self, parent: u32, level: &str) -> u32 {
        if level == "+" {
            let plus = self.node(parent).plus;
            if plus != NONE {
                return plus;
            }
            let new = self.nodes.insert(Node::new(parent, NONE));
            self.nodes.at_mut(parent).plus = new;
            return new;
        }
        if let Some(child) = self.child(parent, self.levels.find(level)) {
            return child;
        }
        let level = self.levels.acquire(level);
        let new = self.nodes.insert(Node::new(parent, level));
        self.edges.insert(edge(parent, level), new);
        self.nodes.at_mut(parent).children += 1;
        new
    }

    /// Takes out `at` and its ancestors as far as nothing needs them any more.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let node = *self.node(at);
            if !node.is_unused() {
                return;
            }
            self.nodes.remove(at);
            let parent = self.nodes.at_mut(node.parent);
            if node.level == NONE {
                parent.plus = NONE;
            } else {
                parent.children -= 1;
                self.edges.remove(&edge(node.parent, node.level));
                self.levels.release(node.level);
            }
            at = node.parent;
        }
    }
}

fn edge(node: u32, level: u32) -> u64 {
    (u64::from(node) << 32) | u64::from(level)
}

/// The levels before a final `#`, and whether there is one.
fn split_filter(filter: &str) -> (impl Iterator<Item = &str>, bool) {
    let (path, multi) = match filter.strip_suffix('#') {
        Some("") => (None, true),
        Some(before) => match before.strip_suffix('/') {
            Some(path) => (Some(path), true),
            None => (Some(filter), false),
        },
        None => (Some(filter), false),
    };
    (path.into_iter().flat_map(|path| path.split('/')), multi)
}

/// Each distinct level text once, counted by the nodes that use it.
#[derive(Clone, Default, Debug)]
struct Levels {
    /// Keys come from clients, so the hasher is seeded. Point lookups only.
    ids: HashMap<Arc<str>, u32>,
    slots: Slab<(Arc<str>, u32)>,
}

impl Levels {
    fn find(&self, level: &str) -> u32 {
        self.ids.get(level).copied().unwrap_or(NONE)
    }

    fn text(&self, id: u32) -> &str {
        &self.slots.at(id).0
    }

    fn acquire(&mut self, level: &str) -> u32 {
        let known = self.find(level);
        if known != NONE {
            self.slots.at_mut(known).1 += 1;
            return known;
        }
        let text: Arc<str> = level.into();
        let id = self.slots.insert((Arc::clone(&text), 1));
        self.ids.insert(text, id);
        id
    }

    fn release(&mut self, id: u32) {
        let slot = self.slots.at_mut(id);
        slot.1 -= 1;
        if slot.1 == 0 {
            let (level, _) = self.slots.remove(id);
            self.ids.remove(&level);
        }
    }
}

/// Values in numbered places; free places are used again.
#[derive(Clone, Debug)]
struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            *self.place(index) = Some(value);
            return index;
        }
        let index = u32::try_from(self.places.len()).ok().filter(|index| *index != NONE);
        self.places.push(Some(value));
        index.expect("memory ends before four thousand million places")
    }

    fn remove(&mut self, index: u32) -> T {
        let value = self.place(index).take().expect("the place is in use");
        self.free.push(index);
        value
    }

    fn place(&mut self, index: u32) -> &mut Option<T> {
        self.places.get_mut(index as usize).expect("the place was handed out")
    }

    fn at(&self, index: u32) -> &T {
        self.places.get(index as usize).and_then(Option::as_ref).expect("the place is in use")
    }

    fn at_mut(&mut self, index: u32) -> &mut T {
        self.place(index).as_mut().expect("the place is in use")
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0_u32..).zip(&self.places).filter_map(|(index, place)| Some((index, place.as_ref()?)))
    }
}

#[cfg(test)]
mod tests;
