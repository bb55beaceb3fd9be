//! Everything in `corpus/` and `regressions/` once more.

use std::fs;
use std::path::Path;

use super::TARGETS;

#[test]
fn what_was_found_once_is_not_found_again() {
    // libFuzzer runs them on the main thread; that of a test has a smaller stack.
    let replay = std::thread::Builder::new().stack_size(8 << 20).spawn(|| {
        for (name, run) in TARGETS {
            println!("{name:<16} {}", replay(name, *run));
        }
    });
    let done = replay.expect("a thread").join();
    assert!(done.is_ok(), "see above");
}

fn replay(name: &str, run: fn(&[u8])) -> usize {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for kind in ["regressions", "corpus"] {
        let Ok(files) = fs::read_dir(here.join(kind).join(name)) else {
            continue;
        };
        for file in files {
            let path = file.expect("a readable directory").path();
            let bytes = fs::read(&path).expect("a readable file");
            let outcome = std::panic::catch_unwind(|| run(&bytes));
            assert!(
                outcome.is_ok(),
                "target {name} fails with {}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(
        count > 0,
        "fuzz/corpus/{name} is empty: keep some seeds there"
    );
    count
}

/// A target that `cargo fuzz` does not build would never run.
#[test]
fn every_target_is_a_program() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(here.join("Cargo.toml")).expect("the manifest");
    let mut programs: Vec<_> = (manifest.lines())
        .filter_map(|line| {
            line.strip_prefix("path = \"fuzz_targets/")?
                .strip_suffix(".rs\"")
        })
        .collect();
    programs.sort_unstable();
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, names);
}
