//! `GET /readyz`: may this node take traffic, and if not, why.
//!
//! Owns: the list of clauses and the verdict over them.
//! Does not: decide anything; the server fills it in.
//! Invariants: `ready` is true exactly when every clause is ok.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /readyz`: status 200 when ready, else 503, with the same body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Every clause is ok.
    pub ready: bool,
    /// All clauses, those that failed too.
    pub clauses: Vec<Clause>,
}

/// One condition of readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Clause {
    /// Short stable name in snake_case, such as `lease`.
    pub name: String,
    /// The condition holds.
    pub ok: bool,
    /// What is missing, in a sentence; empty when the condition holds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Readiness {
    /// The verdict over `clauses`.
    pub fn of(clauses: Vec<Clause>) -> Readiness {
        Readiness { ready: clauses.iter().all(|clause| clause.ok), clauses }
    }

    /// The clauses that do not hold.
    pub fn failed(&self) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().filter(|clause| !clause.ok)
    }
}

impl Clause {
    /// A condition that holds.
    pub fn met(name: &str) -> Clause {
        Clause { name: name.to_owned(), ok: true, reason: String::new() }
    }

    /// A condition that does not hold, and why.
    pub fn failed(name: &str, reason: impl Into<String>) -> Clause {
        Clause { name: name.to_owned(), ok: false, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_clause_makes_it_unready() {
        let readiness = Readiness::of(vec![Clause::met("log"), Clause::failed("lease", "no quorum")]);
        assert!(!readiness.ready);
        assert_eq!(readiness.failed().map(|clause| clause.name.as_str()).collect::<Vec<_>>(), ["lease"]);
        assert!(Readiness::of(vec![Clause::met("log")]).ready);
    }
}
