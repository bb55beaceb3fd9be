//! A file system in memory that is as unkind as real ones are allowed to be: what is not fsynced
//! may be lost, torn by sectors or written out of order; a failed fsync drops dirty pages and leaves
//! them readable; writes are short; the disk fills up; the machine dies at the N-th operation.
//!
//! For tests, and for the simulator: no part of the product.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

mod trouble;

pub use trouble::{Failure, Operation, Trouble};

const SECTOR: usize = 512;

/// A number that looks random, of another one.
#[must_use]
pub fn scramble(x: u64) -> u64 {
    // splitmix64's finaliser.
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Which operation fails, counted from 1 from the moment the plan is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// The machine dies during this one.
    pub crash_at: Option<u64>,
    /// This sync fails.
    pub eio_at_sync: Option<u64>,
    /// This write and the `.1 - 1` after it find no space.
    pub no_space: Option<(u64, u64)>,
    /// Writes may take less than they are given.
    pub short_writes: bool,
    /// Bytes that all files together may have.
    pub space: Option<u64>,
    /// Overwriting needs as much space as appending.
    pub copy_on_write: bool,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone)]
enum Naming {
    Set(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Default)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<Naming>,
    /// Who has locked what.
    locks: BTreeMap<PathBuf, u64>,
    plan: Plan,
    crashed: bool,
    /// Counts crashes: what was opened before is of no use after one.
    boot: u64,
    trouble: Option<Trouble>,
    clock: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
    operations: u64,
    syncs: u64,
    writes: u64,
    random: u64,
    now: u64,
}

/// The disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<World>>);

/// An open file of it.
pub struct MemFile {
    world: Arc<Mutex<World>>,
    inode: usize,
    boot: u64,
}

/// Its lock.
pub struct MemLock {
    world: Arc<Mutex<World>>,
    id: u64,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut world = lock(&self.world);
        world.locks.retain(|_, id| *id != self.id);
    }
}

fn lock(world: &Arc<Mutex<World>>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let world = lock(&self.0);
        let names: Vec<_> = world.names.keys().collect();
        f.debug_struct("MemDisk")
            .field("names", &names)
            .finish_non_exhaustive()
    }
}

/// How the operation is to end; whoever decides may wait meanwhile.
fn ask(world: &Arc<Mutex<World>>, operation: Operation) -> io::Result<Failure> {
    let trouble = lock(world).trouble.clone();
    match trouble.map_or(Failure::None, |trouble| trouble(operation)) {
        Failure::NoSpace => Err(io::ErrorKind::StorageFull.into()),
        Failure::Io if operation != Operation::Sync => Err(eio()),
        other => Ok(other),
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn dead() -> io::Error {
    io::Error::other("the machine is down")
}

fn write_into(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        // Not `resize`: without optimisation it goes byte by byte.
        bytes.extend_from_slice(&vec![0; end - bytes.len()]);
    }
    bytes[at..end].copy_from_slice(data);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(at, data) => write_into(bytes, *at, data),
            Change::Length(len) => bytes.resize(*len, 0),
        }
    }

    /// As it may look after the power failed: whole, not at all, or some of its sectors.
    fn apply_perhaps(&self, bytes: &mut Vec<u8>, random: &mut impl FnMut() -> u64) {
        match (self, random() % 4) {
            (_, 0) => {}
            (Change::Write(at, data), 1) => {
                let mut from = 0;
                while from < data.len() {
                    let to = ((at + from) / SECTOR * SECTOR + SECTOR - at).min(data.len());
                    if random().is_multiple_of(2) {
                        write_into(bytes, at + from, &data[from..to]);
                    }
                    from = to;
                }
                // The length may be there although the data are not.
                if random().is_multiple_of(2) && bytes.len() < at + data.len() {
                    let stale = random().to_le_bytes()[0];
                    bytes.resize(at + data.len(), stale);
                }
            }
            _ => self.apply(bytes),
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Naming::Set(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Naming::Move(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Naming::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl World {
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(1);
        scramble(self.random)
    }

    /// Counts an operation that changes something; `Ok(true)`: the machine dies during it.
    fn step(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(dead());
        }
        self.operations += 1;
        self.crashed = self.plan.crash_at == Some(self.operations);
        Ok(self.crashed)
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(dead()) } else { Ok(()) }
    }

    /// Whether a file was opened since the machine started.
    fn opened(&self, boot: u64) -> io::Result<()> {
        if self.boot == boot {
            Ok(())
        } else {
            Err(dead())
        }
    }

    /// Nothing that is open goes on.
    fn stop(&mut self) {
        self.crashed = true;
        self.boot += 1;
    }

    fn sync_fails(&mut self) -> bool {
        self.syncs += 1;
        self.plan.eio_at_sync == Some(self.syncs)
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.alive()?;
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&mut self, change: Naming) -> io::Result<()> {
        let dies = self.step()?;
        change.apply(&mut self.names);
        self.pending_names.push(change);
        if dies { Err(dead()) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        let mut inodes: Vec<usize> = self.names.values().copied().collect();
        inodes.sort_unstable();
        inodes.dedup();
        inodes
            .iter()
            .map(|i| self.inodes[*i].cache.len() as u64)
            .sum()
    }
}

impl MemDisk {
    /// An empty one.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        lock(&disk.0).random = seed.wrapping_mul(1_000_003);
        disk
    }

    /// Another machine's, with the same on it.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let mut world = lock(&self.0).clone();
        world.random = seed.wrapping_mul(1_000_003);
        world.locks.clear();
        world.boot += 1;
        Self(Arc::new(Mutex::new(world)))
    }

    /// Everything is gone, with whatever was open.
    pub fn wipe(&self) {
        let mut world = lock(&self.0);
        world.boot += 1;
        world.inodes.clear();
        world.names.clear();
        world.durable_names.clear();
        world.pending_names.clear();
        world.locks.clear();
    }

    /// Who decides how operations end.
    pub fn set_trouble(&self, trouble: Trouble) {
        lock(&self.0).trouble = Some(trouble);
    }

    /// Milliseconds since 1970.
    pub fn set_clock(&self, clock: Arc<dyn Fn() -> u64 + Send + Sync>) {
        lock(&self.0).clock = Some(clock);
    }

    /// The machine is without power until [`MemDisk::power_cycle`].
    pub fn power_off(&self) {
        lock(&self.0).stop();
    }

    /// A disk with these files, all durable.
    #[must_use]
    pub fn with_files(files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let disk = Self::new(7);
        let mut world = lock(&disk.0);
        for (index, (path, bytes)) in files.iter().enumerate() {
            world.inodes.push(Inode {
                cache: bytes.clone(),
                disk: bytes.clone(),
                pending: Vec::new(),
            });
            world.names.insert(path.clone(), index);
        }
        world.durable_names = world.names.clone();
        drop(world);
        disk
    }

    /// All files as a program sees them.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let world = lock(&self.0);
        let bytes =
            |(path, inode): (&PathBuf, &usize)| (path.clone(), world.inodes[*inode].cache.clone());
        world.names.iter().map(bytes).collect()
    }

    /// What fails from now on.
    pub fn plan(&self, plan: Plan) {
        let mut world = lock(&self.0);
        world.plan = plan;
        world.operations = 0;
        world.syncs = 0;
        world.writes = 0;
    }

    /// Whether the planned crash has come.
    #[must_use]
    pub fn crashed(&self) -> bool {
        lock(&self.0).crashed
    }

    /// The clock goes on.
    pub fn advance(&self, ms: u64) {
        lock(&self.0).now += ms;
    }

    /// Whether the planned EIO or ENOSPC has come.
    #[must_use]
    pub fn fired(&self) -> bool {
        let world = lock(&self.0);
        world.plan.eio_at_sync.is_some_and(|n| world.syncs >= n)
            || world.plan.no_space.is_some_and(|(n, _)| world.writes >= n)
    }

    /// Power off and on: what was not fsynced is at the mercy of the seed.
    pub fn power_cycle(&self) {
        let mut guard = lock(&self.0);
        let world = &mut *guard;
        world.stop();
        let mut state = world.random;
        let mut random = || {
            state = state.wrapping_add(1);
            scramble(state)
        };
        for inode in &mut world.inodes {
            for change in std::mem::take(&mut inode.pending) {
                change.apply_perhaps(&mut inode.disk, &mut random);
            }
            inode.cache = inode.disk.clone();
        }
        for change in std::mem::take(&mut world.pending_names) {
            if !random().is_multiple_of(3) {
                change.apply(&mut world.durable_names);
            }
        }
        world.names = world.durable_names.clone();
        world.random = state;
        world.crashed = false;
        world.locks.clear();
        world.plan = Plan::default();
    }
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        let world = lock(&self.world);
        world.alive().and(world.opened(self.boot))?;
        Ok(world.inodes[self.inode].cache.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        ask(&self.world, Operation::Read)?;
        let world = lock(&self.world);
        world.alive().and(world.opened(self.boot))?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = world.inodes[self.inode]
            .cache
            .get(offset..)
            .unwrap_or_default();
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let short = ask(&self.world, Operation::Write)? == Failure::Short;
        let mut guard = lock(&self.world);
        let world = &mut *guard;
        world.opened(self.boot)?;
        let dies = world.step()?;
        world.writes += 1;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        if let Some((from, count)) = world.plan.no_space
            && (from..from + count).contains(&world.writes)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut n = bytes.len();
        if let Some(space) = world.plan.space {
            let room = usize::try_from(space.saturating_sub(world.used())).unwrap_or(usize::MAX);
            let len = world.inodes[self.inode].cache.len();
            let free = if world.plan.copy_on_write {
                0
            } else {
                len.saturating_sub(at)
            };
            n = n.min(free + room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let r = world.random();
        if dies || short || (world.plan.short_writes && r.is_multiple_of(3)) {
            // Within a sector a write is whole or not there: kernels copy it under a lock.
            let cut = (at + usize::try_from(r >> 8).unwrap_or(0) % (n + 1)) / SECTOR * SECTOR;
            let cut = cut.saturating_sub(at);
            n = if cut == 0 && !dies { n } else { cut };
        }
        let change = Change::Write(at, bytes[..n].to_vec());
        let inode = &mut world.inodes[self.inode];
        change.apply(&mut inode.cache);
        inode.pending.push(change);
        if dies { Err(dead()) } else { Ok(n) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        ask(&self.world, Operation::Write)?;
        let mut world = lock(&self.world);
        world.opened(self.boot)?;
        let dies = world.step()?;
        let change = Change::Length(usize::try_from(len).map_err(io::Error::other)?);
        let inode = &mut world.inodes[self.inode];
        change.apply(&mut inode.cache);
        inode.pending.push(change);
        if dies { Err(dead()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let told = ask(&self.world, Operation::Sync)? == Failure::Io;
        let mut guard = lock(&self.world);
        let world = &mut *guard;
        world.opened(self.boot)?;
        if world.step()? {
            return Err(dead());
        }
        let fails = world.sync_fails() || told;
        let mut state = world.random;
        let mut random = || {
            state = state.wrapping_add(1);
            scramble(state)
        };
        let inode = &mut world.inodes[self.inode];
        for change in std::mem::take(&mut inode.pending) {
            if fails {
                change.apply_perhaps(&mut inode.disk, &mut random);
            } else {
                change.apply(&mut inode.disk);
            }
        }
        world.random = state;
        if fails {
            // The pages are clean now, still readable, and perhaps not on disk.
            return Err(eio());
        }
        Ok(())
    }
}

impl MemDisk {
    fn file(&self, inode: usize) -> MemFile {
        let boot = lock(&self.0).boot;
        MemFile {
            world: Arc::clone(&self.0),
            inode,
            boot,
        }
    }
}

impl Disk for MemDisk {
    type File = MemFile;
    type Lock = MemLock;

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        lock(&self.0).alive()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = lock(&self.0);
        world.alive()?;
        let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        Ok(world
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(name)
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<MemFile> {
        ask(&self.0, Operation::Name)?;
        let mut world = lock(&self.0);
        if world.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = world.inodes.len();
        world.inodes.push(Inode::default());
        world.rename(Naming::Set(path.to_path_buf(), inode))?;
        drop(world);
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<MemFile> {
        let inode = lock(&self.0).find(path)?;
        Ok(self.file(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        ask(&self.0, Operation::Name)?;
        let mut world = lock(&self.0);
        let inode = world.find(from)?;
        world.rename(Naming::Move(from.to_path_buf(), to.to_path_buf(), inode))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        ask(&self.0, Operation::Name)?;
        let mut world = lock(&self.0);
        let inode = world.find(from)?;
        world.rename(Naming::Set(to.to_path_buf(), inode))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        ask(&self.0, Operation::Name)?;
        let mut world = lock(&self.0);
        world.find(path)?;
        world.rename(Naming::Remove(path.to_path_buf()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        ask(&self.0, Operation::SyncDir)?;
        let mut guard = lock(&self.0);
        let world = &mut *guard;
        if world.step()? {
            return Err(dead());
        }
        if world.sync_fails() {
            return Err(eio());
        }
        let here = |path: &Path| path.parent() == Some(dir);
        world.pending_names.retain(|change| {
            let path = match change {
                Naming::Set(path, _) | Naming::Remove(path) | Naming::Move(_, path, _) => path,
            };
            if here(path) {
                change.apply(&mut world.durable_names);
            }
            !here(path)
        });
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<MemLock>> {
        let mut world = lock(&self.0);
        world.alive()?;
        if world.locks.contains_key(path) {
            return Ok(None);
        }
        let id = world.random();
        world.locks.insert(path.to_owned(), id);
        Ok(Some(MemLock {
            world: Arc::clone(&self.0),
            id,
        }))
    }

    fn random(&self) -> u64 {
        lock(&self.0).random()
    }

    fn now_ms(&self) -> u64 {
        let clock = lock(&self.0).clock.clone();
        clock.map_or_else(|| lock(&self.0).now, |clock| clock())
    }
}
