//! Which tables a statement touches, and by which verbs: what a role needs to be granted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    FromTable, ObjectName, Query, Statement, TableFactor, TableObject, Visit, Visitor,
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

/// By table, as SQL writes its name, with its schema.
pub type Access = BTreeMap<String, BTreeSet<Privilege>>;

#[derive(Default)]
struct Relations {
    names: Vec<String>,
    /// Named by WITH: no tables.
    with: BTreeSet<String>,
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.with
            .extend(tables.map(|table| table.alias.name.to_string()));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.names.push(relation.to_string());
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
        access.entry(qualified(&target)).or_default().extend(verbs);
    }
    for name in names {
        if !found.with.contains(&name) {
            let entry = access.entry(qualified(&name)).or_default();
            entry.insert(Privilege::Select);
        }
    }
}

/// What is written, and how.
fn target(statement: &Statement) -> (Option<String>, Vec<Privilege>) {
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
            (Some(name.to_string()), verbs)
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

fn factor(table: &TableFactor) -> Option<String> {
    match table {
        TableFactor::Table { name, .. } => Some(name.to_string()),
        _ => None,
    }
}

/// A table without a schema is found in `public`: a session's search_path says so.
fn qualified(name: &str) -> String {
    if name.contains('.') {
        name.to_owned()
    } else {
        format!("public.{name}")
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
        let old = "SELECT a FROM t WHERE id = $1";
        assert_eq!(of(old, Role::Old), "public.t: SELECT");
    }
}
