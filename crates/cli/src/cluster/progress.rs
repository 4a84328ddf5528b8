//! How far a rolling restart has come, kept in a file, so that a second run goes on where the first one stopped.
//!
//! Owns: the file. Does not: act. Invariants: written as a whole or not at all; a file of another cluster is refused; a node
//! counts as restarted when its incarnation is another than when the restart began.

use std::path::{Path, PathBuf};

use anyhow::Context;
use quorate_api::ClusterState;
use serde::{Deserialize, Serialize};

use crate::exit::{Failure, Outcome};

/// A rolling restart that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The cluster's identity.
    pub cluster_id: String,
    /// The nodes in the order in which they are restarted.
    pub nodes: Vec<NodeProgress>,
}

/// One node of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeProgress {
    /// Name.
    pub name: String,
    /// Incarnation before its restart.
    pub incarnation: u64,
    /// It is back in service.
    pub done: bool,
}

impl Progress {
    /// Begins with these nodes; all of them when none is named.
    pub fn begin(state: &ClusterState, wanted: &[String]) -> Outcome<Progress> {
        let known = |name: &String| state.nodes.iter().any(|node| node.name == *name);
        if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
            let names: Vec<&str> = state.nodes.iter().map(|node| node.name.as_str()).collect();
            return Err(Failure::usage(format!("there is no node {unknown:?}"))
                .hint(format!("the nodes are {}", names.join(", "))));
        }
        // The node that leads control comes last: its successor is then one that has been restarted.
        let leader = state.groups.iter().find(|group| group.id == 0).and_then(|group| group.leader);
        // While a node replaces a lost one there are two of its name: the later counts.
        let is_last =
            |at: usize, name: &str| state.nodes.iter().rposition(|node| node.name == name) == Some(at);
        let named = state.nodes.iter().enumerate().filter(|(at, node)| is_last(*at, &node.name));
        let mut nodes: Vec<_> = named
            .map(|(_, node)| node)
            .filter(|node| wanted.is_empty() || wanted.contains(&node.name))
            .collect();
        nodes.sort_by_key(|node| Some(node.id) == leader);
        let nodes = nodes.into_iter().map(|node| NodeProgress {
            name: node.name.clone(),
            incarnation: node.incarnation,
            done: false,
        });
        Ok(Progress { cluster_id: state.cluster_id.clone(), nodes: nodes.collect() })
    }

    /// Reads the file of a restart that has begun; `None` when there is none.
    pub fn read(file: &Path, state: &ClusterState) -> Outcome<Option<Progress>> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(anyhow::Error::new(error).context(reading(file)).into()),
        };
        let remove = format!("remove {} to begin anew", file.display());
        let progress: Progress = serde_json::from_str(&text)
            .map_err(|error| Failure::from(anyhow::Error::new(error).context(reading(file))).hint(&remove))?;
        if progress.cluster_id != state.cluster_id {
            let message = format!("{} belongs to another cluster", file.display());
            return Err(Failure::usage(message).hint(remove));
        }
        Ok(Some(progress))
    }

    /// Writes the file.
    pub fn write(&self, file: &Path) -> Outcome {
        let text = serde_json::to_string_pretty(self).map_err(anyhow::Error::from)?;
        let mut new = file.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        std::fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
        std::fs::rename(&new, file).with_context(|| format!("write {}", file.display()))?;
        Ok(())
    }

    /// Whether a node that now has this incarnation was restarted since the beginning.
    pub fn was_restarted(&self, name: &str, incarnation: u64) -> bool {
        self.nodes.iter().any(|node| node.name == name && incarnation != node.incarnation)
    }
}

fn reading(file: &Path) -> String {
    format!("read the progress of a rolling restart from {}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{GroupStatus, NodeStatus};

    fn state() -> ClusterState {
        let node =
            |id: u64| NodeStatus { id, name: format!("n{id}"), incarnation: 5, ..NodeStatus::default() };
        let control = GroupStatus { id: 0, leader: Some(1), ..GroupStatus::default() };
        ClusterState {
            cluster_id: "c1".to_owned(),
            nodes: (1..=3).map(node).collect(),
            groups: vec![control],
            ..ClusterState::default()
        }
    }

    #[test]
    fn leader_of_control_comes_last_and_unknown_nodes_are_refused() {
        let progress = Progress::begin(&state(), &[]).unwrap();
        let names: Vec<&str> = progress.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["n2", "n3", "n1"]);
        assert!(Progress::begin(&state(), &["n9".to_owned()]).is_err());
        assert_eq!(Progress::begin(&state(), &["n3".to_owned()]).unwrap().nodes.len(), 1);
    }

    #[test]
    fn node_that_replaces_another_is_restarted_once() {
        let mut state = state();
        let newer = NodeStatus { id: 4, name: "n3".to_owned(), incarnation: 7, ..NodeStatus::default() };
        state.nodes.push(newer);
        let progress = Progress::begin(&state, &["n3".to_owned()]).unwrap();
        let incarnations: Vec<u64> = progress.nodes.iter().map(|node| node.incarnation).collect();
        assert_eq!(incarnations, [7]);
    }

    #[test]
    fn file_is_read_back_and_one_of_another_cluster_refused() {
        let folder = std::env::temp_dir().join(format!("quorate-progress-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("progress.json");
        assert_eq!(Progress::read(&file, &state()).unwrap(), None);
        let progress = Progress::begin(&state(), &[]).unwrap();
        progress.write(&file).unwrap();
        assert_eq!(Progress::read(&file, &state()).unwrap(), Some(progress.clone()));
        assert!(progress.was_restarted("n2", 6) && !progress.was_restarted("n2", 5));
        let other = ClusterState { cluster_id: "c2".to_owned(), ..state() };
        assert!(Progress::read(&file, &other).is_err());
        std::fs::write(&file, "{").unwrap();
        assert!(Progress::read(&file, &state()).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
