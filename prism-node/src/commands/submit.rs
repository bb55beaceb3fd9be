//! `prism submit`: one update through a node's HTTP API.

use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use prism_db::ParamType;
use prism_db::catalogue::Statement;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{program, quote};
use crate::cli::{CliError, SubmitArgs, find_node};
use crate::client::{Client, ClientError};
use crate::config::{Config, Node};
use crate::http::Binder;
use crate::words::printable;

/// The node itself gives up earlier.
const TIMEOUT: Duration = Duration::from_secs(65);

/// A node that was started a moment ago may not listen yet.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Submits it and prints what became of it.
///
/// # Errors
/// Exit status 1 if it was not taken, 2 if it could not even be asked.
pub fn run(args: &SubmitArgs) -> Result<(), CliError> {
    let config = args.config.load()?;
    let node = find_node(&config, &args.node)?;
    let params = params(&config, args)?;
    let credentials = config
        .http_credentials()
        .map_err(|e| CliError::Usage(e.to_string()))?;
    // The id is made here, so that it can be named even if the answer is lost.
    let id = args
        .id
        .unwrap_or_else(|| Uuid::from_bytes(prism_db::new_request_id()));
    let body = json!({
        "statement": args.statement,
        "params": params,
        "mode": if args.r#await { "await" } else { "background" },
        "request_id": id,
    });
    let client = Client::new(node, &credentials, TIMEOUT);
    let started = Instant::now();
    let answer: Value = loop {
        match client.post("/v1/updates", &body) {
            Ok(answer) => break answer,
            Err(ClientError::Unreachable { refused: true, .. }) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(e) => {
                // It was taken, and then undone: that is an outcome as well.
                if let ClientError::Refused { body, .. } = &e
                    && body.get("outcome").is_some()
                {
                    let said = if args.json {
                        body.to_string()
                    } else {
                        line(body)
                    };
                    writeln!(stdout(), "{said}")?;
                }
                return Err(explain(e, args, node, id));
            }
        }
    };
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{answer}")?;
    } else {
        writeln!(out, "{}", line(&answer))?;
    }
    Ok(())
}

/// `seq=17 outcome=committed`
fn line(answer: &Value) -> String {
    let mut line = String::new();
    if let Some(seq) = answer.get("seq").and_then(Value::as_u64) {
        line += &format!("seq={seq} ");
    }
    let word = |key| answer.get(key).and_then(Value::as_str);
    line += &format!("outcome={}", word("outcome").unwrap_or("unknown"));
    if let Some(region) = word("region") {
        line += &format!(" region={region}");
    }
    printable(&line)
}

fn explain(e: ClientError, args: &SubmitArgs, node: &Node, id: Uuid) -> CliError {
    CliError::Failed(match e {
        ClientError::Unreachable { .. } => format!(
            "{e}\n    start it with: {} node --config {} --node {} --data-dir DIR",
            program(),
            quote(&args.config.config),
            node.name
        ),
        ClientError::Refused { ref error, .. } if error.code == "outcome_unknown" => format!(
            "{e}\n    submit it again with --id {id}: it is executed once, however often it is asked for"
        ),
        e => format!("node {}: {e}", node.name),
    })
}

/// Checked here already: a wrong parameter is a wrong command line.
fn params(config: &Config, args: &SubmitArgs) -> Result<Vec<Value>, CliError> {
    let usage = |e: &dyn std::fmt::Display| CliError::Usage(e.to_string());
    let params = match &args.json_params {
        Some(text) => serde_json::from_str::<Vec<Value>>(text)
            .map_err(|e| usage(&format!("--json-params is not a JSON array: {e}")))?,
        None => match config.catalogue.get(&args.statement) {
            Some(statement) => typed(statement, &args.params),
            None => Vec::new(),
        },
    };
    config
        .catalogue
        .bind(&args.statement, &params, &uuid::Uuid::nil())
        .map_err(|e| usage(&e))?;
    Ok(params)
}

/// Words of the command line in the JSON that the statement's types want; what does not fit stays a
/// string, and the catalogue says why it does not fit.
fn typed(statement: &Statement, words: &[String]) -> Vec<Value> {
    let mut types = statement.caller_params();
    words
        .iter()
        .map(|word| {
            let parsed = match types.next() {
                Some(ParamType::Bool | ParamType::Int | ParamType::Float) => {
                    serde_json::from_str(word)
                        .ok()
                        .filter(|v: &Value| !v.is_null())
                }
                Some(ParamType::Json) => serde_json::from_str(word).ok(),
                _ => None,
            };
            parsed.unwrap_or_else(|| Value::String(word.clone()))
        })
        .collect()
}
