//! `prism rejected`: the dead letters, straight from the regions' databases.

use std::io::{Write, stdout};

use prism_db::{Database, RejectedRow, Retried};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::databases::{failed, find_region, open};
use super::table::{Align, Table};
use crate::cli::{CliError, RejectedArgs, RejectedCommand};
use crate::config::{Config, Region};
use crate::words::{harmless, printable};

/// Dead letters of one region that are shown at once.
const SHOWN: u32 = 1000;

/// Longest message in the table.
const MESSAGE: usize = 60;

/// Lists, shows, retries or drops.
///
/// # Errors
/// Exit status 1 if it could not be done, 2 if there is no such region.
pub fn run(args: &RejectedArgs) -> Result<(), CliError> {
    let config = args.load()?;
    let regions: Vec<&Region> = match &args.region {
        None => config.regions.iter().collect(),
        Some(name) => vec![find_region(&config, name)?],
    };
    match args.command {
        RejectedCommand::List => list(&config, &regions, args.json),
        RejectedCommand::Show { id } => {
            let letter = Letter::find(&config, &regions, id)?;
            let text = if args.json {
                format!("{}\n", letter.json(&config))
            } else {
                harmless(&letter.text(&config))
            };
            Ok(stdout().lock().write_all(text.as_bytes())?)
        }
        RejectedCommand::Retry { id } => retry(&config, Letter::find(&config, &regions, id)?, args),
        RejectedCommand::Drop { id } => {
            let mut letter = Letter::find(&config, &regions, id)?;
            let dropped = letter.database.rejected_drop(id);
            let done = dropped.map_err(|e| failed(letter.region, &e))?;
            if !done {
                return Err(letter.resolved());
            }
            letter.say(args, "dropped", "it stays in the table, marked as dropped")
        }
    }
}

fn list(config: &Config, regions: &[&Region], as_json: bool) -> Result<(), CliError> {
    let mut table = Table::new(&[
        ("region", Align::Left),
        ("id", Align::Right),
        ("from", Align::Left),
        ("seq", Align::Right),
        ("statement", Align::Left),
        ("sqlstate", Align::Left),
        ("at", Align::Left),
        ("message", Align::Left),
    ]);
    let mut all = Vec::new();
    let mut more = Vec::new();
    let mut errors = Vec::new();
    for region in regions {
        let rows = open(config, region)
            .and_then(|mut db| db.rejected(SHOWN).map_err(|e| failed(region, &e)));
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                errors.push(error.to_string());
                continue;
            }
        };
        if rows.len() == SHOWN as usize {
            more.push(region.name.as_str());
        }
        for row in rows {
            if as_json {
                all.push(row_json(config, region, &row));
                continue;
            }
            let mut message = printable(&row.message);
            if message.chars().count() > MESSAGE {
                message = message.chars().take(MESSAGE).chain(['.'; 3]).collect();
            }
            table.row(vec![
                region.name.clone(),
                row.id.to_string(),
                printable(&row.stream),
                row.seq.map_or_else(|| "-".to_owned(), |s| s.0.to_string()),
                statement(config, &row),
                printable(&row.sqlstate),
                when(row.at),
                message,
            ]);
        }
    }
    let mut out = stdout().lock();
    if as_json {
        writeln!(out, "{}", Value::Array(all))?;
    } else {
        let text = table.render();
        if text.is_empty() && errors.is_empty() {
            writeln!(out, "no dead letters")?;
        }
        out.write_all(text.as_bytes())?;
        for region in more {
            writeln!(
                out,
                "{region} has more than {SHOWN}; these are the oldest ones"
            )?;
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(CliError::Failed(errors.join("\nerror: ")))
    }
}

fn retry(config: &Config, mut letter: Letter<'_>, args: &RejectedArgs) -> Result<(), CliError> {
    let region = letter.region;
    let done = letter
        .database
        .rejected_retry(letter.row.id)
        .map_err(|error| match error {
            prism_db::DbError::Sql { .. } => CliError::Failed(format!(
                "{} refuses it again: {error}\n    mend the rows and try again, or: prism rejected drop {} --region {}",
                region.name, letter.row.id, region.name
            )),
            error => failed(region, &error),
        })?;
    let what = statement(config, &letter.row);
    match done {
        Retried::Applied(rows) => {
            letter.say(args, "retried", &format!("{what} affected {rows} rows"))
        }
        Retried::Submitted(committed) => letter.say(
            args,
            "retried",
            &format!(
                "{what} is update {} of {} now",
                committed.seq.0, region.name
            ),
        ),
        Retried::Unknown => Err(letter.resolved()),
    }
}

/// One dead letter and where it lies.
struct Letter<'c> {
    region: &'c Region,
    database: Box<dyn Database>,
    row: RejectedRow,
}

impl<'c> Letter<'c> {
    /// Ids are a region's own; without a region it has to be the only one.
    fn find(config: &Config, regions: &[&'c Region], id: i64) -> Result<Self, CliError> {
        let mut found: Vec<Letter<'_>> = Vec::new();
        for region in regions {
            let mut database = open(config, region)?;
            let row = database.rejected_get(id).map_err(|e| failed(region, &e))?;
            found.extend(row.map(|row| Letter {
                region,
                database,
                row,
            }));
        }
        if found.len() > 1 {
            let names: Vec<_> = found.iter().map(|l| l.region.name.as_str()).collect();
            return Err(CliError::Usage(format!(
                "there is a dead letter {id} in {}; say which with --region",
                names.join(", ")
            )));
        }
        found.pop().ok_or_else(|| {
            CliError::Failed(format!(
                "there is no dead letter {id}; prism rejected list shows those that nobody has resolved"
            ))
        })
    }

    fn resolved(&self) -> CliError {
        let how = self.row.resolution.as_deref().unwrap_or("resolved");
        CliError::Failed(format!(
            "dead letter {} of {} is {how} already",
            self.row.id, self.region.name
        ))
    }

    fn say(&self, args: &RejectedArgs, done: &str, words: &str) -> Result<(), CliError> {
        let (id, region) = (self.row.id, &self.region.name);
        let mut out = stdout().lock();
        if args.json {
            let answer = json!({"region": region, "id": id, "resolution": done, "detail": words});
            writeln!(out, "{answer}")?;
        } else {
            writeln!(out, "{done} dead letter {id} of {region}: {words}")?;
        }
        Ok(())
    }

    fn json(&self, config: &Config) -> Value {
        row_json(config, self.region, &self.row)
    }

    fn text(&self, config: &Config) -> String {
        let row = &self.row;
        let values = |values: &[prism_db::Value]| {
            let values: Vec<_> = values.iter().map(prism_db::Value::to_json).collect();
            Value::Array(values).to_string()
        };
        let mut lines = vec![
            ("region", self.region.name.clone()),
            ("id", row.id.to_string()),
            ("from", printable(&row.stream)),
        ];
        if let Some(seq) = row.seq {
            lines.push(("seq", seq.0.to_string()));
        }
        lines.push(("statement", statement(config, row)));
        if let Some(seq) = row.update.undoes {
            lines.push(("undoes", seq.0.to_string()));
        }
        lines.push(("params", values(&row.update.params)));
        if !row.update.old.is_empty() {
            lines.push(("old", values(&row.update.old)));
        }
        if let Some(id) = row.update.request_id {
            lines.push(("request_id", uuid::Uuid::from_bytes(id).to_string()));
        }
        lines.push(("sqlstate", printable(&row.sqlstate)));
        lines.push(("message", printable(&row.message)));
        lines.push(("at", when(row.at)));
        let resolution = row.resolution.as_deref().unwrap_or("-");
        lines.push(("resolution", printable(resolution)));
        lines
            .into_iter()
            .map(|(name, value)| format!("{name:<11} {value}\n"))
            .collect()
    }
}

fn row_json(config: &Config, region: &Region, row: &RejectedRow) -> Value {
    let values = |values: &[prism_db::Value]| -> Vec<Value> {
        values.iter().map(prism_db::Value::to_json).collect()
    };
    json!({
        "region": region.name,
        "id": row.id,
        "stream": row.stream,
        "seq": row.seq.map(|seq| seq.0),
        "statement": statement(config, row),
        "undoes": row.update.undoes.map(|seq| seq.0),
        "params": values(&row.update.params),
        "old": values(&row.update.old),
        "request_id": row.update.request_id.map(|id| uuid::Uuid::from_bytes(id).to_string()),
        "sqlstate": row.sqlstate,
        "message": row.message,
        "at": when(row.at),
        "resolution": row.resolution,
    })
}

/// Its name, if this configuration still has that version of it.
fn statement(config: &Config, row: &RejectedRow) -> String {
    if row.update.notice().is_some() {
        return "(undo refused)".to_owned();
    }
    match config.catalogue.by_digest(&row.update.statement) {
        Some(statement) if row.update.undoes.is_some() => format!("undo of {}", statement.name()),
        Some(statement) => statement.name().to_owned(),
        None => {
            let hex: String = row
                .update
                .statement
                .0
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            format!("(version {hex})")
        }
    }
}

/// Whole seconds, UTC.
fn when(micros: i64) -> String {
    OffsetDateTime::from_unix_timestamp(micros.div_euclid(1_000_000))
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| "-".to_owned())
}
