//! The model disk: what a power cut, a failed sync and a full disk leave.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prism_db::journal::{AnyDisk, Disk, DiskFile};
use prism_sim::disk::{Failure, MemDisk, Operation, disk};

const DIR: &str = "/data";

fn path(name: &str) -> std::path::PathBuf {
    Path::new(DIR).join(name)
}

/// A file of some sectors, of which the first `synced` are durable.
fn written(disk: &MemDisk, name: &str, synced: usize, then: usize) {
    let file = disk.create(&path(name)).expect("a file");
    file.write_all_at(&vec![1; synced * 512], 0)
        .expect("written");
    file.sync().expect("synced");
    disk.sync_dir(Path::new(DIR)).expect("the name is durable");
    for sector in 0..then {
        let at = (synced + sector) * 512;
        file.write_all_at(&[2; 512], at as u64).expect("written");
    }
}

fn content(disk: &MemDisk, name: &str) -> Vec<u8> {
    disk.files().remove(&path(name)).unwrap_or_default()
}

#[test]
fn what_is_synced_outlives_every_power_cut_and_the_rest_may_not() {
    let (mut lost, mut torn, mut kept, mut holes) = (0, 0, 0, 0);
    for seed in 0..300 {
        let disk = disk(seed);
        written(&disk, "a", 2, 4);
        disk.power_off();
        disk.power_cycle();
        let bytes = content(&disk, "a");
        assert_eq!(&bytes[..1024], &[1; 1024], "seed {seed}");
        match bytes.len() {
            1024 => lost += 1,
            n if n == 6 * 512 && bytes[1024..].iter().all(|b| *b == 2) => kept += 1,
            _ => torn += 1,
        }
        // A later one is there although an earlier one is not.
        let sectors: Vec<_> = bytes[1024..].chunks(512).map(|s| s == [2; 512]).collect();
        holes += u32::from(sectors.windows(2).any(|pair| pair == [false, true]));
    }
    assert!(
        lost > 0 && torn > 0 && kept > 0 && holes > 0,
        "{lost} {torn} {kept} {holes}"
    );
}

#[test]
fn a_name_is_durable_only_after_its_directory_was_synced() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..100 {
        let disk = disk(seed);
        written(&disk, "a", 1, 0);
        let file = disk.create(&path("b")).expect("a file");
        file.write_all_at(b"b", 0).expect("written");
        file.sync().expect("synced");
        disk.power_cycle();
        assert!(disk.files().contains_key(&path("a")));
        match disk.files().contains_key(&path("b")) {
            true => kept += 1,
            false => lost += 1,
        }
    }
    assert!(lost > 0 && kept > 0);
}

#[test]
fn after_a_failed_sync_the_pages_look_clean_and_may_be_lost() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = disk(seed);
        written(&disk, "a", 1, 0);
        let file = disk.open(&path("a")).expect("the file");
        file.write_all_at(&[2; 512], 512).expect("written");
        let once = AtomicUsize::new(0);
        disk.set_trouble(Arc::new(move |operation| match operation {
            Operation::Sync if once.fetch_add(1, Ordering::Relaxed) == 0 => Failure::Io,
            _ => Failure::None,
        }));
        assert_eq!(file.sync().expect_err("EIO").raw_os_error(), Some(5));
        // The kernel has forgotten that they were dirty: the second one lies.
        file.sync().expect("nothing to do");
        assert_eq!(content(&disk, "a")[512..], [2; 512], "still readable");
        disk.power_cycle();
        lost += usize::from(content(&disk, "a").get(512..1024) != Some(&[2; 512]));
    }
    assert!(lost > 0);
}

#[test]
fn operations_fail_as_they_are_told_and_a_short_write_is_one() {
    let disk = disk(1);
    let file = disk.create(&path("a")).expect("a file");
    disk.set_trouble(Arc::new(|operation| match operation {
        Operation::Write => Failure::NoSpace,
        Operation::Name | Operation::Read | Operation::SyncDir => Failure::Io,
        Operation::Sync => Failure::None,
    }));
    let full = file.write_at(b"x", 0).expect_err("no space");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(disk.create(&path("b")).is_err() && disk.rename(&path("a"), &path("b")).is_err());
    assert!(disk.sync_dir(Path::new(DIR)).is_err());
    disk.set_trouble(Arc::new(|_| Failure::Short));
    let taken: Vec<_> = (0..50)
        .map(|_| file.write_at(&[7; 2048], 0).expect("some of it"))
        .collect();
    assert!(taken.iter().any(|n| *n < 2048) && taken.iter().all(|n| *n > 0));
}

#[test]
fn nothing_that_was_open_before_a_power_cut_works_after_it() {
    let disk = disk(1);
    written(&disk, "a", 1, 0);
    let lock = disk
        .lock(&path("lock"))
        .expect("a lock")
        .expect("it is free");
    let file = disk.open(&path("a")).expect("the file");
    disk.power_off();
    assert!(disk.open(&path("a")).is_err() && file.len().is_err());
    disk.power_cycle();
    // A thread of the time before that is still being taken down.
    assert!(file.write_at(b"zombie", 0).is_err() && file.sync().is_err());
    let again = disk.lock(&path("lock")).expect("a lock");
    drop(lock);
    assert!(again.is_some() && disk.lock(&path("lock")).expect("asked").is_none());
    assert_eq!(content(&disk, "a"), [1; 512]);
}

#[test]
fn a_clone_goes_its_own_way_and_a_wiped_disk_is_empty() {
    let disk = disk(1);
    written(&disk, "a", 1, 0);
    let clone = disk.copy(2);
    let file = clone.open(&path("a")).expect("the file");
    file.write_all_at(b"other", 0).expect("written");
    assert_eq!(content(&disk, "a"), [1; 512]);
    assert_eq!(&content(&clone, "a")[..5], b"other");
    disk.wipe();
    assert!(disk.files().is_empty() && !clone.files().is_empty());
}

#[test]
fn it_is_a_disk_of_any_kind_to_a_node() {
    let disk = disk(1);
    let any = AnyDisk::new(disk.clone());
    any.replace(&path("boot"), b"7\n").expect("durable");
    any.replace(&path("boot"), b"8\n").expect("durable");
    disk.power_cycle();
    let read = any.read_whole(&path("boot"), 32).expect("read");
    assert_eq!(read.as_deref(), Some(&b"8\n"[..]));
    assert_eq!(
        disk.copy(3).random(),
        disk.copy(3).random(),
        "the seed decides"
    );
}
