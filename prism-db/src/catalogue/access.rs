//! Which tables a statement touches, and by which verbs: what a role needs to be granted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;

use sqlparser::ast::{
    FromTable, Ident, ObjectName, Query, Statement, TableFactor, TableObject, Visit, Visitor,
};

use super::sql::{Role, parse};

/// A privilege on a table, as GRANT writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// Rows or columns are read.
    Select,
    /// Rows are added.
    Insert,
    /// Rows are changed.
    Update,
    /// Rows are removed.
    Delete,
}

impl Privilege {
    /// The word of GRANT.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A table and its schema, each as SQL writes it. Two parts, since a name in quotes may hold points.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// The schema.
    pub schema: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl Table {
    /// A table without a schema is found in `public`: a session's search_path says so.
    fn new(mut parts: Vec<String>) -> Self {
        let name = parts.pop().unwrap_or_default();
        let schema = if parts.is_empty() {
            "public".to_owned()
        } else {
            parts.join(".")
        };
        Self { schema, name }
    }
}

/// By table.
pub type Access = BTreeMap<Table, BTreeSet<Privilege>>;

/// The parts of a name as SQL writes them. (The parser's own way of writing takes two quotes inside
/// of a name for one that is doubled already.)
pub(super) fn parts(name: &ObjectName) -> Vec<String> {
    let idents = name.0.iter().filter_map(|part| part.as_ident());
    idents.map(written).collect()
}

fn written(ident: &Ident) -> String {
    match ident.quote_style {
        None => ident.value.clone(),
        Some(_) => format!("\"{}\"", ident.value.replace('"', "\"\"")),
    }
}

#[derive(Default)]
struct Relations {
    names: Vec<Vec<String>>,
    /// Named by WITH: no tables.
    with: BTreeSet<String>,
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.with
            .extend(tables.map(|table| written(&table.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.names.push(parts(relation));
        ControlFlow::Continue(())
    }
}

/// Adds what a text needs. One that cannot be read needs nothing: the catalogue has refused it.
pub(super) fn add(text: &str, role: Role, access: &mut Access) {
    let Ok(statement) = parse(text, role) else {
        return;
    };
    let (target, verbs) = target(&statement);
    let mut found = Relations::default();
    let _ = statement.visit(&mut found);
    let mut names = found.names;
    if let Some(target) = target {
        // Once it is written; if it stands there again, or its rows are found first, it is read.
        if let Some(place) = names.iter().position(|name| *name == target) {
            names.remove(place);
        }
        let entry = access.entry(Table::new(target)).or_default();
        entry.extend(verbs);
    }
    for name in names {
        let is_table = match name.as_slice() {
            [one] => !found.with.contains(one),
            _ => true,
        };
        if is_table {
            let entry = access.entry(Table::new(name)).or_default();
            entry.insert(Privilege::Select);
            // Its rows are locked until the statement has changed them.
            if role == Role::Old {
                entry.insert(Privilege::Update);
            }
        }
    }
}

/// What is written, and how.
fn target(statement: &Statement) -> (Option<Vec<String>>, Vec<Privilege>) {
    use Privilege::{Delete, Insert, Select, Update};
    match statement {
        Statement::Insert(insert) => {
            let TableObject::TableName(name) = &insert.table else {
                return (None, Vec::new());
            };
            let verbs = match &insert.on {
                None => vec![Insert],
                // The columns of the conflict are read.
                Some(sqlparser::ast::OnInsert::OnConflict(on))
                    if matches!(on.action, sqlparser::ast::OnConflictAction::DoNothing) =>
                {
                    vec![Insert, Select]
                }
                Some(_) => vec![Insert, Select, Update],
            };
            (Some(parts(name)), verbs)
        }
        Statement::Update(update) => (factor(&update.table.relation), vec![Update, Select]),
        Statement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            let table = from.first().and_then(|table| factor(&table.relation));
            (table, vec![Delete, Select])
        }
        _ => (None, Vec::new()),
    }
}

fn factor(table: &TableFactor) -> Option<Vec<String>> {
    match table {
        TableFactor::Table { name, .. } => Some(parts(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, role: Role) -> String {
        let mut access = Access::new();
        add(text, role, &mut access);
        let each = access.iter().map(|(table, verbs)| {
            let verbs: Vec<_> = verbs.iter().map(|verb| verb.name()).collect();
            format!("{table}: {}", verbs.join(" "))
        });
        each.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_statement_needs_its_verb_and_what_it_reads() {
        for (text, needs) in [
            ("INSERT INTO t (a) VALUES ($1)", "public.t: INSERT"),
            (
                "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO NOTHING",
                "public.t: SELECT INSERT",
            ),
            (
                "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = 1",
                "public.t: SELECT INSERT UPDATE",
            ),
            (
                "INSERT INTO app.t (a) SELECT a FROM u WHERE id = $1",
                "app.t: INSERT, public.u: SELECT",
            ),
            (
                "INSERT INTO t (a) SELECT a + 1 FROM t WHERE id = $1",
                "public.t: SELECT INSERT",
            ),
            (
                "UPDATE \"My T\" AS x SET a = a + 1 WHERE id IN (SELECT id FROM app.v)",
                "app.v: SELECT, public.\"My T\": SELECT UPDATE",
            ),
            (
                "UPDATE t SET a = u.a FROM u WHERE u.id = t.id",
                "public.t: SELECT UPDATE, public.u: SELECT",
            ),
            (
                "DELETE FROM t USING u WHERE t.id = u.id",
                "public.t: SELECT DELETE, public.u: SELECT",
            ),
            (
                "DELETE FROM t WHERE id IN (WITH w AS (SELECT id FROM u) SELECT id FROM w)",
                "public.t: SELECT DELETE, public.u: SELECT",
            ),
        ] {
            assert_eq!(of(text, Role::Write), needs, "{text}");
        }
        // Points and quotes inside of a name.
        for (text, needs) in [
            (
                "INSERT INTO \"a.b\" (x) VALUES ($1)",
                "public.\"a.b\": INSERT",
            ),
            (
                "INSERT INTO \"x\"\"; --\".\"y.\"\"\"\"z\" (x) VALUES ($1)",
                "\"x\"\"; --\".\"y.\"\"\"\"z\": INSERT",
            ),
        ] {
            assert_eq!(of(text, Role::Write), needs, "{text}");
        }
        let old = "SELECT a FROM t WHERE id = $1";
        assert_eq!(of(old, Role::Old), "public.t: SELECT UPDATE");
    }
}
