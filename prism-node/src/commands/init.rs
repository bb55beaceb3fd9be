//! `prism init`: a first cluster that runs on this machine.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _, stdout};
use std::path::{Path, PathBuf};

use super::{program, quote};
use crate::cli::{CliError, InitArgs};
use crate::keys::SecretKey;

/// Regions and the first of their two UDP ports; HTTP is 1000 above.
const REGIONS: [(&str, u16); 3] = [("NA", 7101), ("EU", 7111), ("AS", 7121)];

const NODES_PER_REGION: u16 = 2;

const HEAD: &str = include_str!("init/head.toml");
const TAIL: &str = include_str!("init/tail.toml");
const SCHEMA: &str = include_str!("init/schema.sql");

/// One node of the new cluster.
struct NewNode {
    name: String,
    udp: u16,
    key: SecretKey,
}

/// Writes everything, or nothing if something is there already.
///
/// # Errors
/// Exit status 1 and what is in the way.
pub fn run(args: &InitArgs) -> Result<(), CliError> {
    let dir = args.dir.as_path();
    refuse_to_overwrite(dir)?;
    let failed = |path: &Path, e: io::Error| {
        CliError::Failed(format!("cannot write {}: {e}", path.display()))
    };
    let mut toml = HEAD.to_owned();
    let mut names = Vec::new();
    for (region, port) in REGIONS {
        let database = format!("data/{}.db", region.to_lowercase());
        let _ = write!(
            toml,
            "\n[[region]]\nname = \"{region}\"\ndatabase = \"sqlite:{database}\"\n"
        );
        for i in 0..NODES_PER_REGION {
            let node = NewNode {
                name: format!("{region}{}", i + 1),
                udp: port + i,
                key: SecretKey::generate().map_err(CliError::failed)?,
            };
            let data_dir = dir.join("data").join(&node.name);
            fs::create_dir_all(&data_dir).map_err(|e| failed(&data_dir, e))?;
            node.key
                .write_new(&data_dir.join("node.key"))
                .map_err(CliError::failed)?;
            let _ = write!(
                toml,
                "[[region.node]]\nname = \"{}\"\nudp = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\npublic_key = \"{}\"\n",
                node.name,
                node.udp,
                node.udp + 1000,
                node.key.public()
            );
            names.push(node.name);
        }
        let path = dir.join(database);
        example_table(&path)
            .map_err(|e| CliError::Failed(format!("cannot create {}: {e}", path.display())))?;
    }
    toml.push_str(TAIL);
    SecretKey::generate()
        .and_then(|psk| psk.write_new(&dir.join("game.psk")))
        .map_err(CliError::failed)?;
    // Last: as long as there is no prism.toml there is no cluster, and a broken run is seen.
    let path = dir.join("prism.toml");
    fs::File::create_new(&path)
        .and_then(|mut f| f.write_all(toml.as_bytes()))
        .map_err(|e| failed(&path, e))?;
    Ok(stdout().write_all(next_steps(dir, &names).as_bytes())?)
}

/// What would be written and is there already.
fn refuse_to_overwrite(dir: &Path) -> Result<(), CliError> {
    let mut targets: Vec<PathBuf> = vec![dir.join("prism.toml"), dir.join("game.psk")];
    for (region, _) in REGIONS {
        targets.push(dir.join(format!("data/{}.db", region.to_lowercase())));
        for i in 1..=NODES_PER_REGION {
            targets.push(dir.join(format!("data/{region}{i}/node.key")));
        }
    }
    let there: Vec<_> = targets
        .iter()
        .filter(|path| fs::symlink_metadata(path).is_ok())
        .map(|path| path.display().to_string())
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    let more = match there.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    Err(CliError::Failed(format!(
        "nothing was written, because there is already {}{more}; choose an empty directory: {} init DIR",
        there[0],
        program()
    )))
}

fn example_table(path: &Path) -> rusqlite::Result<()> {
    let database = rusqlite::Connection::open(path)?;
    database.execute_batch(SCHEMA)
}

fn next_steps(dir: &Path, nodes: &[String]) -> String {
    let prism = program();
    let config = quote(&dir.join("prism.toml"));
    let data = quote(&dir.join("data"));
    let all = nodes.join(" ");
    format!(
        "\
Wrote {config}, keys, and a SQLite database per region with a table `users`.
Next (each line can be pasted):

  {prism} migrate --config {config}
  {prism} check --config {config}
  for n in {all}; do {prism} node --config {config} --node $n --data-dir {data}/$n 2>{data}/$n/log & done
  {prism} submit --config {config} --node NA1 add_kills steve 1
  {prism} status --config {config}
"
    )
}
