//! `POST /v1/updates`: one update or an array, each checked, numbered and answered on its own; and
//! `GET /v1/updates/{request_id}`: what became of one.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::App;
use super::at_most::{AtMost, TooMany};
use super::bind::Unbound;
use super::error::HttpError;
use super::outcome::{Reply, found, reply};
use prism_db::catalogue::MAX_PARAMS;

use crate::intake::{Answer, Failure, Mode, NewUpdate};

/// Longest wait for the local database; the worker's own deadlines are shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What an update that has begun gets beyond its caller's timeout: the answer is worth more than
/// the moment.
const GRACE: Duration = Duration::from_millis(500);

/// The same for an awaited one, which has to be finished or undone in the database.
const AWAIT_GRACE: Duration = Duration::from_secs(15);

/// Updates in one array.
const MAX_ARRAY: usize = 1000;

/// Bytes of an array or object in a parameter, as written. Each two of them (`0,`) can become a
/// hundred in memory; what fits into an update is smaller.
const MAX_NESTED: usize = 2 * prism_db::MAX_UPDATE;

impl From<Unbound> for HttpError {
    fn from(e: Unbound) -> Self {
        let code = match e {
            Unbound::Statement(_) => "unknown_statement",
            Unbound::Params(_) => "bad_params",
        };
        Self::bad_request(code, e.to_string())
    }
}

/// One element of the body. Its parameters are not looked at before their number is known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Submitted<'a> {
    statement: String,
    #[serde(default, borrow)]
    params: AtMost<'a, MAX_PARAMS>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    request_id: Option<Uuid>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// Room for JSON around and inside of one largest update (base64, escapes), and for arrays of
/// small ones.
pub(super) fn max_body(max_update: usize) -> usize {
    max_update.saturating_mul(8).max(4 << 20)
}

pub(super) async fn post(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(app.max_body);
    if announced > app.max_body {
        return Err(too_large(app.max_body));
    }
    let permits = u32::try_from(announced).unwrap_or(u32::MAX);
    let mut room = app
        .body_budget
        .try_acquire_many(permits)
        .map_err(|_| Failure::Busy)?;
    let bytes = tokio::time::timeout(app.body_timeout, to_bytes(body, app.max_body))
        .await
        .map_err(|_| {
            HttpError::new(
                StatusCode::REQUEST_TIMEOUT,
                "slow_body",
                "the body did not arrive in time",
            )
        })?
        .map_err(|e| {
            let mut source: Option<&dyn std::error::Error> = Some(&e);
            while let Some(s) = source {
                if s.to_string().contains("length limit") {
                    return too_large(app.max_body);
                }
                source = s.source();
            }
            HttpError::bad_request("bad_body", format!("the body broke off: {e}"))
        })?;
    // What has not come is for others: without a length the whole limit was taken, and until the
    // answer it may take long.
    drop(room.split(announced.saturating_sub(bytes.len())));
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => many(&app, &bytes).await,
        _ => one(&app, &bytes).await,
    }
}

fn too_large(limit: usize) -> HttpError {
    HttpError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("the body is larger than {limit} bytes; split it"),
    )
}

async fn one(app: &App, bytes: &[u8]) -> Result<Response, HttpError> {
    let body = serde_json::from_slice(bytes).map_err(|e| bad_json(&e))?;
    let update = check(app, body)?;
    let (request_id, mode) = (update.request_id, update.mode);
    let answer = hand_over(app, vec![update]).await?.pop();
    let reply = reply(answer.unwrap_or_else(lost), request_id, mode);
    Ok(reply.into_response())
}

async fn many(app: &App, bytes: &[u8]) -> Result<Response, HttpError> {
    let elements: AtMost<'_, MAX_ARRAY> =
        serde_json::from_slice(bytes).map_err(|e| bad_json(&e))?;
    let elements = elements.get().map_err(|TooMany| {
        HttpError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_many",
            format!("more than {MAX_ARRAY} updates in one array; split it"),
        )
    })?;
    let mut results: Vec<Option<HttpError>> = Vec::with_capacity(elements.len());
    let mut ids = Vec::new();
    let mut updates = Vec::new();
    for element in elements {
        let checked = serde_json::from_str(element.get())
            .map_err(|e| bad_json(&e))
            .and_then(|body| check(app, body));
        results.push(match checked {
            Ok(update) => {
                ids.push((update.request_id, update.mode));
                updates.push(update);
                None
            }
            Err(e) => Some(e),
        });
    }
    let answers = if updates.is_empty() {
        Ok(Vec::new())
    } else {
        hand_over(app, updates).await
    };
    let (answers, shared) = match answers {
        Ok(answers) => (answers, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let mut answers = answers.into_iter();
    let mut ids = ids.into_iter();
    let mut status = StatusCode::OK;
    let body: Vec<serde_json::Value> = results
        .into_iter()
        .map(|refused| {
            let reply = match refused {
                Some(e) => Reply::from(e),
                None => {
                    let answer = match &shared {
                        Some(failure) => Answer::Failed(failure.clone()),
                        None => answers.next().unwrap_or_else(lost),
                    };
                    let (id, mode) = ids.next().unwrap_or_default();
                    reply(answer, id, mode)
                }
            };
            if !reply.status.is_success() {
                status = StatusCode::MULTI_STATUS;
            }
            reply.body
        })
        .collect();
    Ok((status, axum::Json(body)).into_response())
}

fn bad_json(e: &serde_json::Error) -> HttpError {
    HttpError::bad_request("bad_json", e.to_string())
}

fn check(app: &App, body: Submitted<'_>) -> Result<NewUpdate, HttpError> {
    let request_id = body
        .request_id
        .unwrap_or_else(|| Uuid::from_bytes(prism_db::new_request_id()));
    let bad = |why: String| HttpError::bad_request("bad_params", why);
    let given = body
        .params
        .get()
        .map_err(|TooMany| bad(format!("more than {MAX_PARAMS} parameters")))?;
    let mut params = Vec::with_capacity(given.len());
    for (i, raw) in given.into_iter().enumerate() {
        let nested = raw.get().starts_with(['[', '{']);
        if nested && raw.get().len() > MAX_NESTED {
            return Err(HttpError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                format!("parameter {} is larger than {MAX_NESTED} bytes", i + 1),
            ));
        }
        let value = serde_json::from_str(raw.get())
            .map_err(|e| HttpError::bad_request("bad_json", format!("parameter {}: {e}", i + 1)))?;
        params.push(value);
    }
    Ok(NewUpdate {
        params: app.binder.bind(&body.statement, &params, &request_id)?,
        statement: body.statement,
        request_id,
        mode: body.mode,
        timeout: body.timeout_ms.map(Duration::from_millis),
    })
}

async fn hand_over(app: &App, updates: Vec<NewUpdate>) -> Result<Vec<Answer>, Failure> {
    let (mut patience, mut grace) = (Duration::ZERO, GRACE);
    for update in &updates {
        let wait = update.timeout.unwrap_or(match update.mode {
            Mode::Background => ANSWER_TIMEOUT,
            Mode::Await => app.await_timeout,
        });
        match update.mode {
            Mode::Background => patience = patience.max(wait.min(ANSWER_TIMEOUT)),
            // One after the other.
            Mode::Await => {
                patience += wait.min(app.await_timeout);
                grace = AWAIT_GRACE;
            }
        }
    }
    app.intake.submit(updates)?.within(patience, grace).await
}

/// The runtime owes one answer per update.
fn lost() -> Answer {
    Answer::Failed(Failure::Unknown("the node gave no answer".to_owned()))
}

pub(super) async fn find(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Response, HttpError> {
    let id: Uuid = id.parse().map_err(|e| {
        HttpError::bad_request("bad_request_id", format!("not a request_id (a UUID): {e}"))
    })?;
    let asked = tokio::time::timeout(ANSWER_TIMEOUT, app.intake.find(id)?).await;
    let answer = match asked {
        Ok(Ok(answer)) => answer?,
        Ok(Err(_)) => return Err(Failure::Draining.into()),
        Err(_) => {
            let why = "it did not answer in time".to_owned();
            return Err(Failure::Unavailable(why).into());
        }
    };
    Ok(found(answer, id, &app.region).into_response())
}
