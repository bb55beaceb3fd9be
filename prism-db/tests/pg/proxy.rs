//! A TCP proxy that cuts a connection at one chosen message.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

/// Where to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    Nowhere = 0,
    /// COMMIT does not reach the server.
    BeforeCommit = 1,
    /// COMMIT reaches the server, its answer does not come back.
    AfterCommit = 2,
    /// A bound execution does not reach the server.
    BeforeExecute = 3,
    /// A bound execution reaches the server, its answer does not come back.
    AfterExecute = 4,
}

#[derive(Debug, Default)]
struct Shared {
    cut: AtomicU8,
    cuts: AtomicUsize,
    stop: AtomicBool,
}

#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if accepting.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || forward(client, server, &shared));
            }
        });
        Self { port, shared }
    }

    /// Once, at the next such message.
    pub fn cut(&self, at: Cut) {
        self.shared.cut.store(at as u8, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn forward(mut client: TcpStream, server: u16, shared: &Arc<Shared>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)) else {
        return;
    };
    let swallow = Arc::new(AtomicBool::new(false));
    let back = {
        let (mut from, mut to) = (
            server.try_clone().expect("clones"),
            client.try_clone().expect("clones"),
        );
        let (swallow, shared) = (Arc::clone(&swallow), Arc::clone(shared));
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if swallow.load(Ordering::SeqCst) {
                    // The answer is here, so the server has done its part.
                    shared.cuts.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
        })
    };
    let mut buffer = [0; 65536];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        let data = &buffer[..n];
        let commit = data.first() == Some(&b'Q') && data.windows(6).any(|w| w == b"COMMIT");
        let execute = data.first() == Some(&b'B');
        let wanted = shared.cut.load(Ordering::SeqCst);
        let here = |cut: Cut| wanted == cut as u8;
        if (commit && here(Cut::BeforeCommit)) || (execute && here(Cut::BeforeExecute)) {
            shared.cut.store(0, Ordering::SeqCst);
            shared.cuts.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if (commit && here(Cut::AfterCommit)) || (execute && here(Cut::AfterExecute)) {
            shared.cut.store(0, Ordering::SeqCst);
            swallow.store(true, Ordering::SeqCst);
        }
        if server.write_all(data).is_err() {
            break;
        }
    }
    // What the server still says is waited for, but not for ever.
    let _ = server.set_read_timeout(Some(Duration::from_secs(10)));
    if !swallow.load(Ordering::SeqCst) {
        let _ = (
            client.shutdown(Shutdown::Both),
            server.shutdown(Shutdown::Both),
        );
    }
    let _ = back.join();
}
