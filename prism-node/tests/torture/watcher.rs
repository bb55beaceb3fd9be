//! What must hold at every moment, looked at while it runs.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use postgres::Client;

use crate::world::{REGIONS, World};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(150);

/// Epoch, applied and tag of a stream in one database.
type Mark = (i64, i64, i64);

/// Watches what `peer` has of `origin`'s stream: never less than before, never another history, and
/// never less than what the origin believes it to have. Returns the number of looks.
pub fn stream(world: &World, origin: usize, peer: usize) -> u64 {
    let (mut here, mut there) = (None, None);
    let mut last: Mark = (0, 0, 0);
    let mut looks = 0;
    while !world.watched.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        // The origin first: what it knows now, the peer has had before.
        let acked = ask(world, origin, &mut here, |client| {
            let row = client.query_opt(
                "SELECT acked FROM prism.lane WHERE peer = $1",
                &[&REGIONS[peer]],
            )?;
            Ok(row.map_or(0, |row| row.get::<_, i64>(0)))
        });
        let mark = ask(world, peer, &mut there, |client| {
            let row = client.query_opt(
                "SELECT epoch, applied, tag FROM prism.watermark WHERE stream = $1",
                &[&REGIONS[origin]],
            )?;
            Ok(row.map_or((0, 0, 0), |row| (row.get(0), row.get(1), row.get(2))))
        });
        let names = format!("{} in {}", REGIONS[origin], REGIONS[peer]);
        if let Some(mark) = mark {
            looks += 1;
            let went_back = mark.1 < last.1;
            let other = last.0 != 0 && mark.0 != last.0 || mark.1 == last.1 && mark.2 != last.2;
            if went_back || other {
                world.wrong(format!(
                    "the watermark of {names} was {last:?}, is {mark:?}"
                ));
            }
            last = mark;
            if let Some(acked) = acked
                && acked > mark.1
            {
                world.wrong(format!(
                    "{names}: acknowledged up to {acked}, applied up to {}",
                    mark.1
                ));
            }
        }
    }
    looks
}

/// Watches awaited rows: one that is to be seen at its origin is in every region, and stays there.
pub fn awaited(world: &World, origin: usize) -> u64 {
    let mut clients: HashMap<usize, Option<Client>> = HashMap::new();
    let mut seen: HashSet<String> = HashSet::new();
    while !world.watched.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK * 2);
        let ids = |region: usize, clients: &mut HashMap<usize, Option<Client>>| {
            ask(
                world,
                region,
                clients.entry(region).or_default(),
                |client| {
                    let rows = client.query(
                        "SELECT id FROM reserved WHERE origin = $1 AND n = 1",
                        &[&REGIONS[origin]],
                    )?;
                    Ok(rows.iter().map(|r| r.get(0)).collect::<HashSet<String>>())
                },
            )
        };
        let Some(own) = ids(origin, &mut clients) else {
            continue;
        };
        let mut everywhere = true;
        for peer in (0..REGIONS.len()).filter(|p| *p != origin) {
            let Some(there) = ids(peer, &mut clients) else {
                everywhere = false;
                continue;
            };
            for id in own.difference(&there) {
                world.wrong(format!(
                    "{id} is to be seen at its origin {} but not in {}",
                    REGIONS[origin], REGIONS[peer]
                ));
            }
        }
        if everywhere {
            for id in seen.difference(&own) {
                world.wrong(format!("{id} was final in {} and is gone", REGIONS[origin]));
            }
            seen = own;
        }
    }
    seen.len() as u64
}

/// Asks a database, over a connection that is made anew after an error. `None` while it is away.
fn ask<T>(
    world: &World,
    region: usize,
    client: &mut Option<Client>,
    question: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
) -> Option<T> {
    if client.is_none() {
        *client = world.sql(region).ok();
    }
    let answer = question(client.as_mut()?);
    if answer.is_err() {
        *client = None;
    }
    answer.ok()
}
