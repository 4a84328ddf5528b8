//! Exit codes of the daemon, and how it stops at once.
//!
//! Owns: the meaning of each code (docs/operations/exit-codes.md). Does not: clean up; whoever calls `stop_now` must not
//! go on for a single write.

/// Why the process ends. Numbers follow sysexits where one fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitCode {
    /// Stopped as asked.
    Clean,
    /// Something that should not happen: a bug. Code 70.
    Internal,
    /// The log, a checkpoint or an identity is corrupt; the node must not go on with it. Code 65.
    Corrupt,
    /// A listener, a certificate or the data folder cannot be used, or another process holds it. Code 69.
    Unavailable,
    /// A write or a sync failed: what it should have made durable may be lost, and is verified at the next start.
    /// Code 74.
    Disk,
    /// The configuration is wrong. Code 78.
    Config,
    /// The node was removed from its cluster for good. Code 67.
    Removed,
}

impl ExitCode {
    /// The number that the process ends with.
    pub fn number(self) -> i32 {
        match self {
            ExitCode::Clean => 0,
            ExitCode::Corrupt => 65,
            ExitCode::Unavailable => 69,
            ExitCode::Internal => 70,
            ExitCode::Disk => 74,
            ExitCode::Config => 78,
            ExitCode::Removed => 67,
        }
    }
}

/// Ends the process at once, without flushing or answering anything.
pub fn stop_now(code: ExitCode, reason: &str) -> ! {
    tracing::error!(exit_code = code.number(), reason, "the node stops at once");
    std::process::exit(code.number());
}

/// Ends the process of a node that its cluster has removed. It holds nothing any more that somebody could miss.
pub fn stop_removed() -> ! {
    let code = ExitCode::Removed.number();
    tracing::warn!(
        exit_code = code,
        "this node was removed from its cluster: it stops, and does not start again with this data folder; with an empty one it \
         joins as a new node"
    );
    std::process::exit(code);
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
