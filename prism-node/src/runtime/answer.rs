//! What a caller is told, from what the database says.

use prism_db::submit::SubmitError;
use prism_db::{Committed, RequestRow, RequestState};

use super::board::Board;
use super::find::confirmed;
use crate::intake::{Answer, Failure};

/// The answer to one submission.
pub(super) fn of(board: &Board, result: Result<Committed, SubmitError>) -> Answer {
    let error = match result {
        Ok(committed) => return Answer::Committed { seq: committed.seq },
        Err(SubmitError::Repeated(row)) => return repeated(board, &row),
        Err(error) => error,
    };
    Answer::Failed(match error {
        SubmitError::Refused { .. } => Failure::Refused(words(&error.to_string())),
        SubmitError::TooLarge { size, limit } => Failure::TooLarge { size, limit },
        SubmitError::Unavailable(why) => Failure::Unavailable(why),
        SubmitError::Blocked(why) => Failure::Locked(why),
        SubmitError::NotTried => Failure::Busy,
        SubmitError::Repeated(_) | SubmitError::Reused => Failure::RequestReused,
        SubmitError::NotReady(why) => Failure::NotReady(why),
        SubmitError::Unknown(why) => Failure::Unknown(why),
    })
}

/// The same request was submitted before: the answer that its caller got, or would get now.
pub(super) fn repeated(board: &Board, row: &RequestRow) -> Answer {
    let here = row.stream == board.names.my_region();
    match (&row.state, row.seq) {
        (RequestState::Committed, Some(seq)) if here => Answer::Committed { seq },
        (RequestState::Committed, Some(seq)) => Answer::Elsewhere {
            region: row.stream.clone(),
            seq,
        },
        (RequestState::Refused { sqlstate, message }, _) => {
            let why = format!("{message} (SQLSTATE {sqlstate})");
            Answer::Failed(if here {
                Failure::Refused(why)
            } else {
                Failure::RefusedAt(board.names.my_region().to_owned(), why)
            })
        }
        (RequestState::Undone(reason), seq) => Answer::Undone {
            seq,
            reason: reason.clone(),
            regions: confirmed(board, row),
        },
        (RequestState::Held | RequestState::Committed, _) => Answer::Failed(Failure::Unknown(
            "the same request is being carried out: it awaits the other regions; ask again by \
             its request_id"
                .to_owned(),
        )),
    }
}

/// The database's words without the sentence around them, which [`Failure::Refused`] adds.
fn words(message: &str) -> String {
    message
        .strip_prefix("the database refused the update: ")
        .unwrap_or(message)
        .to_owned()
}
