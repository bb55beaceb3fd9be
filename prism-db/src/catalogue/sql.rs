//! What a statement's SQL text does, and whether replaying it gives the same everywhere.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    OnInsert, Query, SelectItem, SetExpr, SqliteOnConflict, Statement, TableObject, Value,
    ValueWithSpan, Visit, Visitor,
};
use sqlparser::dialect::{PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::{Parser, ParserError};

use super::access::parts;
use super::volatile::{self, Volatile};

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) fix: String,
}

/// Which key of the configuration the text stands under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Write,
    Old,
    Undo,
}

/// What kind of statement it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Insert,
    /// `INSERT ... ON CONFLICT DO UPDATE`, `INSERT OR REPLACE`.
    Upsert,
    Update,
    Delete,
    Select,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Analysis {
    pub(super) verb: Verb,
    /// `$1` is 1.
    pub(super) params: BTreeSet<usize>,
    /// `$old1` is 1.
    pub(super) olds: BTreeSet<usize>,
    /// Columns that a SELECT gives.
    pub(super) columns: usize,
    /// Table and named columns of an INSERT.
    pub(super) insert: Option<Target>,
}

/// Where an INSERT writes: the columns that it does not name take their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Schema and name, or the name alone, each as SQL writes it: `users`, `app."My Users"`.
    pub table: Vec<String>,
    /// The columns that it names, without quotes; empty if it names none.
    pub columns: Vec<String>,
}

/// Whether a column's default gives the same in every region.
pub(crate) fn is_deterministic(expression: &str) -> bool {
    analyse(&format!("SELECT {expression}"), Role::Old, false).is_ok()
}

fn target(statement: &Statement) -> Option<Target> {
    let Statement::Insert(insert) = statement else {
        return None;
    };
    let TableObject::TableName(name) = &insert.table else {
        return None;
    };
    let plain = |name: &dyn ToString| name.to_string().replace('"', "");
    Some(Target {
        table: parts(name),
        columns: insert.columns.iter().map(|name| plain(name)).collect(),
    })
}

const OTHERS: &str = "make it read only the rows that it writes, found by key, or write reads = \"others\" if it gives the same result in every region";

/// Parses one statement and collects everything that is wrong with it.
pub(super) fn analyse(
    text: &str,
    role: Role,
    reads_others: bool,
) -> Result<Analysis, Vec<Problem>> {
    let statement = parse(text, role).map_err(|problem| vec![problem])?;
    let mut finder = Finder {
        reads_others,
        depth: 0,
        top_is_select: role == Role::Old,
        params: BTreeSet::new(),
        olds: BTreeSet::new(),
        problems: BTreeSet::new(),
    };
    let (verb, columns) = finder.top(&statement, role);
    let _ = statement.visit(&mut finder);
    if finder.problems.is_empty() {
        Ok(Analysis {
            verb,
            params: finder.params,
            olds: finder.olds,
            columns,
            insert: target(&statement),
        })
    } else {
        Err(finder.problems.into_iter().collect())
    }
}

/// PostgreSQL's grammar; where that fails, SQLite's (`INSERT OR IGNORE`).
pub(super) fn parse(text: &str, role: Role) -> Result<Statement, Problem> {
    let expected = match role {
        Role::Old => "write one SELECT",
        Role::Write | Role::Undo => "write one INSERT, UPDATE or DELETE",
    };
    let problem = |what: String| Problem {
        what,
        fix: expected.to_owned(),
    };
    if text.contains('\0') {
        return Err(problem("the text contains NUL".to_owned()));
    }
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, text)
        .or_else(|error| Parser::parse_sql(&SQLiteDialect {}, text).map_err(|_| error));
    let mut statements = parsed.map_err(|error| {
        problem(match error {
            ParserError::TokenizerError(why) | ParserError::ParserError(why) => {
                format!("is not understood: {why}")
            }
            ParserError::RecursionLimitExceeded => "is nested too deeply".to_owned(),
        })
    })?;
    match (statements.pop(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(problem("is empty".to_owned())),
        (Some(_), more) => Err(problem(format!("holds {} statements", more + 1))),
    }
}

struct Finder {
    reads_others: bool,
    /// How many queries the visitor is inside of.
    depth: usize,
    /// The outermost query is the statement itself (`old`).
    top_is_select: bool,
    params: BTreeSet<usize>,
    olds: BTreeSet<usize>,
    /// A set: the visitor may come by twice.
    problems: BTreeSet<Problem>,
}

impl Finder {
    fn problem(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.insert(Problem {
            what: what.into(),
            fix: fix.into(),
        });
    }

    fn reads(&mut self, what: &str) {
        if !self.reads_others {
            self.problem(format!("{what} reads other rows"), OTHERS);
        }
    }

    fn returning(&mut self, present: bool) {
        if present {
            self.problem(
                "RETURNING gives rows that nobody receives",
                "remove it; use `old` for values that `undo` needs",
            );
        }
    }

    fn on_conflict(&mut self, or: Option<SqliteOnConflict>) {
        // They end or half-finish the transaction that the ledger is in.
        if let Some(SqliteOnConflict::Rollback | SqliteOnConflict::Fail) = or {
            self.problem(
                "OR ROLLBACK and OR FAIL break the transaction",
                "use OR ABORT, OR IGNORE or OR REPLACE",
            );
        }
    }

    fn found_by_key(&mut self, verb: &str, selection: Option<&Expr>) {
        if selection.is_none() && !self.reads_others {
            self.problem(
                format!(
                    "{verb} without WHERE writes every row, whichever a region happens to have"
                ),
                "find the rows by key, or write reads = \"others\"",
            );
        }
    }

    /// Judges the outermost statement: its verb, and how many columns it gives.
    fn top(&mut self, statement: &Statement, role: Role) -> (Verb, usize) {
        let (verb, columns) = match statement {
            Statement::Insert(insert) => {
                self.returning(insert.returning.is_some());
                self.on_conflict(insert.or);
                if insert.source.is_none() {
                    self.problem(
                        "DEFAULT VALUES may be a sequence or a clock",
                        "name the columns and bind the values",
                    );
                }
                let updates = matches!(&insert.on, Some(OnInsert::OnConflict(on))
                    if !matches!(on.action, sqlparser::ast::OnConflictAction::DoNothing));
                if updates || insert.or == Some(SqliteOnConflict::Replace) || insert.replace_into {
                    (Verb::Upsert, 0)
                } else {
                    (Verb::Insert, 0)
                }
            }
            Statement::Update(update) => {
                self.returning(update.returning.is_some());
                self.on_conflict(update.or);
                self.found_by_key("UPDATE", update.selection.as_ref());
                if update.from.is_some() || !update.table.joins.is_empty() {
                    self.reads("UPDATE ... FROM");
                }
                (Verb::Update, 0)
            }
            Statement::Delete(delete) => {
                self.returning(delete.returning.is_some());
                self.found_by_key("DELETE", delete.selection.as_ref());
                if delete.using.is_some() {
                    self.reads("DELETE ... USING");
                }
                (Verb::Delete, 0)
            }
            Statement::Query(query) => (Verb::Select, self.top_query(query, role)),
            other => {
                // Only the first word: the rest may be long.
                let text = other.to_string();
                let word = text.split_whitespace().next().unwrap_or("this");
                self.problem(
                    format!("{word} is not an update of rows"),
                    "write one INSERT, UPDATE or DELETE",
                );
                return (Verb::Select, 0);
            }
        };
        match (role, verb) {
            (Role::Old, Verb::Select) => {}
            (Role::Old, _) => self.problem("is no SELECT", "write one SELECT"),
            // The visitor names what is wrong with `WITH ... UPDATE`.
            (_, Verb::Select) if behind_with(statement) => {}
            (_, Verb::Select) => self.problem(
                "SELECT changes nothing",
                "write one INSERT, UPDATE or DELETE",
            ),
            _ => {}
        }
        (verb, columns)
    }

    fn top_query(&mut self, query: &Query, role: Role) -> usize {
        if role != Role::Old {
            return 0;
        }
        let SetExpr::Select(select) = query.body.as_ref() else {
            self.problem(
                "is not a plain SELECT",
                "write SELECT columns FROM table WHERE key",
            );
            return 0;
        };
        let joined = select.from.len() > 1 || select.from.iter().any(|t| !t.joins.is_empty());
        if joined {
            self.reads("a join");
        }
        if !select.from.is_empty() {
            self.found_by_key("SELECT", select.selection.as_ref());
        }
        if select.into.is_some() || !query.locks.is_empty() {
            self.problem("INTO and FOR UPDATE do not belong here", "remove them");
        }
        let named = |item: &SelectItem| {
            matches!(
                item,
                SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
            )
        };
        if !select.projection.iter().all(named) {
            self.problem(
                "the columns of * are not known",
                "name each column that `undo` needs",
            );
        }
        select.projection.len()
    }

    fn placeholder(&mut self, text: &str) {
        let number = |digits: &str| {
            let canonical = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| canonical)
        };
        if let Some(n) = text.strip_prefix("$old").and_then(number) {
            self.olds.insert(n);
        } else if let Some(n) = text.strip_prefix('$').and_then(number) {
            self.params.insert(n);
        } else {
            self.problem(
                format!("{text} is no parameter"),
                "write $1, $2, ... (in `undo` also $old1, $old2, ...)",
            );
        }
    }

    fn volatile(&mut self, what: &str, why: Volatile) {
        let reason = match why {
            Volatile::Clock => "depends on the clock",
            Volatile::Random => "differs each time",
            Volatile::Environment => "depends on the server or the session",
        };
        self.problem(
            format!("{what} {reason}: replaying it in another region gives another result"),
            why.fix(),
        );
    }

    fn function(&mut self, function: &Function) {
        let name = function.name.0.last().map_or_else(String::new, |part| {
            part.as_ident()
                .map_or_else(|| part.to_string(), |ident| ident.value.clone())
        });
        let name = name.to_ascii_lowercase();
        if let Some(why) = volatile::function(&name) {
            self.volatile(&format!("{name}()"), why);
        } else if volatile::is_date(&name) {
            let texts = literal_args(&function.args);
            // strftime('%Y') takes the clock as well: its first argument is a format.
            let least = if name == "strftime" { 2 } else { 1 };
            if texts.len() < least || texts.iter().flatten().any(|t| volatile::is_clock_word(t)) {
                self.volatile(&format!("{name}() of now"), Volatile::Clock);
            }
        } else if name == "age" && literal_args(&function.args).len() == 1 {
            self.volatile("age() with one argument", Volatile::Clock);
        }
    }

    fn place(&mut self, ident: &Ident) {
        if volatile::is_place(&ident.value.to_ascii_lowercase()) {
            self.problem(
                format!(
                    "{} tells where a row lies, which differs between regions",
                    ident.value
                ),
                "find the row by a key of its own",
            );
        }
    }

    fn word(&mut self, ident: &Ident) {
        self.place(ident);
        if ident.quote_style.is_some() {
            return;
        }
        let name = ident.value.to_ascii_lowercase();
        if name == "default" {
            self.problem(
                "DEFAULT may be a sequence or a clock",
                "bind the value as a parameter",
            );
        } else if name.starts_with("current_") || name.starts_with("localtime") {
            if let Some(why) = volatile::function(&name) {
                self.volatile(&ident.value, why);
            }
        } else if matches!(name.as_str(), "session_user" | "system_user") {
            self.volatile(&ident.value, Volatile::Environment);
        }
    }
}

fn behind_with(statement: &Statement) -> bool {
    matches!(statement, Statement::Query(query) if matches!(
        query.body.as_ref(),
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
    ))
}

/// One entry per argument: the text, if it is a literal one.
fn literal_args(args: &FunctionArguments) -> Vec<Option<String>> {
    let FunctionArguments::List(list) = args else {
        return Vec::new();
    };
    let literal = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) => {
            value.value.clone().into_string()
        }
        _ => None,
    };
    list.args.iter().map(literal).collect()
}

fn is_time(ty: &DataType) -> bool {
    let name = ty.to_string().to_ascii_lowercase();
    name.starts_with("timestamp") || name.starts_with("date") || name.starts_with("time")
}

impl Visitor for Finder {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let itself = self.top_is_select && self.depth == 0;
        self.depth += 1;
        if query.with.is_some() {
            self.reads("WITH");
        }
        self.set_expr(&query.body, itself);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = relation.to_string().to_ascii_lowercase().replace('"', "");
        if name.starts_with("prism.") || name.starts_with("prism_") {
            self.problem(
                format!("{relation} belongs to Prism itself"),
                "name a table of the application",
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => self.function(function),
            Expr::Identifier(ident) => self.word(ident),
            Expr::CompoundIdentifier(path) => {
                if let Some(last) = path.last() {
                    self.place(last);
                }
            }
            Expr::Cast {
                expr, data_type, ..
            } => {
                if let Expr::Value(value) = expr.as_ref() {
                    self.cast(&value.value, data_type);
                }
            }
            Expr::TypedString(typed) => self.cast(&typed.value.value, &typed.data_type),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<()> {
        if let Value::Placeholder(text) = &value.value {
            self.placeholder(text);
        }
        ControlFlow::Continue(())
    }
}

impl Finder {
    fn cast(&mut self, value: &Value, ty: &DataType) {
        if let Some(text) = value.clone().into_string()
            && is_time(ty)
            && volatile::is_clock_word(&text)
        {
            self.volatile(&format!("'{text}' as {ty}"), Volatile::Clock);
        }
    }

    fn set_expr(&mut self, body: &SetExpr, itself: bool) {
        match body {
            SetExpr::Values(_) => {}
            SetExpr::Select(select) => {
                if !itself && !select.from.is_empty() {
                    self.reads("a query inside");
                }
            }
            SetExpr::Query(_) => {}
            SetExpr::SetOperation { left, right, .. } => {
                self.set_expr(left, false);
                self.set_expr(right, false);
            }
            SetExpr::Table(_) => self.reads("TABLE"),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                self.problem(
                    "a statement behind WITH or inside another one hides how many rows it writes",
                    "write one plain INSERT, UPDATE or DELETE",
                );
            }
        }
    }
}
