//! Three regions of one kind of database, driven by the same steps as three of the other.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use prism_db::apply::Applier;
use prism_db::catalogue::Catalogue;
use prism_db::{Database, DatabaseUrl, OpenOptions, Topology, Update, migrate, open};
use prism_proto::{RegionKey, Seq};
use prism_sim::database::{Account, ModelServer, catalogue};

use crate::backend::{Backend, Dialect, schema};
use crate::names::Names;

pub const REGIONS: [&str; 3] = ["NA", "EU", "AS"];
/// Bounds of `accounts.n`: what one region takes another refuses.
const BOUNDS: [(i64, i64); 3] = [(-40, 60), (-60, 25), (-1000, 1000)];
/// There from the beginning.
const ACCOUNTS: [&str; 4] = ["a", "b", "c", "d"];

enum Kind<'a> {
    Model(Vec<ModelServer>),
    Real(&'a dyn Backend, Vec<DatabaseUrl>),
}

pub struct Side<'a> {
    kind: Kind<'a>,
    pub dialect: Dialect,
    pub catalogue: Arc<Catalogue>,
    /// Two connections to each region.
    pub one: Vec<Box<dyn Database>>,
    pub two: Vec<Box<dyn Database>>,
    pub appliers: Vec<Vec<Applier>>,
    pub names: Names,
    /// Newest update of each stream whose tag has a name.
    known: [u64; 3],
    /// Numbers of dead letters in the order in which they have appeared.
    pub letters: [Vec<i64>; 3],
}

fn options(region: usize, catalogue: &Arc<Catalogue>) -> OpenOptions {
    let topology = Topology {
        region: REGIONS[region].to_owned(),
        regions: REGIONS
            .iter()
            .map(|name| ((*name).to_owned(), RegionKey::of(name)))
            .collect(),
    };
    let mut options = OpenOptions::new(topology, Arc::clone(catalogue));
    options.lock_timeout = Duration::from_millis(200);
    options
}

impl<'a> Side<'a> {
    fn new(
        kind: Kind<'a>,
        dialect: Dialect,
        connect: impl Fn(usize, OpenOptions) -> Box<dyn Database>,
    ) -> Self {
        let catalogue = catalogue::catalogue(true);
        let all = |connect: &dyn Fn(usize, OpenOptions) -> Box<dyn Database>| {
            (0..3)
                .map(|region| connect(region, options(region, &catalogue)))
                .collect()
        };
        let regions: Arc<[_]> = options(0, &catalogue).topology.regions;
        let applier = || Applier::new(Arc::clone(&catalogue), Arc::clone(&regions));
        let mut side = Self {
            one: all(&connect),
            two: all(&connect),
            appliers: (0..3)
                .map(|_| (0..3).map(|_| applier()).collect())
                .collect(),
            kind,
            dialect,
            names: Names::default(),
            known: [0; 3],
            letters: [const { Vec::new() }; 3],
            catalogue: Arc::clone(&catalogue),
        };
        for (region, name) in REGIONS.iter().enumerate() {
            let epoch = side.one[region].region().expect("region").epoch;
            side.names.epochs.insert(epoch.0, (*name).to_owned());
        }
        side
    }

    /// To be compared with that kind of database.
    pub fn model(dialect: Dialect) -> Self {
        let catalogue = catalogue::catalogue(true);
        let server = |region: usize| {
            let server = ModelServer::new(BOUNDS[region]);
            server.migrate(&options(region, &catalogue).topology, &catalogue);
            for id in ACCOUNTS {
                let name = Some("first".into());
                server.set_account(id, Account { n: 0, name });
            }
            server
        };
        let servers: Vec<_> = (0..3).map(server).collect();
        let connect = servers.clone();
        Self::new(Kind::Model(servers), dialect, move |region, options| {
            connect[region].connect(options)
        })
    }

    pub fn real(backend: &'a dyn Backend, seed: u64) -> Self {
        let catalogue = catalogue::catalogue(true);
        let fresh = |region: usize| {
            let name = format!("{}_{seed}", REGIONS[region]);
            let url = backend.fresh(&name, &schema(BOUNDS[region], &ACCOUNTS));
            let topology = options(region, &catalogue).topology;
            migrate(&url, &topology, &catalogue).expect("migrated");
            url
        };
        let urls: Vec<_> = (0..3).map(fresh).collect();
        let connect = urls.clone();
        Self::new(
            Kind::Real(backend, urls),
            backend.dialect(),
            move |region, options| open(&connect[region], options).expect("an address"),
        )
    }

    /// The newest updates' tags get their names.
    pub fn learn(&mut self, region: usize) {
        let (names, known) = (&mut self.names, &mut self.known[region]);
        let from = Seq(*known + 1);
        self.one[region]
            .outbox_read(from, Seq(1 << 40), usize::MAX, &mut |seq, bytes| {
                let update = Update::decode(bytes).expect("an update");
                let name = format!("{}{}", REGIONS[region], seq.0);
                names.tags.insert(update.tag.0, name);
                *known = seq.0;
            })
            .expect("outbox");
    }

    /// New dead letters get their numbers.
    pub fn learn_letters(&mut self, region: usize) {
        for row in self.one[region].rejected(1000).expect("rejected") {
            if !self.letters[region].contains(&row.id) {
                self.letters[region].push(row.id);
            }
        }
    }

    pub fn outbox(&mut self, region: usize) -> Vec<(Seq, Vec<u8>)> {
        let mut all = Vec::new();
        let first = self.first(region);
        self.one[region]
            .outbox_read(first, Seq(1 << 40), usize::MAX, &mut |seq, bytes| {
                all.push((seq, bytes.to_vec()));
            })
            .expect("outbox");
        all
    }

    /// The first update that is in the outbox.
    fn first(&mut self, region: usize) -> Seq {
        let rows = self.one[region].outbox_figures().expect("figures").rows;
        let next = self.one[region].region().expect("region").next_seq.0;
        Seq(next - rows)
    }

    /// The application's tables everywhere.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        match &self.kind {
            Kind::Model(servers) => {
                for server in servers {
                    let tables = server.tables();
                    for (id, row) in &tables.accounts {
                        let name = row.name.as_deref().unwrap_or("NULL");
                        let _ = write!(text, "{id}|{}|{name} ", row.n);
                    }
                    for (id, account) in &tables.notes {
                        let _ = write!(text, "{id}|{account} ");
                    }
                    text.push('\n');
                }
            }
            Kind::Real(backend, urls) => {
                for url in urls {
                    let accounts = "SELECT id, CAST(n AS text), name FROM accounts ORDER BY id";
                    for row in backend.rows(url, accounts) {
                        let _ = write!(text, "{row} ");
                    }
                    for row in backend.rows(url, "SELECT id, account FROM notes ORDER BY id") {
                        let _ = write!(text, "{row} ");
                    }
                    text.push('\n');
                }
            }
        }
        text
    }

    pub fn findings(&self) -> Vec<String> {
        match &self.kind {
            Kind::Model(servers) => servers.iter().flat_map(ModelServer::findings).collect(),
            Kind::Real(..) => Vec::new(),
        }
    }
}
