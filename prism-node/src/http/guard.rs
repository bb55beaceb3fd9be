//! Who may ask, before anything is read from the body.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::App;
use super::error::HttpError;

/// A client that means one node says so; loopback addresses repeat on every machine.
pub const NODE_HEADER: &str = "prism-node";

/// Open to everybody: probes of orchestrators, and a page without data in it.
const OPEN: [&str; 3] = ["/", "/healthz", "/readyz"];

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let checked = match &app.token {
        Some(token) if !OPEN.contains(&request.uri().path()) => bearer(headers, token),
        Some(_) => Ok(()),
        None => from_this_machine(headers),
    };
    match checked.and_then(|()| right_node(headers, &app.node)) {
        Ok(()) => next.run(request).await,
        Err(e) => e.into_response(),
    }
}

fn bearer(headers: &HeaderMap, token: &str) -> Result<(), HttpError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    if bool::from(given.ct_eq(token.as_bytes())) {
        return Ok(());
    }
    Err(HttpError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "send the header `Authorization: Bearer TOKEN` with the content of the cluster's token_file",
    ))
}

/// Without a token everybody on this machine may submit, but not a web page that somebody on this
/// machine looks at: neither from its own origin nor after rebinding its name to 127.0.0.1.
fn from_this_machine(headers: &HeaderMap) -> Result<(), HttpError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let local = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = local.trim_start_matches('[').trim_end_matches(']');
    let foreign_host = !local.is_empty()
        && !local.eq_ignore_ascii_case("localhost")
        && bare.parse::<IpAddr>().is_err();
    let foreign_origin = match text(header::ORIGIN) {
        Some(origin) => origin.strip_prefix("http://") != Some(host),
        None => headers.contains_key(header::ORIGIN),
    };
    if foreign_host || foreign_origin {
        return Err(HttpError::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            "a node without a token answers only requests to its IP address or localhost, and none from web pages of others; set [http] token_file",
        ));
    }
    Ok(())
}

fn right_node(headers: &HeaderMap, node: &str) -> Result<(), HttpError> {
    match headers.get(NODE_HEADER) {
        Some(wanted) if wanted.as_bytes() != node.as_bytes() => Err(HttpError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "wrong_node",
            format!("this is node {node}"),
        )),
        _ => Ok(()),
    }
}
