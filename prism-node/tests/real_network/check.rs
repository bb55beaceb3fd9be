//! What must hold in the databases, by plain SQL.

use std::collections::BTreeMap;

use crate::callers::{Kind, Update, send};
use crate::world::{NODES, REGIONS, World, lock, nodes};

/// Shown of a kind of mistake.
const SHOWN: usize = 5;

/// Whatever an application can tell two databases apart by.
const EQUAL: [&str; 2] = [
    "SELECT * FROM hits ORDER BY origin, n",
    "SELECT * FROM counters ORDER BY id",
];

impl World {
    /// A new update of a region, which its database has committed.
    pub fn probe(&self, region: usize) -> Update {
        let update = Update::new(Kind::Hit, region);
        let beside = nodes(region).start;
        std::thread::scope(|scope| {
            scope.spawn(|| send(self, beside, vec![update]));
        });
        update
    }

    /// Whether a region's database has an update.
    pub fn has(&self, region: usize, update: &Update) -> bool {
        let sql = "SELECT count(*) FROM hits WHERE id = $1";
        let row = self.sql(region).query_one(sql, &[&update.id.to_string()]);
        row.expect("a query").get::<_, i64>(0) > 0
    }

    /// Waits until a new update of `from`, and with it all before it, is in the database of `to`.
    pub fn flows(&self, from: usize, to: usize) {
        let update = self.probe(from);
        let what = format!("an update of {} gets to {}", REGIONS[from], REGIONS[to]);
        self.wait(&what, || self.has(to, &update));
    }

    /// The same between all of these regions, both ways.
    pub fn converge(&self, regions: &[usize]) {
        let probes: Vec<Update> = regions.iter().map(|r| self.probe(*r)).collect();
        for probe in probes {
            for &to in regions {
                let from = REGIONS[probe.origin];
                let what = format!("an update of {from} gets to {}", REGIONS[to]);
                self.wait(&what, || self.has(to, &probe));
            }
        }
    }

    /// Whether every database has as many updates as were acknowledged. To be asked when nothing is
    /// submitted any more.
    pub fn is_level(&self) -> bool {
        let (hits, adds) = self.taken();
        (0..REGIONS.len()).all(|r| {
            let sql =
                "SELECT (SELECT count(*) FROM hits), (SELECT n FROM counters WHERE id = 'shared')";
            let row = self.sql(r).query_one(sql, &[]).expect("a query");
            (row.get::<_, i64>(0), row.get::<_, i64>(1)) == (hits.len() as i64, adds)
        })
    }

    /// The ids of the hits and the number of the adds that were acknowledged.
    fn taken(&self) -> (BTreeMap<String, i64>, i64) {
        let taken = lock(&self.acknowledged);
        let hits = taken.iter().filter(|u| u.kind == Kind::Hit);
        let hits: BTreeMap<_, _> = hits.map(|u| (u.id.to_string(), 1)).collect();
        let adds = taken.iter().filter(|u| u.kind == Kind::Add).count();
        (hits, adds as i64)
    }

    /// Every update that was acknowledged took effect once in every region, in one order, and
    /// nothing else did.
    pub fn assert_exactly_once(&self) {
        let (hits, adds) = self.taken();
        let mut wrong = Vec::new();
        let mut digests = Vec::new();
        for (r, region) in REGIONS.iter().enumerate() {
            let mut sql = self.sql(r);
            let rows = sql
                .query("SELECT id, count(*) FROM hits GROUP BY id", &[])
                .expect("a query");
            let there: BTreeMap<String, i64> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
            let differ = |a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>| {
                let other = a.iter().filter(|(id, n)| b.get(*id) != Some(n));
                let list: Vec<String> = other.map(|(id, n)| format!("{id} {n}x")).collect();
                (list.len(), list[..list.len().min(SHOWN)].join(", "))
            };
            let (count, list) = differ(&hits, &there);
            if count > 0 {
                wrong.push(format!("{region}: {count} are not there just once: {list}"));
            }
            let (count, list) = differ(&there, &hits);
            if count > 0 {
                wrong.push(format!("{region}: {count} were not submitted so: {list}"));
            }
            let shared = "SELECT n FROM counters WHERE id = 'shared'";
            let n: i64 = sql.query_one(shared, &[]).expect("a query").get(0);
            if n != adds {
                wrong.push(format!("{region}: counted {n}, acknowledged {adds}"));
            }
            let rejected = "SELECT count(*) FROM prism.rejected";
            let n: i64 = sql.query_one(rejected, &[]).expect("a query").get(0);
            if n != 0 {
                wrong.push(format!("{region}: {n} rejected"));
            }
            digests.push(EQUAL.map(|select| {
                let digest = format!("SELECT md5(string_agg(t::text, '|')) FROM ({select}) t");
                sql.query_one(&digest, &[])
                    .expect("a query")
                    .get::<_, String>(0)
            }));
        }
        if digests.iter().any(|d| *d != digests[0]) {
            wrong.push(format!("the databases differ: {digests:?}"));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        eprintln!(
            "{} updates from {} nodes, each once in each of {} databases",
            hits.len() as i64 + adds,
            REGIONS.len() * NODES,
            REGIONS.len()
        );
    }
}
