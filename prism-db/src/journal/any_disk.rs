//! Whichever file system: chosen when a node starts, not when it is compiled.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, DiskFile, RealDisk};

/// A [`Disk`] of a kind that is not known before it is used.
#[derive(Clone)]
pub struct AnyDisk(Arc<dyn Object>);

impl AnyDisk {
    /// This one.
    pub fn new<D>(disk: D) -> Self
    where
        D: Disk + Sync + 'static,
        D::File: 'static,
        D::Lock: Sync + 'static,
    {
        Self(Arc::new(disk))
    }
}

impl Default for AnyDisk {
    /// The file system of this machine.
    fn default() -> Self {
        Self::new(RealDisk)
    }
}

impl std::fmt::Debug for AnyDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnyDisk").finish_non_exhaustive()
    }
}

/// [`Disk`] with types of one size.
trait Object: Send + Sync {
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;
    fn random(&self) -> u64;
    fn now_ms(&self) -> u64;
}

impl<D> Object for D
where
    D: Disk + Sync,
    D::File: 'static,
    D::Lock: Sync + 'static,
{
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        Disk::create_dir(self, dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk::list(self, dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Disk::create(self, path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Disk::open(self, path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk::rename(self, from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk::link(self, from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk::remove(self, path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Disk::sync_dir(self, dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let lock = Disk::lock(self, path)?;
        Ok(lock.map(|lock| Box::new(lock) as Box<dyn Send + Sync>))
    }

    fn random(&self) -> u64 {
        Disk::random(self)
    }

    fn now_ms(&self) -> u64 {
        Disk::now_ms(self)
    }
}

impl DiskFile for Box<dyn DiskFile> {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        (**self).write_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}

impl Disk for AnyDisk {
    type File = Box<dyn DiskFile>;
    type Lock = Box<dyn Send + Sync>;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Self::File> {
        self.0.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Self::File> {
        self.0.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Self::Lock>> {
        self.0.lock(path)
    }

    fn random(&self) -> u64 {
        self.0.random()
    }

    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }
}
