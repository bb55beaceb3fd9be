//! Who is connected. When there is no room the connection that has asked for nothing for the
//! longest goes: somebody who opens connections and says nothing, or says it byte by byte, cannot
//! keep anybody out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// Most connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// At once; beyond, and with a request of an entitled client in each of them, the next ones
    /// wait in the kernel's backlog.
    pub total: usize,
    /// From one address (of IPv6: from one /64, which is one customer); beyond, the same client's
    /// idle ones are closed, or the new one. So a single client leaves room for others.
    pub per_address: usize,
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            total: 1024,
            per_address: 768,
        }
    }
}

struct Entry {
    source: IpAddr,
    /// Idle since then; `None` while a request is carried out.
    idle: Option<Instant>,
    cut: Arc<Notify>,
}

#[derive(Default)]
struct Table {
    open: HashMap<u64, Entry>,
    sources: HashMap<IpAddr, usize>,
    next: u64,
}

impl Table {
    fn remove(&mut self, id: u64) {
        let Some(entry) = self.open.remove(&id) else {
            return;
        };
        if let Some(count) = self.sources.get_mut(&entry.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&entry.source);
            }
        }
    }

    /// Closes the one that has been idle for the longest. False if none is.
    fn cut(&mut self, source: Option<IpAddr>) -> bool {
        let candidates = self.open.iter().filter_map(|(id, entry)| {
            let theirs = source.is_none_or(|source| entry.source == source);
            Some((entry.idle.filter(|_| theirs)?, *id))
        });
        let Some((_, id)) = candidates.min() else {
            return false;
        };
        if let Some(entry) = self.open.get(&id) {
            entry.cut.notify_one();
        }
        self.remove(id);
        true
    }
}

/// All of them.
pub(super) struct Connections {
    crowd: Crowd,
    table: Mutex<Table>,
    freed: Notify,
}

impl Connections {
    pub(super) fn new(crowd: Crowd) -> Arc<Self> {
        Arc::new(Self {
            crowd,
            table: Mutex::default(),
            freed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a connection can be taken.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            {
                let table = self.lock();
                let full = table.open.len() >= self.crowd.total;
                if !full || table.open.values().any(|entry| entry.idle.is_some()) {
                    return;
                }
            }
            freed.await;
        }
    }

    /// A place for a new connection; `None` if its address has enough of them.
    pub(super) fn admit(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = customer(source);
        let mut table = self.lock();
        let theirs = table.sources.get(&source).copied().unwrap_or(0);
        if theirs >= self.crowd.per_address && !table.cut(Some(source)) {
            return None;
        }
        if table.open.len() >= self.crowd.total && !table.cut(None) {
            return None;
        }
        let id = table.next;
        table.next += 1;
        let cut = Arc::new(Notify::new());
        table.open.insert(
            id,
            Entry {
                source,
                idle: Some(Instant::now()),
                cut: Arc::clone(&cut),
            },
        );
        *table.sources.entry(source).or_default() += 1;
        Some(Place {
            id,
            cut,
            connections: Arc::clone(self),
        })
    }

    fn set_idle(&self, id: u64, idle: Option<Instant>) {
        if let Some(entry) = self.lock().open.get_mut(&id) {
            entry.idle = idle;
        }
        if idle.is_some() {
            self.freed.notify_one();
        }
    }
}

/// The place of one connection, given back when dropped.
pub(super) struct Place {
    id: u64,
    cut: Arc<Notify>,
    connections: Arc<Connections>,
}

impl Place {
    /// Until the connection has to go.
    pub(super) async fn cut(&self) {
        self.cut.notified().await;
    }

    /// For the requests that come over it.
    pub(super) fn activity(&self) -> Activity {
        Activity {
            id: self.id,
            connections: Arc::clone(&self.connections),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().remove(self.id);
        self.connections.freed.notify_one();
    }
}

/// Lets a request say that it is carried out.
#[derive(Clone)]
pub(super) struct Activity {
    id: u64,
    connections: Arc<Connections>,
}

impl Activity {
    /// From here on the connection is not closed for others, until the guard is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.connections.set_idle(self.id, None);
        Busy(self.clone())
    }
}

/// See [`Activity::begin`].
pub(super) struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        let Activity { id, connections } = &self.0;
        connections.set_idle(*id, Some(Instant::now()));
    }
}

/// Whoever has one address of a /64 has all of them.
fn customer(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> IpAddr {
        address.parse().expect("an address")
    }

    #[test]
    fn the_longest_idle_goes_and_whoever_works_stays() {
        let all = Connections::new(Crowd {
            total: 4,
            per_address: 3,
        });
        let (one, other) = (at("192.0.2.1"), at("192.0.2.2"));
        let places: Vec<_> = (0..3).map(|_| all.admit(one).expect("room")).collect();
        let busy: Vec<_> = places.iter().map(|p| p.activity().begin()).collect();
        assert!(all.admit(one).is_none(), "three that work, and no fourth");
        let fourth = all.admit(other).expect("room for others");
        let fifth = all.admit(other).expect("its own idle one made room");
        drop(busy);
        drop(fourth);
        assert_eq!(all.lock().open.len(), 4);
        let sixth = all.admit(one).expect("its own idle one made room");
        assert_eq!(all.lock().sources[&customer(one)], 3);
        drop((places, fifth, sixth));
        assert!(all.lock().open.is_empty() && all.lock().sources.is_empty());
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        assert_eq!(customer(at("2001:db8::1")), customer(at("2001:db8::f:2")));
        assert_ne!(customer(at("2001:db8::1")), customer(at("2001:db8:0:1::1")));
        assert_eq!(customer(at("::ffff:192.0.2.1")), at("192.0.2.1"));
    }
}
