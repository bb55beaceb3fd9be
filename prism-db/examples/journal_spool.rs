//! A small spool around the journal: appends numbered updates and prints each number once it is
//! durable, or lists what a restart finds. `tests/journal_syscalls.rs` kills it at every system call.
//!
//! ```sh
//! cargo run -p prism-db --example journal_spool -- fill /tmp/spool 20
//! cargo run -p prism-db --example journal_spool -- list /tmp/spool
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;

use prism_db::journal::{Journal, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let options = Options {
        segment_bytes: 400,
        reserve_bytes: 8192,
        ..Options::default()
    };
    let mut out = std::io::stdout();
    match args[..] {
        ["fill", dir, count] => {
            let (mut journal, _) = Journal::open(Path::new(dir), options)?;
            for _ in 0..count.parse::<u64>()? {
                let next = journal.trimmed() + journal.entries() + 1;
                let numbers =
                    journal.append(&[format!("update {next}"), format!("update {}", next + 1)])?;
                // Only now, and in one write each, so that what is printed was durable before.
                writeln!(out, "durable {}", numbers.last)?;
                if numbers.last % 6 == 0 {
                    journal.trim(numbers.last - 5)?;
                    writeln!(out, "trimmed {}", numbers.last - 5)?;
                }
            }
        }
        ["list", dir] => {
            let (mut journal, recovery) = Journal::open(Path::new(dir), options)?;
            for damage in &recovery.damage {
                writeln!(out, "damage {damage}")?;
            }
            loop {
                let entries = journal.peek(100)?;
                let Some(last) = entries.last() else { break };
                for entry in &entries {
                    let text = String::from_utf8_lossy(&entry.payload);
                    writeln!(out, "entry {} {text}", entry.number)?;
                }
                journal.trim(last.number)?;
            }
        }
        _ => return Err("usage: journal_spool fill DIR GROUPS | list DIR".into()),
    }
    Ok(())
}
