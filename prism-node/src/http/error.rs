//! `{"error":{"code","message"}}`, and which status goes with which failure.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::intake::Failure;

/// Seconds after which a client may try again when the node is busy.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What stands in the field `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable, for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl ErrorBody {
    /// Both parts.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// A whole answer: status and error.
#[derive(Debug)]
pub(super) struct HttpError {
    pub(super) status: StatusCode,
    pub(super) body: ErrorBody,
}

impl HttpError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody::new(code, message),
        }
    }

    pub(super) fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }
}

impl From<Failure> for HttpError {
    fn from(failure: Failure) -> Self {
        let (status, code) = match failure {
            Failure::Refused(_) | Failure::RefusedAt(..) => (StatusCode::CONFLICT, "refused"),
            Failure::NeedsUndo(_) => (StatusCode::BAD_REQUEST, "needs_undo"),
            Failure::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Failure::RequestReused => (StatusCode::UNPROCESSABLE_ENTITY, "request_id_reused"),
            Failure::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable"),
            Failure::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "database_not_ready"),
            Failure::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Failure::Locked(_) => (StatusCode::SERVICE_UNAVAILABLE, "locked"),
            Failure::NotBegun => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Failure::Spooling => (StatusCode::SERVICE_UNAVAILABLE, "spooling"),
            Failure::Journal(_) => (StatusCode::SERVICE_UNAVAILABLE, "journal"),
            Failure::Unknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown"),
            Failure::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        };
        Self::new(status, code, failure.to_string())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        with_status(self.status, &self.body)
    }
}

pub(super) fn with_status(status: StatusCode, body: &ErrorBody) -> Response {
    with_body(status, serde_json::json!({ "error": body }))
}

/// A JSON answer with the headers that its status wants.
pub(super) fn with_body(status: StatusCode, body: serde_json::Value) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

pub(super) async fn not_found(request: Request) -> Response {
    HttpError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!(
            "there is no {}; try POST /v1/updates, GET /v1/status, /metrics, /healthz or /readyz",
            request.uri().path()
        ),
    )
    .into_response()
}

pub(super) async fn method_not_allowed(request: Request) -> Response {
    HttpError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!(
            "{} does not answer {}",
            request.uri().path(),
            request.method()
        ),
    )
    .into_response()
}
