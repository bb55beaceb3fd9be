//! What became of an update, as JSON and HTTP status (docs/operations.md, "HTTP").

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use prism_db::{RequestState, UndoReason};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::{ErrorBody, HttpError, with_body};
use crate::intake::{Answer, Found, Mode};

/// One answer: alone it is a response, in an array an element.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        with_body(self.status, self.body)
    }
}

impl From<HttpError> for Reply {
    fn from(e: HttpError) -> Self {
        Self {
            status: e.status,
            body: json!({ "error": e.body }),
        }
    }
}

/// The answer to `POST /v1/updates`.
pub(super) fn reply(answer: Answer, id: Uuid, mode: Mode) -> Reply {
    let done = |body| Reply {
        status: StatusCode::OK,
        body,
    };
    match answer {
        Answer::Committed { seq } => {
            done(json!({"seq": seq.0, "outcome": "committed", "request_id": id}))
        }
        Answer::Elsewhere { region, seq } => done(json!({
            "seq": seq.0,
            "outcome": "committed",
            "region": region,
            "request_id": id,
        })),
        Answer::Spooled => Reply {
            status: StatusCode::ACCEPTED,
            body: json!({"outcome": "spooled", "request_id": id}),
        },
        Answer::Applied { seq, regions } => {
            let all: Vec<_> = regions.into_iter().map(|region| (region, true)).collect();
            done(json!({
                "seq": seq.0,
                "outcome": "applied",
                "regions": per_region(&all),
                "request_id": id,
            }))
        }
        Answer::Undone {
            seq,
            reason,
            regions,
        } => {
            let why = Why::of(&reason);
            let (status, outcome) = match (mode, why.region.is_some()) {
                (Mode::Background, _) => (StatusCode::CONFLICT, "undone"),
                (Mode::Await, true) => (StatusCode::CONFLICT, "refused"),
                (Mode::Await, false) => (StatusCode::GATEWAY_TIMEOUT, "unconfirmed"),
            };
            let mut body = json!({"outcome": outcome, "request_id": id});
            if let Some(seq) = seq {
                body["seq"] = json!(seq.0);
            }
            why.write(&mut body);
            if why.region.is_none() && !regions.is_empty() {
                body["regions"] = per_region(&regions);
            }
            Reply { status, body }
        }
        Answer::Failed(failure) => HttpError::from(failure).into(),
    }
}

/// The answer to `GET /v1/updates/{request_id}`.
pub(super) fn found(found: Found, id: Uuid, own_region: &str) -> Reply {
    let ok = |outcome: &str| json!({"request_id": id, "outcome": outcome});
    let (row, regions) = match found {
        Found::Unknown => {
            return Reply {
                status: StatusCode::NOT_FOUND,
                body: ok("unknown"),
            };
        }
        Found::Spooled => return said(ok("spooled")),
        Found::Pending => return said(ok("pending")),
        Found::Recorded { row, regions } => (row, regions),
    };
    let everywhere = !regions.is_empty() && regions.iter().all(|(_, has)| *has);
    let mut body = ok(match &row.state {
        RequestState::Committed if everywhere => "applied",
        RequestState::Committed => "committed",
        RequestState::Held => "pending",
        RequestState::Refused { .. } => "refused",
        RequestState::Undone(_) => "undone",
    });
    if let Some(seq) = row.seq {
        body["seq"] = json!(seq.0);
    }
    match &row.state {
        RequestState::Refused { sqlstate, message } => {
            body["region"] = json!(own_region);
            let text = format!("{message} (SQLSTATE {sqlstate})");
            body["error"] = json!(ErrorBody::new("refused", text));
        }
        RequestState::Undone(reason) => Why::of(reason).write(&mut body),
        RequestState::Committed | RequestState::Held => {
            body["region"] = json!(row.stream);
            if !regions.is_empty() {
                body["regions"] = per_region(&regions);
            }
        }
    }
    said(body)
}

fn said(body: Value) -> Reply {
    Reply {
        status: StatusCode::OK,
        body,
    }
}

fn per_region(regions: &[(String, bool)]) -> Value {
    let one = |(region, has): &(String, bool)| {
        let word = if *has { "applied" } else { "waiting" };
        (region.clone(), json!(word))
    };
    Value::Object(regions.iter().map(one).collect::<Map<_, _>>())
}

/// Why something was undone.
struct Why {
    /// Whose refusal it was.
    region: Option<String>,
    error: ErrorBody,
}

impl Why {
    fn of(reason: &UndoReason) -> Self {
        match reason {
            UndoReason::Refused {
                region,
                sqlstate,
                message,
            } => Self {
                region: Some(region.clone()),
                error: ErrorBody::new(
                    "refused",
                    // The other region's words do not travel with its refusal, unless it was met by
                    // direct SQL.
                    match message.as_str() {
                        "" => format!(
                            "the database of region {region} refused the update (SQLSTATE \
                             {sqlstate}); it is undone in every region"
                        ),
                        message => format!(
                            "the database of region {region} refused the update: {message} \
                             (SQLSTATE {sqlstate}); it is undone in every region"
                        ),
                    },
                ),
            },
            UndoReason::Conflict { region } => Self {
                region: Some(region.clone()),
                error: ErrorBody::new(
                    "conflict",
                    format!(
                        "an update of region {region} to the same row came first; this one is \
                         undone in every region, submit it again if it is still wanted"
                    ),
                ),
            },
            UndoReason::Unconfirmed { regions } => Self {
                region: None,
                error: ErrorBody::new(
                    "unconfirmed",
                    format!(
                        "not confirmed in time by {}; it is rolled back here and is being undone \
                         there",
                        regions.join(", ")
                    ),
                ),
            },
            UndoReason::Crashed => Self {
                region: None,
                error: ErrorBody::new(
                    "crashed",
                    "the node or its database stopped meanwhile; it is undone in every region",
                ),
            },
        }
    }

    fn write(&self, body: &mut Value) {
        if let Some(region) = &self.region {
            body["region"] = json!(region);
        }
        body["error"] = json!(self.error);
    }
}
