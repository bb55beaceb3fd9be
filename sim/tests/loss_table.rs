//! The table of what losses cost is what the code does (`PRISM_BLESS=1` writes it anew).

use std::path::Path;

#[test]
fn the_loss_table_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("loss-table.txt");
    let now = prism_sim::loss::table();
    if std::env::var_os("PRISM_BLESS").is_some() {
        std::fs::write(&path, &now).expect("the table can be written");
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differing: Vec<String> = (kept.lines().zip(now.lines()))
        .filter(|(kept, now)| kept != now)
        .map(|(kept, now)| format!("- {kept}\n+ {now}"))
        .collect();
    assert!(
        kept == now,
        "the cost of losses has changed in {} rows. If that is meant, run\n\
         PRISM_BLESS=1 cargo test -p prism-sim --test loss_table\n\
         and commit sim/loss-table.txt with the change.\n{}",
        differing.len(),
        differing.join("\n")
    );
}
