//! Writes the seeds that are made of real things into `fuzz/corpus/`: every frame, updates, journals.
//! (Those that are texts stand there as they are.) `cargo run -p prism-fuzz --example seeds`

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, name, bytes) in prism_fuzz::seeds::all() {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("seed-{name}")), bytes)?;
    }
    Ok(())
}
