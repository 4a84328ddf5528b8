//! What an operator asks of the cluster through this node.
//!
//! Owns: operations from the request to the answer; telling the shell what is wanted of this node, and that its program is
//! too old. Does not: decide; control's state does.
//! Invariants: an operation is answered once, after it is durable, or with the reason why nothing was changed.
//! Limits: the shell bounds how many wait.

use quorate_state::command::{Command, Duty};
use quorate_state::{CONTROL, LEVEL, NodeId, Reply};

use super::Node;
use super::clients::Op;
use crate::action::Action;

/// Something that an operator asks of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A node is to do this from now on.
    SetDuty {
        /// Node.
        node: NodeId,
        /// Duty.
        duty: Duty,
    },
    /// The cluster is to use this level.
    Finalize {
        /// Level.
        level: u32,
    },
}

/// Number of an operation, chosen by the shell.
pub type OperationNumber = u64;

impl Node {
    /// Puts an operation to control. Answered by `Action::Operated`.
    pub(super) fn operate(&mut self, number: OperationNumber, operation: Operation) {
        let command = match operation {
            Operation::SetDuty { node, duty } => Command::NodeDuty { node, duty },
            Operation::Finalize { level } => Command::Finalize { level },
        };
        self.push(CONTROL, &command, Op::Operation(number));
    }

    pub(super) fn operated(&mut self, number: OperationNumber, reply: Option<Reply>) {
        let outcome = match reply {
            None => Ok(()),
            Some(Reply::Refused(why)) => Err(why.as_str().to_owned()),
            Some(_) => Err("control gave an answer that does not fit".to_owned()),
        };
        self.actions.push_back(Action::Operated { number, outcome });
    }

    /// Control has changed: what does it mean for this node?
    pub(super) fn heed_control(&mut self) {
        let level = self.control().map_or(0, quorate_state::Control::level);
        if level > LEVEL {
            return self.stop(&format!(
                "the cluster uses level {level}, and this program speaks levels up to {LEVEL}"
            ));
        }
        let duty = self.own_duty();
        if self.duty_told != duty {
            self.duty_told = duty;
            self.actions.push_back(Action::Duty(duty));
            self.hand_over_all();
        }
    }
}
