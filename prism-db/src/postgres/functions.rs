//! The SQL that a migration generates: a function per version of a statement, and the dispatcher
//! that runs a batch of them in one round trip.
//!
//! A statement's text stands in its function as it is: `$1`, `$2` are the function's parameters, so
//! nothing is spliced into SQL at any time. PL/pgSQL looks at tables only when a statement first
//! runs, hence a missing table does not keep a region from being migrated.

use std::fmt::Write as _;

use super::params::{COLUMNS, column};
use super::session::APPLICATION_PATH;
use crate::ParamType;
use crate::catalogue::Statement;

/// A version of a statement as the dispatcher sees it.
#[derive(Debug)]
pub(super) struct Branch {
    pub id: i32,
    pub params: Vec<ParamType>,
    pub old_columns: usize,
    pub has_undo: bool,
}

/// What a branch calls: the statement, or (under the negative number) its undo.
#[derive(Debug, Clone, Copy)]
struct Leaf<'a> {
    id: i32,
    branch: &'a Branch,
}

/// `CREATE FUNCTION` for a statement's text.
pub(super) fn statement(id: i32, statement: &Statement) -> String {
    let types = statement
        .params()
        .iter()
        .map(|ty| column(*ty).1)
        .collect::<Vec<_>>()
        .join(", ");
    let sql = statement.sql();
    let quote = quote(sql);
    // The names of variables are such that no column has them; where one has, the column wins.
    format!(
        "CREATE OR REPLACE FUNCTION prism.s_{id}({types}) RETURNS bigint LANGUAGE plpgsql AS {quote}
#variable_conflict use_column
DECLARE prism_rows_affected bigint;
BEGIN
{sql}
;
GET DIAGNOSTICS prism_rows_affected = ROW_COUNT;
RETURN prism_rows_affected;
END
{quote};
COMMENT ON FUNCTION prism.s_{id}({types}) IS 'statement {name}';
",
        name = statement.name().replace('\'', "''"),
    )
}

/// `CREATE FUNCTION` for a statement's `old` query. With `lock` it waits, as the statement does next, for
/// whoever is changing the row: one that only looked would see what was there before, and the undo
/// would bring that back although it was never what the statement replaced.
pub(super) fn old(id: i32, statement: &Statement, old: &str, lock: bool) -> String {
    let types: Vec<_> = statement.params().iter().map(|ty| column(*ty).1).collect();
    let types = types.join(", ");
    let quote = quote(old);
    let columns: Vec<_> = (1..=statement.old_columns())
        .map(|n| format!("prism_old_{n}"))
        .collect();
    let values: Vec<_> = columns
        .iter()
        .map(|c| format!("{c}::text, pg_catalog.pg_typeof({c})::oid::bigint"))
        .collect();
    format!(
        "CREATE OR REPLACE FUNCTION prism.o_{id}({types}) RETURNS text LANGUAGE plpgsql AS {quote}
#variable_conflict use_column
DECLARE prism_old_values text;
BEGIN
SELECT pg_catalog.json_build_array({values})::text INTO prism_old_values FROM (
{old}
) AS prism_old ({columns}) LIMIT 1{lock};
RETURN prism_old_values;
END
{quote};
",
        values = values.join(", "),
        columns = columns.join(", "),
        lock = if lock { LOCK } else { "" },
    )
}

/// Of the `old` query's rows: nobody may change them, foreign keys may go on pointing at them.
pub(super) const LOCK: &str = " FOR NO KEY UPDATE";

/// `CREATE FUNCTION` for a statement's undo. The old values come as text; a record that the `old`
/// query itself has shaped turns them into what its columns are, in this database and now.
pub(super) fn undo(id: i32, statement: &Statement, undo: &str) -> String {
    let types: Vec<_> = statement.params().iter().map(|ty| column(*ty).1).collect();
    let values = types.len() + 1;
    let types = types
        .into_iter()
        .chain(["text[]"])
        .collect::<Vec<_>>()
        .join(", ");
    let shape = statement.old().map_or_else(String::new, |old| {
        let columns: Vec<_> = (1..=statement.old_columns())
            .map(|n| format!("prism_old_{n}"))
            .collect();
        let assign: String = (1..=columns.len())
            .map(|n| format!("prism_old.prism_old_{n} := ${values}[{n}];\n"))
            .collect();
        format!(
            "SELECT * INTO prism_old FROM (\n{old}\n) AS prism_row ({}) LIMIT 0;\n{assign}",
            columns.join(", ")
        )
    });
    let text = with_variables(undo);
    let quote = quote(&format!("{shape}{text}"));
    format!(
        "CREATE OR REPLACE FUNCTION prism.u_{id}({types}) RETURNS bigint LANGUAGE plpgsql AS {quote}
#variable_conflict use_column
DECLARE
prism_rows_affected bigint;
prism_old record;
BEGIN
{shape}{text}
;
GET DIAGNOSTICS prism_rows_affected = ROW_COUNT;
RETURN prism_rows_affected;
END
{quote};
COMMENT ON FUNCTION prism.u_{id}({types}) IS 'undo of statement {name}';
",
        name = statement.name().replace('\'', "''"),
    )
}

/// `$old1` becomes the field `prism_old.prism_old_1`, except inside quotes.
fn with_variables(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 32);
    let mut quoted = None;
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        if quoted.is_none() && rest.starts_with("$old") {
            text.push_str("prism_old.prism_old_");
            rest = &rest[4..];
            continue;
        }
        match quoted {
            None if c == '\'' || c == '"' => quoted = Some(c),
            Some(open) if open == c => quoted = None,
            _ => {}
        }
        text.push(c);
        rest = &rest[c.len_utf8()..];
    }
    text
}

/// `CREATE FUNCTION prism.run_batch`: the items strictly in order, whatever their statements; row
/// counts and old values back; at the first failure everything is undone and the item named.
///
/// The only function that looks into the application's schema. Its own calls are qualified: whoever
/// may create a function there could otherwise give them a better match (CVE-2018-1058).
pub(super) fn dispatcher(branches: &[Branch]) -> String {
    let statements = branches.iter().map(|branch| Leaf {
        id: branch.id,
        branch,
    });
    let undos = branches.iter().filter(|b| b.has_undo).map(|branch| Leaf {
        id: -branch.id,
        branch,
    });
    let mut leaves: Vec<_> = statements.chain(undos).collect();
    leaves.sort_by_key(|leaf| leaf.id);
    let arrays: Vec<_> = COLUMNS.iter().map(|(n, ty)| format!("{n} {ty}")).collect();
    let cursors: Vec<_> = COLUMNS
        .iter()
        .map(|(n, _)| format!("at_{n} integer := 0;"))
        .collect();
    let mut tree = String::new();
    write_tree(&mut tree, &leaves);
    format!(
        "CREATE OR REPLACE FUNCTION prism.run_batch(
    p_origin boolean, p_ids integer[], p_expect bigint[], p_behind integer, p_skip boolean[],
    {arrays},
    OUT r_rows bigint[], OUT r_old text[], OUT r_item integer, OUT r_state text,
    OUT r_message text, OUT r_detail text, OUT r_drift integer[], OUT r_drift_rows bigint[]
) LANGUAGE plpgsql SET search_path = {APPLICATION_PATH} AS $function$
DECLARE
    item integer := 1;
    items integer := pg_catalog.cardinality(p_ids);
    id integer;
    n bigint;
    hint text;
    skipping boolean := p_skip IS NOT NULL;
    {cursors}
BEGIN
    IF p_origin THEN
        r_old := pg_catalog.array_fill(NULL::text, ARRAY[items]);
    END IF;
    WHILE item <= items LOOP
        id := p_ids[item];
{tree}
        IF p_origin THEN
            r_rows[item] := n;
        ELSIF n <> p_expect[item] AND p_expect[item] >= 0 THEN
            IF item >= p_behind THEN
                RAISE EXCEPTION USING ERRCODE = 'PR001', MESSAGE = 'behind';
            END IF;
            r_drift := pg_catalog.array_append(r_drift, item);
            r_drift_rows := pg_catalog.array_append(r_drift_rows, n);
        END IF;
        item := item + 1;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS r_state = RETURNED_SQLSTATE, r_message = MESSAGE_TEXT,
        r_detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    r_detail := pg_catalog.concat_ws(': ', nullif(r_detail, ''), nullif(hint, ''));
    r_item := item;
END
$function$;
",
        arrays = arrays.join(", "),
        cursors = cursors.join("\n    "),
    )
}

/// A binary search: with many statements a chain of comparisons would cost more than the work.
fn write_tree(out: &mut String, leaves: &[Leaf<'_>]) {
    match leaves {
        [] => out.push_str(
            "IF id <> 0 THEN RAISE EXCEPTION USING ERRCODE = 'PR002', \
             MESSAGE = 'unknown statement; run prism migrate'; END IF; n := p_expect[item];\n",
        ),
        [leaf] => write_leaf(out, *leaf),
        _ => {
            let (low, high) = leaves.split_at(leaves.len() / 2);
            let _ = writeln!(out, "IF id < {} THEN", high[0].id);
            write_tree(out, low);
            out.push_str("ELSE\n");
            write_tree(out, high);
            out.push_str("END IF;\n");
        }
    }
}

fn write_leaf(out: &mut String, leaf: Leaf<'_>) {
    let mut taken = [0; COLUMNS.len()];
    let mut take = |ty: ParamType, n: usize| {
        let (array, _) = column(ty);
        let i = COLUMNS
            .iter()
            .position(|c| c.0 == array)
            .unwrap_or_default();
        taken[i] += n;
        format!("{array}[at_{array} + {}]", taken[i])
    };
    let mut arguments: Vec<String> = Vec::new();
    for ty in &leaf.branch.params {
        let element = take(*ty, 1);
        arguments.push(match ty.stored() {
            ParamType::Decimal | ParamType::Json => format!("{element}::{}", column(*ty).1),
            _ => element,
        });
    }
    let (id, olds) = (leaf.branch.id, leaf.branch.old_columns);
    let is_undo = leaf.id < 0;
    if is_undo {
        let values: Vec<_> = (0..olds).map(|_| take(ParamType::Text, 1)).collect();
        arguments.push(format!("ARRAY[{}]::text[]", values.join(", ")));
    }
    let arguments = arguments.join(", ");
    let _ = writeln!(
        out,
        "IF id = {} THEN
IF skipping AND p_skip[item] THEN n := p_expect[item]; ELSE",
        leaf.id
    );
    if olds > 0 && !is_undo {
        let _ = writeln!(
            out,
            "IF p_origin THEN r_old[item] := prism.o_{id}({arguments}); END IF;"
        );
    }
    let function = if is_undo { 'u' } else { 's' };
    let _ = writeln!(out, "n := prism.{function}_{id}({arguments});\nEND IF;");
    for (i, (array, _)) in COLUMNS.iter().enumerate() {
        if taken[i] > 0 {
            let _ = writeln!(out, "at_{array} := at_{array} + {};", taken[i]);
        }
    }
    out.push_str("ELSE\n");
    write_tree(out, &[]);
    out.push_str("END IF;\n");
}

/// A dollar quote that does not occur in the text.
fn quote(text: &str) -> String {
    let mut quote = "$prism$".to_owned();
    let mut n = 0;
    while text.contains(&quote) {
        n += 1;
        quote = format!("$prism{n}$");
    }
    quote
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_values_are_variables_except_inside_quotes() {
        let sql = "UPDATE t SET a = $old1, b = 'it''s $old2' || $old12 WHERE \"$old1\" = $1";
        assert_eq!(
            with_variables(sql),
            "UPDATE t SET a = prism_old.prism_old_1, b = 'it''s $old2' || prism_old.prism_old_12 WHERE \"$old1\" = $1"
        );
    }
}
