//! How the program ends: exit codes, and the failure type that every command returns.
//!
//! Owns: the meaning of each exit code and its place in `--help`.
//! Does not: print; `main` prints a failure once.
//! Invariants: a code keeps its meaning over all commands.

use std::process::ExitCode;

/// The table shown at the end of `quorate --help`.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done
  1    a broken promise, or an operation that failed
  2    wrong usage or configuration
  3    the broker or admin address cannot be reached
  4    doctor: there are findings that are errors
  27   sub: -W ran out first
  130  interrupted
serve and restore have codes of their own: see their --help";

/// Why a command did not succeed, as the operating system sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A broken promise, or an operation that failed.
    Failed,
    /// Wrong usage or configuration.
    Usage,
    /// Broker or admin address cannot be reached.
    Unreachable,
    /// `doctor` has findings that are errors.
    Findings,
    /// `sub -W` ran out; the number is the one that mosquitto_sub uses.
    TimedOut,
    /// Ended by SIGINT before it was done.
    Interrupted,
    /// `serve` ended with a code of the daemon.
    Daemon(quorate_server::exit::ExitCode),
}

impl Exit {
    /// The number that the process ends with.
    pub fn number(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::Findings => 4,
            Exit::TimedOut => 27,
            Exit::Interrupted => 130,
            Exit::Daemon(code) => u8::try_from(code.number()).unwrap_or(1),
        }
    }
}

impl Exit {
    /// What to do when the command itself has nothing better to say; `None` where the message says it all.
    pub fn hint(self) -> Option<&'static str> {
        use quorate_server::exit::ExitCode;
        match self {
            Exit::Usage => Some("see the command's --help"),
            Exit::Unreachable => Some(
                "see that a node runs there; `quorate doctor` on its machine says what keeps it from that",
            ),
            Exit::Daemon(ExitCode::Config) => Some("`quorate config check --config FILE` names every error"),
            Exit::Daemon(ExitCode::Unavailable) => Some(
                "`quorate doctor --config FILE` names who has the port or directory, and what is wrong with a file",
            ),
            Exit::Daemon(ExitCode::Disk) => Some(
                "look at the disk and the kernel's log; `quorate doctor --config FILE` tries the data directory",
            ),
            Exit::Daemon(ExitCode::Corrupt) => {
                Some("do not delete anything: docs/operations/replace-node.md says how the node comes back")
            }
            Exit::Daemon(ExitCode::Removed) => {
                Some("docs/operations/membership.md says how it can join again")
            }
            Exit::Daemon(ExitCode::Internal) => Some("report it with the log of the node"),
            Exit::Failed
            | Exit::Findings
            | Exit::TimedOut
            | Exit::Interrupted
            | Exit::Daemon(ExitCode::Clean) => None,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.number())
    }
}

/// An error with the exit code it leads to.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What was attempted and what went wrong; `None` when everything has been said already.
    pub error: Option<anyhow::Error>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: Some(error.into()), hint: None }
    }

    /// Wrong usage, as a sentence.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, anyhow::Error::msg(message.into()))
    }

    /// A failure whose explanation is already on the screen.
    pub fn silent(exit: Exit) -> Failure {
        Failure { exit, error: None, hint: None }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new(Exit::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        for exit in
            [Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Findings, Exit::TimedOut, Exit::Interrupted]
        {
            let code = format!("\n  {:<5}", exit.number());
            assert!(EXIT_CODES_HELP.contains(&code), "{exit:?}");
        }
    }
}
