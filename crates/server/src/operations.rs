//! Operations that wait for control's decision.
//!
//! Owns: [`Operations`]: who waits for which number. Does not: decide.
//! Limits: `OPERATIONS_MAX`, `OPERATION_TIMEOUT`; what is over them is refused, and an operation whose asker has gone may
//! still be carried out: asking again is safe.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use quorate_node::event::Event;
use quorate_node::node::{Operation, OperationNumber};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::inbox::Inbox;
use crate::limits::{OPERATION_TIMEOUT, OPERATIONS_MAX};
use crate::question::Question;

/// Why an operation was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// Control says no, and why.
    #[error("{0}")]
    Refused(String),
    /// Control did not decide in time; it may still do so.
    #[error("the cluster did not decide in time")]
    Undecided,
    /// Too many operations wait.
    #[error("too many operations wait for the cluster")]
    Busy,
}

type Waiting = BTreeMap<OperationNumber, oneshot::Sender<Result<(), String>>>;

/// Who waits for which operation.
#[derive(Default)]
pub struct Operations(Mutex<(OperationNumber, Waiting)>);

impl Operations {
    /// Puts an operation to the cluster and waits until it is durable there.
    pub async fn carry_out(
        &self,
        inbox: &Inbox<Question>,
        operation: Operation,
    ) -> Result<(), OperationError> {
        let (sender, receiver) = oneshot::channel();
        let number = {
            let (last, waiting) = &mut *self.0.lock();
            waiting.retain(|_, sender| !sender.is_closed());
            if waiting.len() >= OPERATIONS_MAX {
                return Err(OperationError::Busy);
            }
            *last += 1;
            waiting.insert(*last, sender);
            *last
        };
        inbox.report(Event::Operate { number, operation });
        match timeout(OPERATION_TIMEOUT, receiver).await {
            Ok(Ok(outcome)) => outcome.map_err(OperationError::Refused),
            Ok(Err(_)) | Err(_) => Err(OperationError::Undecided),
        }
    }

    /// Puts operations to the cluster together and waits until all are decided: the first reason why not. They take one
    /// place together.
    pub async fn carry_out_all(
        &self,
        inbox: &Inbox<Question>,
        operations: Vec<Operation>,
    ) -> Result<(), OperationError> {
        let mut receivers = Vec::with_capacity(operations.len());
        {
            let (last, waiting) = &mut *self.0.lock();
            waiting.retain(|_, sender| !sender.is_closed());
            if waiting.len() >= OPERATIONS_MAX {
                return Err(OperationError::Busy);
            }
            for operation in operations {
                let (sender, receiver) = oneshot::channel();
                *last += 1;
                waiting.insert(*last, sender);
                receivers.push(receiver);
                inbox.report(Event::Operate { number: *last, operation });
            }
        }
        let all = async {
            let mut outcome = Ok(());
            for receiver in receivers {
                let one = receiver.await.map_err(|_| OperationError::Undecided);
                outcome = outcome.and(one.and_then(|one| one.map_err(OperationError::Refused)));
            }
            outcome
        };
        timeout(OPERATION_TIMEOUT, all).await.map_err(|_| OperationError::Undecided)?
    }

    /// The cluster has decided.
    pub fn decided(&self, number: OperationNumber, outcome: Result<(), String>) {
        if let Some(waiting) = self.0.lock().1.remove(&number) {
            // The asker may have gone.
            let _told = waiting.send(outcome);
        }
    }
}
