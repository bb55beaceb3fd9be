//! What must hold in the end, by plain SQL and by what the callers were told.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ops::{Kind, Op, Outcome};
use crate::world::{REGIONS, World};

/// Tables that are the same in every region, row by row.
const EQUAL: [&str; 8] = [
    "SELECT origin, n, hash FROM chain ORDER BY origin",
    "SELECT origin, n, id, hash FROM log ORDER BY origin, n",
    "SELECT id, n FROM marks ORDER BY id",
    "SELECT token, id FROM tokens ORDER BY token",
    "SELECT id, n FROM purse ORDER BY id",
    "SELECT id, name FROM users ORDER BY id",
    "SELECT id, origin, n FROM reserved ORDER BY id",
    "SELECT id, n FROM seats ORDER BY id",
];

/// One region's content.
pub struct Content {
    /// How often each update with a row of its own took effect.
    times: HashMap<(Kind, String), i64>,
    /// `n` of each row of `purse` and `seats`.
    sums: BTreeMap<(Kind, String), i64>,
    names: HashMap<String, String>,
    /// Dead letters that nobody has dealt with, per stream.
    dead: BTreeMap<String, i64>,
}

impl Content {
    pub fn read(world: &World, region: usize) -> Result<Self, postgres::Error> {
        let mut client = world.sql(region)?;
        let mut pairs = |sql: &str| -> Result<Vec<(String, i64)>, postgres::Error> {
            let rows = client.query(sql, &[])?;
            Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
        };
        let mut times = HashMap::new();
        for (kind, sql) in [
            (Kind::Append, "SELECT id, count(*) FROM log GROUP BY id"),
            (Kind::Mark, "SELECT id, n::bigint FROM marks"),
            (Kind::Token, "SELECT id, count(*) FROM tokens GROUP BY id"),
            (Kind::Letter, "SELECT id, n::bigint FROM letters"),
            (Kind::Reserve, "SELECT id, n::bigint FROM reserved"),
        ] {
            times.extend(pairs(sql)?.into_iter().map(|(id, n)| ((kind, id), n)));
        }
        let mut sums = BTreeMap::new();
        for (kind, sql) in [
            (Kind::Claim, "SELECT id, n::bigint FROM purse"),
            (Kind::Seat, "SELECT id, n::bigint FROM seats"),
        ] {
            sums.extend(pairs(sql)?.into_iter().map(|(id, n)| ((kind, id), n)));
        }
        let dead = pairs(
            "SELECT stream, count(*) FROM prism.rejected WHERE resolution IS NULL GROUP BY stream",
        )?;
        let names = client.query("SELECT id, name FROM users WHERE name <> ''", &[])?;
        Ok(Self {
            times,
            sums,
            names: names.iter().map(|r| (r.get(0), r.get(1))).collect(),
            dead: dead.into_iter().collect(),
        })
    }

    fn times(&self, op: &Op) -> i64 {
        let key = (op.kind, op.id.clone());
        self.times.get(&key).copied().unwrap_or(0)
    }
}

/// The order of each origin: its places are 1, 2, 3, ... and every hash covers all before it. What
/// makes the hashes is a trigger in each database, so two orders give two hashes; here it is
/// recomputed as well.
const CHAIN: &str = "
    SELECT count(*)
    FROM (SELECT origin, n, hash, id, row_number() OVER w AS place,
                 lag(hash, 1, '') OVER w AS before
          FROM log WINDOW w AS (PARTITION BY origin ORDER BY n)) l
    WHERE place <> n OR hash <> md5(before || id)";

/// The regions against each other.
pub fn equal(world: &World) -> Result<(), postgres::Error> {
    for sql in EQUAL {
        let digest = format!("SELECT md5(coalesce(string_agg(t::text, '|'), '')) FROM ({sql}) t");
        let mut digests = Vec::new();
        for r in 0..REGIONS.len() {
            let row = world.sql(r)?.query_one(&digest, &[])?;
            digests.push(row.get::<_, String>(0));
        }
        if digests.iter().any(|d| *d != digests[0]) {
            world.wrong(format!("{sql}: differs between the regions"));
            differences(world, sql)?;
        }
    }
    for (r, region) in REGIONS.iter().enumerate() {
        let broken: i64 = world.sql(r)?.query_one(CHAIN, &[])?.get(0);
        if broken > 0 {
            world.wrong(format!("{region}: {broken} rows of log are out of order"));
        }
    }
    Ok(())
}

/// The first rows that one region has and another has not.
fn differences(world: &World, sql: &str) -> Result<(), postgres::Error> {
    let all = format!("SELECT t::text FROM ({sql}) t");
    let mut sets: Vec<BTreeSet<String>> = Vec::new();
    for r in 0..REGIONS.len() {
        let rows = world.sql(r)?.query(&all, &[])?;
        sets.push(rows.iter().map(|row| row.get(0)).collect());
    }
    for (r, set) in sets.iter().enumerate() {
        let others = sets.iter().enumerate().filter(|(o, _)| *o != r);
        for (o, other) in others {
            let only: Vec<&String> = set.difference(other).take(3).collect();
            if !only.is_empty() {
                eprintln!("  {} but not {}: {only:?}", REGIONS[r], REGIONS[o]);
            }
        }
    }
    Ok(())
}

/// Every update against what its caller was told. `stays` says what was found out afterwards about
/// those whose answers leave it open.
pub fn told(world: &World, ops: &[Op], found: &HashMap<uuid::Uuid, bool>, content: &[Content]) {
    // At least and at most.
    let mut sums: BTreeMap<(Kind, String), (i64, i64)> = BTreeMap::new();
    let mut dead: BTreeMap<(usize, usize), (i64, i64)> = BTreeMap::new();
    let mut users: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        let stays = found.get(&op.request).copied().or_else(|| op.stays());
        if op.refuser == Some(op.origin) && !op.kind.awaited() {
            // Refused when it was answered; or, also after that, out of a journal.
            let (least, most) = dead.entry((op.origin, op.origin)).or_default();
            // (Of two copies, the one that is answered may be refused before the one that waits.)
            *least += i64::from(op.outcome == Outcome::Spooled && op.alone);
            *most += 1;
        }
        if let Some(refuser) = op.refuser
            && op.crossed
        {
            // Its copy may have waited in a journal there.
            dead.entry((refuser, refuser)).or_default().1 += 1;
        }
        match op.kind {
            Kind::Claim | Kind::Seat => {
                let (least, most) = sums.entry((op.kind, op.row.clone())).or_default();
                *least += i64::from(stays.unwrap_or(false));
                *most += i64::from(stays.unwrap_or(true));
            }
            Kind::Rename => users.entry(&op.row).or_default().push(op),
            Kind::Letter => letter(world, op, stays, content, &mut dead),
            _ => {
                let times: Vec<i64> = content.iter().map(|c| c.times(op)).collect();
                let once = match stays {
                    Some(stays) => times.iter().all(|t| *t == i64::from(stays)),
                    None => [0, 1].iter().any(|n| times.iter().all(|t| t == n)),
                };
                if !once {
                    world.wrong(format!(
                        "{op} (stays: {stays:?}) took effect {times:?} times"
                    ));
                }
            }
        }
    }
    for (key, &(least, most)) in &sums {
        for (c, region) in content.iter().zip(REGIONS) {
            let n = c.sums.get(key).copied().unwrap_or(0);
            if !(least..=most).contains(&n) {
                world.wrong(format!("{region}: {key:?} is {n}, not {least} to {most}"));
            }
        }
    }
    for ((region, origin), (least, most)) in dead {
        let n = content[region]
            .dead
            .get(REGIONS[origin])
            .copied()
            .unwrap_or(0);
        if !(least..=most).contains(&n) {
            world.wrong(format!(
                "{} has {n} dead letters of {}, not {least} to {most}",
                REGIONS[region], REGIONS[origin]
            ));
        }
    }
    for (row, ops) in users {
        renamed(world, row, &ops, content);
    }
}

/// Once in every region that does not refuse it; there, a dead letter.
fn letter(
    world: &World,
    op: &Op,
    stays: Option<bool>,
    content: &[Content],
    dead: &mut BTreeMap<(usize, usize), (i64, i64)>,
) {
    let times: Vec<i64> = content.iter().map(|c| c.times(op)).collect();
    let exists = stays.unwrap_or_else(|| times.iter().any(|t| *t > 0));
    let right = times.iter().enumerate().all(|(r, t)| {
        let here = exists && op.refuser != Some(r);
        *t == i64::from(here)
    });
    if !right {
        world.wrong(format!(
            "{op} (stays: {stays:?}) took effect {times:?} times"
        ));
    }
    if let Some(refuser) = op.refuser
        && refuser != op.origin
    {
        let (least, most) = dead.entry((refuser, op.origin)).or_default();
        *least += i64::from(exists);
        *most += i64::from(exists);
    }
}

/// A row that one client renames, one after the other.
fn renamed(world: &World, row: &str, ops: &[&Op], content: &[Content]) {
    let name = content[0].names.get(row).map_or("", String::as_str);
    let may_be = ops
        .iter()
        .filter(|op| op.stays() != Some(false))
        .any(|op| op.id == name);
    let certain = ops.iter().all(|op| {
        matches!(
            op.outcome,
            Outcome::Committed | Outcome::NotTaken | Outcome::Refused
        )
    });
    let last = ops.iter().rfind(|op| op.stays() == Some(true));
    let expected = last.map_or("", |op| &op.id);
    if certain && name != expected || !certain && !may_be && !name.is_empty() {
        world.wrong(format!(
            "users {row} is called {name:?}, not {expected:?} ({certain})"
        ));
        ops.iter().for_each(|op| eprintln!("  {op}"));
    }
}
