//! What a caller is told, from what the database says.

use prism_db::submit::SubmitError;
use prism_db::{Committed, RequestRow, RequestState, UndoReason};
use prism_proto::canary;

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

/// The answer to one that went to the journal, or was to. `why`: what the database had said.
pub(super) fn spooled(written: Result<(), Failure>, why: Option<&SubmitError>) -> Answer {
    match (written, why) {
        (Ok(()), _) => Answer::Spooled,
        (Err(_), _) if canary!(SpooledAlthoughFull) => Answer::Spooled,
        // The other failures say that nothing was written, and of this one nobody knows.
        (Err(failure @ Failure::Unknown(_)), _) => Answer::Failed(failure),
        (Err(failure), Some(SubmitError::Unknown(why))) => {
            Answer::Failed(Failure::Unknown(format!(
                "{why}; it could not be stored either: {failure}; ask again by its request_id, or \
             submit it again with the same one"
            )))
        }
        (Err(failure), _) => Answer::Failed(failure),
    }
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
            regions: but_for_refused(reason, confirmed(board, row)),
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

/// The region that has refused an update is past it as soon as the refusal has been dealt with; that
/// is no confirmation.
pub(super) fn but_for_refused(
    reason: &UndoReason,
    mut regions: Vec<(String, bool)>,
) -> Vec<(String, bool)> {
    if let UndoReason::Refused { region, .. } = reason {
        for (name, confirmed) in &mut regions {
            *confirmed &= name != region;
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_stays_unknown_when_the_journal_is_full() {
        let full = || Err(Failure::Journal("full".into()));
        let unknown = SubmitError::Unknown("lost".into());
        let answer = spooled(full(), Some(&unknown));
        assert!(matches!(answer, Answer::Failed(Failure::Unknown(_))));
        let away = SubmitError::Unavailable("away".into());
        let answer = spooled(full(), Some(&away));
        assert!(matches!(answer, Answer::Failed(Failure::Journal(_))));
        assert_eq!(spooled(Ok(()), Some(&unknown)), Answer::Spooled);
    }
}
