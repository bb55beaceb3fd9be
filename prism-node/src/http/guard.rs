//! Who may ask, before anything is read from the body.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::connections::Activity;
use super::error::HttpError;
use crate::token::TokenDigest;

/// A client that means one node says so; loopback addresses repeat on every machine.
pub const NODE_HEADER: &str = "prism-node";

/// Open to everybody: probes of orchestrators, and a page without data in it.
const OPEN: [&str; 3] = ["/", "/healthz", "/readyz"];

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let checked = match app.door.token() {
        Some(token) if !OPEN.contains(&request.uri().path()) => bearer(headers, &token),
        Some(_) => Ok(()),
        None => from_this_machine(headers, app.door.tls().is_some()),
    };
    let checked = checked
        .and_then(|()| content_type(headers))
        .and_then(|()| right_node(headers, &app.node));
    if let Err(e) = checked {
        return e.into_response();
    }
    // From here on it is no stranger's connection.
    let busy = request.extensions().get().map(Activity::begin);
    let response = next.run(request).await;
    drop(busy);
    response
}

fn bearer(headers: &HeaderMap, token: &TokenDigest) -> Result<(), HttpError> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let given = match (given.next(), given.next()) {
        (Some(one), None) => one.as_bytes().strip_prefix(b"Bearer "),
        // None, or several that somebody else may read in another order.
        _ => None,
    };
    if given.is_some_and(|given| token.is_of(given)) {
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
fn from_this_machine(headers: &HeaderMap, tls: bool) -> Result<(), HttpError> {
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
        Some(origin) => {
            let scheme = if tls { "https://" } else { "http://" };
            origin.strip_prefix(scheme) != Some(host)
        }
        None => headers.contains_key(header::ORIGIN),
    };
    // A browser says so itself, also where it sends no Origin; `none`: the user typed the address.
    let foreign_site = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site != "same-origin" && site != "none");
    let repeated = headers.get_all(header::HOST).iter().nth(1).is_some();
    if foreign_host || foreign_origin || foreign_site || repeated {
        return Err(HttpError::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            "a node without a token answers only requests to its IP address or localhost, and none from web pages of others; set [http] token_file",
        ));
    }
    Ok(())
}

/// JSON, or nothing said. These two are what a form on any web page can send without being asked
/// (the third, urlencoded, escapes every brace, and is what curl says of any body).
fn content_type(headers: &HeaderMap) -> Result<(), HttpError> {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given.map(|v| v.as_bytes().to_ascii_lowercase());
    match given {
        Some(given) if given.starts_with(b"text/") || given.starts_with(b"multipart/") => {
            Err(HttpError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not_json",
                "send the header `Content-Type: application/json`",
            ))
        }
        _ => Ok(()),
    }
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
