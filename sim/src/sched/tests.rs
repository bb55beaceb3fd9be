use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prism_net::platform::{Condvar, Instant, Mutex, mpsc, sleep};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn go(world: &World, time: Duration) -> Ended {
    world.run(time, &mut |_| false)
}

/// A little of everything on two machines; the hash of what happened.
fn story(seed: u64) -> u64 {
    let world = World::new(seed, Trace::default());
    let inside = world.enter();
    let (sender, receiver) = mpsc::sync_channel::<u64>(2);
    let sum = Arc::new(Mutex::new(0));
    let [one, two] = ["one", "two"].map(|name| world.machine(name));
    for i in 1..=3 {
        let sender = sender.clone();
        world.spawn_on(one, "sender", move || {
            for n in 0..10 {
                sender.send(i * 100 + n).expect("somebody listens");
                sleep(Duration::from_millis(n));
            }
        });
    }
    drop(sender);
    let total = Arc::clone(&sum);
    world.spawn_on(two, "receiver", move || {
        while let Ok(n) = receiver.recv() {
            *total.lock().expect("not poisoned") += n;
        }
    });
    assert!(matches!(go(&world, 60 * SECOND), Ended::Stuck(_)));
    assert_eq!(*sum.lock().expect("not poisoned"), 6000 + 3 * 45);
    drop(inside);
    world.trace.hash()
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
}

#[test]
fn time_is_virtual_and_jumps() {
    let world = World::new(7, Trace::default());
    let _inside = world.enter();
    let machine = world.machine("one");
    let slept = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&slept);
    world.spawn_on(machine, "sleeper", move || {
        let start = Instant::now();
        sleep(3600 * SECOND);
        seen.store(start.elapsed().as_secs(), Ordering::Relaxed);
    });
    assert!(matches!(go(&world, 7200 * SECOND), Ended::Stuck(_)));
    assert_eq!(slept.load(Ordering::Relaxed), 3600);
}

#[test]
fn a_crash_unwinds_whoever_waits_wherever_it_waits() {
    struct Tells(Arc<AtomicU64>, Arc<Mutex<u64>>);
    impl Drop for Tells {
        fn drop(&mut self) {
            // Somebody who is taken down later has it.
            let _ = self.1.lock();
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let world = World::new(7, Trace::default());
    let _inside = world.enter();
    let machine = world.machine("one");
    let dropped = Arc::new(AtomicU64::new(0));
    let lock = Arc::new(Mutex::new(0));
    let never = Arc::new(Condvar::new());
    for _ in 0..3 {
        let tells = Tells(Arc::clone(&dropped), Arc::clone(&lock));
        let (lock, never) = (Arc::new(Mutex::new(())), Arc::clone(&never));
        world.spawn_on(machine, "waits", move || {
            let _tells = &tells;
            let guard = lock.lock().expect("not poisoned");
            drop(never.wait(guard));
        });
    }
    let held = Arc::clone(&lock);
    world.spawn_on(machine, "holds", move || {
        let _held = held.lock();
        sleep(100 * SECOND);
    });
    assert_eq!(go(&world, SECOND), Ended::TimeUp);
    world.kill(machine);
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
    assert!(matches!(go(&world, 200 * SECOND), Ended::Stuck(_)));
    assert!(panics().is_empty());
}

#[test]
fn a_paused_machine_does_nothing_while_time_passes() {
    let world = World::new(7, Trace::default());
    let _inside = world.enter();
    let machine = world.machine("one");
    let ticks = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&ticks);
    world.spawn_on(machine, "ticks", move || {
        loop {
            sleep(SECOND);
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    go(&world, 10 * SECOND + SECOND / 2);
    let before = ticks.load(Ordering::Relaxed);
    world.pause(machine, true);
    go(&world, 20 * SECOND + SECOND / 2);
    assert_eq!(ticks.load(Ordering::Relaxed), before);
    world.pause(machine, false);
    go(&world, 30 * SECOND + SECOND / 2);
    assert!((9..=11).contains(&(ticks.load(Ordering::Relaxed) - before)));
    world.kill_all();
}

#[test]
fn whoever_spins_is_found_and_a_panic_is_told() {
    let world = World::new(7, Trace::default());
    let _inside = world.enter();
    let machine = world.machine("one");
    world.spawn_on(machine, "panics", || panic!("on purpose"));
    world.spawn_on(machine, "spins", || {
        loop {
            prism_net::platform::pause();
        }
    });
    assert!(matches!(go(&world, SECOND * 10), Ended::Livelock(_)));
    assert!(panics().concat().contains("on purpose"));
    world.kill_all();
}
