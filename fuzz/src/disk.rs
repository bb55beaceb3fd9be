//! A file system in memory for the journal. What is written is durable at once: crashes are what
//! the fuzzer does to the files.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use prism_db::journal::{Disk, DiskFile};

/// Bytes of one file; two names may share them.
pub type Bytes = Arc<Mutex<Vec<u8>>>;

#[derive(Clone, Default)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<PathBuf, Bytes>>>,
    drawn: Arc<Mutex<Cell<u64>>>,
}

impl Memory {
    pub fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Bytes>> {
        self.files.lock().expect("one thread")
    }

    pub fn put(&self, path: PathBuf, bytes: &[u8]) {
        self.files()
            .insert(path, Arc::new(Mutex::new(bytes.to_vec())));
    }
}

pub struct File(Bytes);

impl File {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("one thread")
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.bytes();
        let end = offset as usize + new.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(new);
        Ok(new.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for Memory {
    type File = File;
    type Lock = ();

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        Ok(self
            .files()
            .keys()
            .filter(inside)
            .filter_map(name)
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        if self.files().contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.put(path.to_owned(), &[]);
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let bytes = self.files().get(path).cloned();
        bytes.map(File).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let bytes = self.files().remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files().insert(to.to_owned(), bytes);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.files().contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let bytes = self.open(from)?.0;
        self.files().insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.files().remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<()>> {
        Ok(Some(()))
    }

    fn random(&self) -> u64 {
        let drawn = self.drawn.lock().expect("one thread");
        drawn.set(drawn.get() + 1);
        // The same in every run, and unlike anything that a fuzzer comes upon.
        drawn.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn now_ms(&self) -> u64 {
        1_800_000_000_000
    }
}
