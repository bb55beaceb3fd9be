//! The SQL that a migration generates: a function per version of a statement, and the dispatcher
//! that runs a batch of them in one round trip.
//!
//! A statement's text stands in its function as it is: `$1`, `$2` are the function's parameters, so
//! nothing is spliced into SQL at any time. PL/pgSQL looks at tables only when a statement first
//! runs, hence a missing table does not keep a region from being migrated.

use std::fmt::Write as _;

use super::params::{COLUMNS, column};
use crate::ParamType;
use crate::catalogue::Statement;

/// A version of a statement as the dispatcher sees it.
#[derive(Debug)]
pub(super) struct Branch {
    pub id: i32,
    pub params: Vec<ParamType>,
    pub has_old: bool,
}

/// `CREATE FUNCTION` for a statement's text and for its `old` query.
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
    let mut text = format!(
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
    );
    if let Some(old) = statement.old() {
        let quote = self::quote(old);
        let columns: Vec<_> = (1..=statement.old_columns())
            .map(|n| format!("prism_old_{n}"))
            .collect();
        let values: Vec<_> = columns
            .iter()
            .map(|c| format!("{c}::text, pg_catalog.pg_typeof({c})::oid::bigint"))
            .collect();
        let _ = write!(
            text,
            "CREATE OR REPLACE FUNCTION prism.o_{id}({types}) RETURNS text LANGUAGE plpgsql AS {quote}
#variable_conflict use_column
DECLARE prism_old_values text;
BEGIN
SELECT pg_catalog.json_build_array({values})::text INTO prism_old_values FROM (
{old}
) AS prism_old ({columns}) LIMIT 1;
RETURN prism_old_values;
END
{quote};
",
            values = values.join(", "),
            columns = columns.join(", "),
        );
    }
    text
}

/// `CREATE FUNCTION prism.run_batch`: the items strictly in order, whatever their statements; row
/// counts and old values back; at the first failure everything is undone and the item named.
pub(super) fn dispatcher(branches: &mut [Branch]) -> String {
    branches.sort_by_key(|b| b.id);
    let arrays: Vec<_> = COLUMNS.iter().map(|(n, ty)| format!("{n} {ty}")).collect();
    let cursors: Vec<_> = COLUMNS
        .iter()
        .map(|(n, _)| format!("at_{n} integer := 0;"))
        .collect();
    let mut tree = String::new();
    write_tree(&mut tree, branches);
    format!(
        "CREATE OR REPLACE FUNCTION prism.run_batch(
    p_origin boolean, p_ids integer[], p_expect bigint[], p_behind integer, {arrays},
    OUT r_rows bigint[], OUT r_old text[], OUT r_item integer, OUT r_state text,
    OUT r_message text, OUT r_detail text, OUT r_drift integer[], OUT r_drift_rows bigint[]
) LANGUAGE plpgsql AS $function$
DECLARE
    item integer := 1;
    items integer := cardinality(p_ids);
    id integer;
    n bigint;
    {cursors}
BEGIN
    IF p_origin THEN
        r_old := array_fill(NULL::text, ARRAY[items]);
    END IF;
    WHILE item <= items LOOP
        id := p_ids[item];
{tree}
        IF p_origin THEN
            r_rows[item] := n;
        ELSIF n <> p_expect[item] THEN
            IF item >= p_behind THEN
                RAISE EXCEPTION USING ERRCODE = 'PR001', MESSAGE = 'behind';
            END IF;
            r_drift := r_drift || item;
            r_drift_rows := r_drift_rows || n;
        END IF;
        item := item + 1;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS r_state = RETURNED_SQLSTATE, r_message = MESSAGE_TEXT,
        r_detail = PG_EXCEPTION_DETAIL;
    r_item := item;
END
$function$;
",
        arrays = arrays.join(", "),
        cursors = cursors.join("\n    "),
    )
}

/// A binary search: with many statements a chain of comparisons would cost more than the work.
fn write_tree(out: &mut String, branches: &[Branch]) {
    match branches {
        [] => out.push_str(
            "IF id > 0 THEN RAISE EXCEPTION USING ERRCODE = 'PR002', \
             MESSAGE = 'unknown statement; run prism migrate'; END IF; n := p_expect[item];\n",
        ),
        [branch] => write_leaf(out, branch),
        _ => {
            let (low, high) = branches.split_at(branches.len() / 2);
            let _ = writeln!(out, "IF id < {} THEN", high[0].id);
            write_tree(out, low);
            out.push_str("ELSE\n");
            write_tree(out, high);
            out.push_str("END IF;\n");
        }
    }
}

fn write_leaf(out: &mut String, branch: &Branch) {
    let mut taken = [0; COLUMNS.len()];
    let arguments: Vec<String> = branch
        .params
        .iter()
        .map(|ty| {
            let (array, sql_type) = column(*ty);
            let i = COLUMNS
                .iter()
                .position(|c| c.0 == array)
                .unwrap_or_default();
            taken[i] += 1;
            let element = format!("{array}[at_{array} + {}]", taken[i]);
            if matches!(ty.stored(), ParamType::Decimal | ParamType::Json) {
                format!("{element}::{sql_type}")
            } else {
                element
            }
        })
        .collect();
    let (id, arguments) = (branch.id, arguments.join(", "));
    let _ = writeln!(out, "IF id = {id} THEN");
    if branch.has_old {
        let _ = writeln!(
            out,
            "IF p_origin THEN r_old[item] := prism.o_{id}({arguments}); END IF;"
        );
    }
    let _ = writeln!(out, "n := prism.s_{id}({arguments});");
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
