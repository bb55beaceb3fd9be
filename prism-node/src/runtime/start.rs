//! From a configuration to running threads.

use prism_net::platform::mpsc::{SyncSender, sync_channel};
use prism_net::platform::{Condvar, Mutex, mpsc};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use prism_db::apply::Applier;
use prism_db::direct::DirectWriter;
use prism_db::journal::{AnyDisk, Disk};
use prism_db::{Database, DbError, OpenOptions, Topology};
use prism_net::{
    BindError, Endpoint, EndpointConfig, EndpointError, Handle, Protection, RegionInfo,
};
use prism_proto::{Position, RegionId, Seq};

use super::Runtime;
use super::awaits::Awaits;
use super::board::Board;
use super::boot;
use super::direct::DirectWorker;
use super::entropy;
use super::find::{FindWorker, Finder};
use super::history::History;
use super::host::LoopHost;
use super::identity::Identity;
use super::inlet::InletWorker;
use super::keeper::{KEEP_REQUESTS, Keeper};
use super::leases::{Held, LeaseWorker, Stopped};
use super::listen::Listener;
use super::names::Names;
use super::outbox::{Acks, OutboxWorker};
use super::pool::Pool;
use super::publish::Publisher;
use super::queue::{Chain, IntakeQueue};
use super::refusals::Refusals;
use super::replay::Replayer;
use super::reporter::Reporter;
use super::slow::{self, Slow};
use super::spool::{Spool, SpoolError};
use super::submit::SubmitWorker;
use super::surroundings::Surroundings;
use super::threads::{Threads, Whole};
use crate::config::{Config, Node};
use crate::secrets;

/// Updates that callers may have waiting: a few seconds' work of the database.
const INTAKE: usize = 16 << 10;
/// Bytes of them.
const INTAKE_BYTES: usize = 64 << 20;
/// Commands that the workers may have waiting for the loop.
const COMMANDS: usize = 1024;
/// Log lines that may wait.
const NOTICES: usize = 1024;
/// The core has at most one request of a kind under way; the rest is reserve.
const JOBS: usize = 64;

/// Longest wait for another transaction's lock of the submits of all callers together: whoever waits
/// longer goes on alone.
const SUBMIT_LOCK: Duration = Duration::from_millis(100);
/// Longest wait for another transaction's lock where a person waits for the answer.
const LOCK: Duration = Duration::from_secs(2);
/// The same while a stream is applied. Batches that lock the same rows in another order deadlock,
/// and the server (`deadlock_timeout`, one second) may choose the local submit to die: who applies
/// gives way before that, and tries again.
const APPLY_LOCK: Duration = Duration::from_millis(200);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Not in the file.
    #[error("there is no node {0} in the configuration; it has {1}")]
    UnknownNode(String, String),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}; name another one with --data-dir")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data directory {0} is in use: most likely {1} is running already; stop it first, or \
         give each node a data directory of its own"
    )]
    DataDirInUse(PathBuf, String),
    /// The port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The cluster does not fit into the core.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Not this region's database, or not usable at all.
    #[error("the database of region {0} cannot be used: {1}")]
    Database(String, DbError),
    /// The journal in the data directory.
    #[error("cannot use the journal of this node: {0}")]
    Journal(#[from] SpoolError),
    /// The operating system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Opens databases of any region of the cluster, lazily.
#[derive(Clone)]
struct Opener {
    config: Arc<Config>,
    regions: Arc<[(String, prism_proto::RegionKey)]>,
    surroundings: Arc<dyn Surroundings>,
}

impl Opener {
    fn new(config: &Arc<Config>, surroundings: &Arc<dyn Surroundings>) -> Self {
        Self {
            surroundings: Arc::clone(surroundings),
            regions: config
                .regions
                .iter()
                .map(|r| (r.name.clone(), r.key))
                .collect(),
            config: Arc::clone(config),
        }
    }

    /// Its own nodes' way in.
    fn own(&self, region: RegionId, lock: Duration) -> Result<Box<dyn Database>, StartError> {
        let region = self.config.region(region);
        self.surroundings
            .database(&region.database, self.options(&region.name, lock))
            .map_err(|error| StartError::Database(region.name.clone(), error))
    }

    /// Other regions' way in, for the stream of `stream`.
    fn direct(&self, stream: RegionId, peer: RegionId) -> Result<DirectWriter, StartError> {
        let stream = &self.config.region(stream).name;
        let peer = self.config.region(peer);
        let options = self.options(&peer.name, APPLY_LOCK);
        let applier = Applier::new(Arc::clone(&options.catalogue), Arc::clone(&self.regions));
        self.surroundings
            .database(&peer.direct, options)
            .map(|database| DirectWriter::into(stream, database, applier))
            .map_err(|error| StartError::Database(peer.name.clone(), error))
    }

    fn options(&self, region: &str, lock_timeout: Duration) -> OpenOptions {
        let topology = Topology {
            region: region.to_owned(),
            regions: Arc::clone(&self.regions),
        };
        OpenOptions {
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
            lock_timeout,
            max_update: self.config.limits.max_update as usize,
            ..OpenOptions::new(topology, Arc::clone(&self.config.catalogue))
        }
    }

    /// A node that writes into another region's database would do harm at once: it does not
    /// start. Whatever else is wrong with its database can be mended while it runs.
    fn refuse_foreign(&self, own: RegionId, db: &mut dyn Database) -> Result<(), StartError> {
        let Err(error @ DbError::Schema(_)) = db.region() else {
            return Ok(());
        };
        let own = self.config.region(own);
        for other in self.config.regions.iter().filter(|r| r.id != own.id) {
            let options = self.options(&other.name, LOCK);
            let as_other = self.surroundings.database(&own.database, options);
            if as_other.and_then(|mut db| db.region()).is_ok() {
                return Err(StartError::Database(own.name.clone(), error));
            }
        }
        Ok(())
    }
}

pub(super) fn start(
    config: &Arc<Config>,
    node: &str,
    data_dir: &Path,
    protection: Protection,
    surroundings: &Arc<dyn Surroundings>,
) -> Result<Runtime, StartError> {
    let me = config.node_named(node).ok_or_else(|| {
        let known: Vec<&str> = config.nodes.iter().map(|n| n.name.as_str()).collect();
        StartError::UnknownNode(node.to_owned(), known.join(", "))
    })?;
    let disk = surroundings.disk();
    let lock = lock_data_dir(&disk, data_dir, node)?;
    let boot = boot::next(&disk, data_dir);
    let endpoint = endpoint(config, me, protection, boot, surroundings.limits())?;
    let (packets, handle) = surroundings.packets(endpoint, me.bind_udp, COMMANDS)?;
    let opener = Opener::new(config, surroundings);
    let own = me.region;
    let names = Arc::new(names(config, me));
    let board = Arc::new(Board::new(Arc::clone(&names)));
    board.lock().catalogue = catalogue(config);
    board.connect(handle.clone());
    let acks = Arc::new(Acks::default());
    let held = Arc::new(Held::default());
    let stopped = Arc::new(Stopped::default());
    let spool = Arc::new(Spool::open(
        &disk,
        &data_dir.join("journal"),
        config.limits.max_journal,
        config.limits.max_update as usize,
        Arc::clone(&board),
    )?);
    let (finder, questions) = Finder::new();
    let queue = Arc::new(IntakeQueue::new(
        INTAKE,
        INTAKE_BYTES,
        Arc::clone(&config.catalogue),
        Arc::clone(&spool),
        finder,
    ));
    let whole = Whole {
        board: Arc::clone(&board),
        queue: Arc::clone(&queue),
    };
    let history = History::new(whole.clone());
    let mut threads = Threads::new(whole.clone());

    let mut database = opener.own(own, LOCK)?;
    opener.refuse_foreign(own, database.as_mut())?;

    let (outbox, outbox_jobs) = sync_channel(JOBS);
    let worker = OutboxWorker {
        jobs: outbox_jobs,
        database,
        handle: handle.clone(),
        board: Arc::clone(&board),
        history: history.clone(),
        acks: Arc::clone(&acks),
        held: Arc::clone(&held),
        told: Seq::ZERO,
    };
    threads.spawn("outbox", move || worker.run())?;

    let (leases, lease_jobs) = sync_channel(JOBS);
    let worker = LeaseWorker::new(
        lease_jobs,
        opener.own(own, LOCK)?,
        handle.clone(),
        whole.clone(),
        Identity::new(entropy::number(), spool.identity()),
        Arc::clone(&held),
        Arc::clone(&stopped),
    );
    threads.spawn("leases", move || worker.run())?;

    let publisher = Publisher::new(handle.clone(), Arc::clone(&board), outbox.clone(), history);
    let refusals = Refusals::new(
        publisher.clone(),
        Arc::clone(&board),
        Arc::clone(&config.catalogue),
    );
    let (keeper, keeper_jobs) = sync_channel(JOBS);
    let worker = Keeper::new(
        keeper_jobs,
        opener.own(own, LOCK)?,
        handle.clone(),
        Arc::clone(&board),
        publisher.clone(),
        refusals.clone(),
        config.limits,
    );
    threads.spawn("keeper", move || worker.run())?;

    let stop = Arc::new(AtomicBool::new(false));
    let awaits = awaits(&opener, own, &queue, &spool, &board, &publisher)?;
    let rows = Arc::new(slow::Rows::default());
    let worker = SubmitWorker {
        queue: Arc::clone(&queue),
        database: opener.own(own, SUBMIT_LOCK)?,
        spool: Arc::clone(&spool),
        board: Arc::clone(&board),
        publisher: publisher.clone(),
        slow: slow(&opener, own, &rows, &queue, &spool, &publisher, &whole),
        rows,
        awaits: await_pool(&awaits, &opener, own, &whole),
    };
    threads.spawn("submit", move || worker.run())?;
    let worker = Listener {
        database: opener.own(own, LOCK)?,
        outbox: outbox.clone(),
        stop: Arc::clone(&stop),
    };
    threads.spawn("listen", move || worker.run())?;
    let (mut monitor, ending) = (opener.own(own, LOCK)?, Arc::clone(&stop));
    threads.spawn("awaits", move || awaits.watch(monitor.as_mut(), &ending))?;
    let worker = Replayer {
        spool: Arc::clone(&spool),
        database: opener.own(own, LOCK)?,
        catalogue: Arc::clone(&config.catalogue),
        publisher,
        board: Arc::clone(&board),
        stop: Arc::clone(&stop),
        keep: config.limits.retention.max(KEEP_REQUESTS),
    };
    threads.spawn("journal", move || worker.run())?;
    let worker = FindWorker {
        questions,
        database: opener.own(own, LOCK)?,
        board: Arc::clone(&board),
        stop: Arc::clone(&stop),
    };
    threads.spawn("find", move || worker.run())?;

    let (notices, notice_jobs) = sync_channel(NOTICES);
    let reporter = Reporter {
        notices: notice_jobs,
        board: Arc::clone(&board),
    };
    threads.spawn("reporter", move || reporter.run())?;

    let mut inlets = vec![None; config.regions.len()];
    let mut direct = vec![None; config.regions.len()];
    for peer in names.peers() {
        let i = usize::from(peer.0);
        inlets[i] = Some(inlet(peer, &opener, &names, &handle, &board, &mut threads)?);
        direct[i] = Some(lane(
            peer,
            &opener,
            &refusals,
            &handle,
            &board,
            &mut threads,
        )?);
    }

    let mut host = LoopHost {
        inlets,
        direct,
        outbox: outbox.clone(),
        acks,
        held,
        stopped,
        leases: leases.clone(),
        keeper: keeper.clone(),
        notices,
        board: Arc::clone(&board),
        handle: handle.clone(),
        overdue: Vec::new(),
    };
    threads.spawn("loop", move || {
        if let Err(error) = packets.run(&mut host) {
            whole.died("loop", &error.to_string());
        }
    })?;
    tracing::info!(
        node,
        region = names.my_region(),
        udp = %me.bind_udp,
        "the node runs"
    );
    Ok(Runtime {
        queue,
        board,
        handle,
        outbox,
        leases,
        keeper,
        spool,
        stop,
        threads,
        _lock: lock,
    })
}

/// Those who wait for a lock, each on a connection that is opened for it.
fn slow(
    opener: &Opener,
    own: RegionId,
    rows: &Arc<slow::Rows>,
    queue: &Arc<IntakeQueue>,
    spool: &Arc<Spool>,
    publisher: &Publisher,
    whole: &Whole,
) -> Arc<Pool<Chain>> {
    let opener = opener.clone();
    let slow = Slow {
        queue: Arc::clone(queue),
        open: Arc::new(move |lock| opener.own(own, lock)),
        spool: Arc::clone(spool),
        board: Arc::clone(&whole.board),
        publisher: publisher.clone(),
        rows: Arc::clone(rows),
    };
    let (threads, waiting) = (slow::THREADS, slow::WAITING);
    Pool::new("slow", threads, waiting, whole.clone(), move || {
        let slow = slow.clone();
        Box::new(move |chain| slow.run(chain))
    })
}

fn awaits(
    opener: &Opener,
    own: RegionId,
    queue: &Arc<IntakeQueue>,
    spool: &Arc<Spool>,
    board: &Arc<Board>,
    publisher: &Publisher,
) -> Result<Arc<Awaits>, StartError> {
    Ok(Arc::new(Awaits {
        queue: Arc::clone(queue),
        desk: Mutex::new(opener.own(own, LOCK)?),
        spool: Arc::clone(spool),
        board: Arc::clone(board),
        publisher: publisher.clone(),
        longest: opener.config.limits.await_timeout,
        flights: Mutex::default(),
        begun: Condvar::new(),
        regions: Arc::clone(&opener.regions),
    }))
}

fn await_pool(
    awaits: &Arc<Awaits>,
    opener: &Opener,
    own: RegionId,
    whole: &Whole,
) -> Arc<Pool<Chain>> {
    let (awaits, opener) = (Arc::clone(awaits), opener.clone());
    let threads = opener.config.limits.max_awaits as usize;
    Pool::new("await", threads, 0, whole.clone(), move || {
        let (awaits, opener) = (Arc::clone(&awaits), opener.clone());
        let mut held = None;
        Box::new(move |chain| awaits.run(&mut held, || opener.own(own, LOCK), chain))
    })
}

fn inlet(
    stream: RegionId,
    opener: &Opener,
    names: &Names,
    handle: &Handle,
    board: &Arc<Board>,
    threads: &mut Threads,
) -> Result<SyncSender<super::inlet::InletJob>, StartError> {
    let (sender, jobs) = mpsc::sync_channel(JOBS);
    let worker = InletWorker {
        stream,
        jobs,
        database: opener.own(names.own, APPLY_LOCK)?,
        applier: Applier::new(
            Arc::clone(&opener.config.catalogue),
            Arc::clone(&opener.regions),
        ),
        handle: handle.clone(),
        board: Arc::clone(board),
        failing: None,
        clean: Position::default(),
    };
    threads.spawn(format!("inlet {}", names.region(stream)), move || {
        worker.run();
    })?;
    Ok(sender)
}

fn lane(
    peer: RegionId,
    opener: &Opener,
    refusals: &Refusals,
    handle: &Handle,
    board: &Arc<Board>,
    threads: &mut Threads,
) -> Result<SyncSender<super::direct::DirectJob>, StartError> {
    let (sender, jobs) = mpsc::sync_channel(JOBS);
    let (own, opener) = (board.names.own, opener.clone());
    // Opened once here, so that a bad address is an error at the start and not in an emergency.
    drop(opener.direct(own, peer)?);
    let worker = DirectWorker {
        peer,
        jobs,
        open: Box::new(move || Ok((opener.own(own, LOCK)?, opener.direct(own, peer)?))),
        handle: handle.clone(),
        refusals: refusals.clone(),
        board: Arc::clone(board),
        failing: None,
    };
    threads.spawn(format!("direct {}", board.names.region(peer)), move || {
        worker.run();
    })?;
    Ok(sender)
}

/// Held until the node has ended.
pub(super) type DataDirLock = <AnyDisk as Disk>::Lock;

fn lock_data_dir(disk: &AnyDisk, path: &Path, node: &str) -> Result<DataDirLock, StartError> {
    let fail = |source| StartError::DataDir {
        path: path.to_owned(),
        source,
    };
    let file = path.join("lock");
    let lock = match disk.lock(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.create_dir(path).map_err(fail)?;
            disk.lock(&file)
        }
        lock => lock,
    };
    lock.map_err(fail)?
        .ok_or_else(|| StartError::DataDirInUse(path.to_owned(), node.to_owned()))
}

fn names(config: &Config, me: &Node) -> Names {
    let siblings = &config.region(me.region).nodes;
    Names {
        me: me.id,
        own: me.region,
        rank: siblings.iter().position(|&n| n == me.id).unwrap_or(0),
        siblings: siblings.len(),
        nodes: config
            .nodes
            .iter()
            .map(|n| (n.name.clone(), n.region))
            .collect(),
        regions: config.regions.iter().map(|r| r.name.clone()).collect(),
    }
}

/// What peers are told of the catalogue.
pub(super) fn catalogue(config: &Config) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = config.catalogue.digest().0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What is delivered may be longer than what is accepted now: undos are (they name what they undo),
/// and what was accepted before the limit was lowered. The format bounds them all.
fn wire_limits(accepted: u32, limits: prism_net::Limits) -> prism_net::Limits {
    let format = u32::try_from(prism_db::MAX_UPDATE).unwrap_or(u32::MAX);
    let max_update = limits.window_bytes.max(accepted).min(format);
    prism_net::Limits {
        max_update,
        window_bytes: limits.window_bytes.max(max_update),
        ..limits
    }
}

fn endpoint(
    config: &Config,
    me: &Node,
    protection: Protection,
    boot: u64,
    limits: prism_net::Limits,
) -> Result<Endpoint, StartError> {
    let regions = config.regions.iter().map(|r| RegionInfo {
        name: r.name.clone(),
        direct: true,
    });
    Ok(Endpoint::new(&EndpointConfig {
        me: me.id,
        nodes: secrets::addresses(config, config, &me.name),
        regions: regions.collect(),
        retry: config.retry,
        limits: wire_limits(config.limits.max_update, limits),
        seed: entropy::number(),
        cluster: config.cluster.clone(),
        protection,
        boot,
        catalogue: catalogue(config),
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_what_is_accepted_is_delivered_all_the_same() {
        let format = prism_db::MAX_UPDATE as u32;
        for accepted in [1024, 64 << 10, format] {
            let limits = wire_limits(accepted, prism_net::Limits::default());
            assert_eq!(limits.max_update, format);
        }
        let narrow = prism_net::Limits {
            window_bytes: 8 << 10,
            ..prism_net::Limits::default()
        };
        assert_eq!(wire_limits(1024, narrow.clone()).max_update, 8 << 10);
        assert_eq!(wire_limits(64 << 10, narrow).window_bytes, 64 << 10);
    }
}
