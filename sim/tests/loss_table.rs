//! The table of what losses cost is what the code does (`PRISM_BLESS=1` writes it anew).

use std::path::Path;

use prism_sim::loss::{RTTS, block, table};

#[test]
fn the_loss_table_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("loss-table.txt");
    if std::env::var_os("PRISM_BLESS").is_some() {
        std::fs::write(&path, table()).expect("the table can be written");
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if cfg!(debug_assertions) {
        // Eight times as slow: a quarter will do.
        let block = block(RTTS[1]);
        return same(part(&kept, &block), &block);
    }
    same(&kept, &table());
}

/// The part of the table at the place of `block`: as long, and it begins with the same row.
fn part<'a>(kept: &'a str, block: &str) -> &'a str {
    let first = block.lines().nth(1).unwrap_or_default();
    let names = block.lines().next().unwrap_or_default();
    let path = &first[..first.find('|').unwrap_or(0)];
    let start = kept.find(&format!("{names}\n{path}")).unwrap_or(kept.len());
    let end = kept.len().min(start + block.len());
    kept.get(start..end).unwrap_or_default()
}

#[track_caller]
fn same(kept: &str, now: &str) {
    let differing: Vec<String> = (kept.lines().zip(now.lines()))
        .filter(|(kept, now)| kept != now)
        .map(|(kept, now)| format!("- {kept}\n+ {now}"))
        .collect();
    assert!(
        kept == now,
        "the cost of losses has changed in {} rows. If that is meant, run\n\
         PRISM_BLESS=1 cargo test --release -p prism-sim --test loss_table\n\
         and commit sim/loss-table.txt with the change.\n{}",
        differing.len(),
        differing.join("\n")
    );
}
