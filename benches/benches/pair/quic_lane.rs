//! What a lane does, done with a QUIC stream: every update by itself, applied in order by another
//! thread, and acknowledged when it is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use prism_net::Batch;
use prism_proto::Seq;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::quic::{Cipher, configs, runtime};
use super::{PAYLOAD, PER_WRITE};

/// Read at once, at most.
const CHUNK: usize = 1 << 16;

/// Both ends, and what is acknowledged.
pub struct QuicLane {
    orders: Option<UnboundedSender<u64>>,
    acked: Arc<AtomicU64>,
    sent: u64,
    threads: Vec<JoinHandle<()>>,
}

/// Takes length-prefixed updates out of a stream of bytes.
#[derive(Default)]
struct Parser {
    /// The beginning of one of which the rest is still to come.
    begun: Vec<u8>,
}

impl Parser {
    fn take(&mut self, mut bytes: &[u8], batch: &mut Batch) {
        while !bytes.is_empty() {
            let begun = self.begun.len();
            let head = self.begun.first_chunk().or(bytes.first_chunk()).copied();
            let whole = match head {
                // (One byte of the length here, one there.)
                Some(_) if begun == 1 => 2,
                Some(length) => 2 + usize::from(u16::from_le_bytes(length)),
                None => 2,
            };
            let (part, rest) = bytes.split_at(bytes.len().min(whole - begun));
            bytes = rest;
            if begun == 0 && part.len() == whole && head.is_some() {
                batch.push(&part[2..]);
                continue;
            }
            self.begun.extend_from_slice(part);
            let length = self.begun.first_chunk().copied().map(u16::from_le_bytes);
            if length.is_some_and(|length| self.begun.len() == 2 + usize::from(length)) {
                batch.push(&self.begun[2..]);
                self.begun.clear();
            }
        }
    }
}

type Pool = Arc<Mutex<Vec<Batch>>>;

/// A database that only counts.
fn work(jobs: &Receiver<Batch>, answers: &UnboundedSender<u64>, pool: &Pool) {
    let mut applied = 0;
    while let Ok(batch) = jobs.recv() {
        assert_eq!(batch.first().0, applied + 1, "a gap");
        applied += batch.len() as u64;
        let _ = answers.send(applied);
        pool.lock().expect("nobody panics").push(batch);
    }
}

async fn acknowledge(mut stream: quinn::SendStream, mut answers: UnboundedReceiver<u64>) {
    while let Some(mut applied) = answers.recv().await {
        while let Ok(later) = answers.try_recv() {
            applied = later;
        }
        if stream.write_all(&applied.to_le_bytes()).await.is_err() {
            break;
        }
    }
}

async fn receive(endpoint: quinn::Endpoint) {
    let incoming = endpoint.accept().await.expect("open");
    let connection = incoming.await.expect("client");
    let (acks, mut stream) = connection.accept_bi().await.expect("a stream");
    let (jobs, todo) = sync_channel::<Batch>(64);
    let (answers_out, answers) = unbounded_channel();
    let pool = Pool::default();
    let theirs = pool.clone();
    let worker = std::thread::spawn(move || work(&todo, &answers_out, &theirs));
    let acks = tokio::spawn(acknowledge(acks, answers));
    let (mut parser, mut next) = (Parser::default(), 1);
    while let Ok(Some(chunk)) = stream.read_chunk(CHUNK, true).await {
        let used = pool.lock().expect("nobody panics").pop();
        let mut batch = used.unwrap_or_else(|| Batch::with_capacity(512, CHUNK));
        batch.reset(Seq(next));
        parser.take(&chunk.bytes, &mut batch);
        next += batch.len() as u64;
        if batch.is_empty() {
            pool.lock().expect("nobody panics").push(batch);
        } else {
            let _ = jobs.send(batch);
        }
    }
    drop(jobs);
    let _ = worker.join();
    let _ = acks.await;
}

async fn send(
    endpoint: quinn::Endpoint,
    client: quinn::ClientConfig,
    to: SocketAddr,
    mut orders: UnboundedReceiver<u64>,
    acked: Arc<AtomicU64>,
) {
    let connecting = endpoint.connect_with(client, to, "localhost");
    let connection = connecting.expect("a name").await.expect("the server");
    let (mut stream, mut acks) = connection.open_bi().await.expect("a stream");
    tokio::spawn(async move {
        let mut applied = [0; 8];
        while acks.read_exact(&mut applied).await.is_ok() {
            acked.store(u64::from_le_bytes(applied), Ordering::Release);
        }
    });
    let mut write = Vec::new();
    while let Some(count) = orders.recv().await {
        for _ in 0..count / PER_WRITE {
            write.clear();
            for _ in 0..PER_WRITE {
                write.extend_from_slice(&(PAYLOAD.len() as u16).to_le_bytes());
                write.extend_from_slice(&PAYLOAD);
            }
            stream.write_all(&write).await.expect("the server reads");
        }
    }
    let _ = stream.finish();
    let _ = stream.stopped().await;
}

impl QuicLane {
    pub fn start(cipher: Cipher) -> Self {
        let (server, client) = configs(cipher);
        let (address_out, address_in) = channel();
        let receiver = std::thread::spawn(move || {
            runtime().block_on(async move {
                let at = SocketAddr::from(([127, 0, 0, 1], 0));
                let endpoint = quinn::Endpoint::server(server, at).expect("loopback");
                let _ = address_out.send(endpoint.local_addr().expect("bound"));
                receive(endpoint).await;
            });
        });
        let to = address_in.recv().expect("the server is up");
        let (orders, todo) = unbounded_channel();
        let acked = Arc::new(AtomicU64::new(0));
        let theirs = acked.clone();
        let sender = std::thread::spawn(move || {
            runtime().block_on(async move {
                let at = SocketAddr::from(([127, 0, 0, 1], 0));
                let endpoint = quinn::Endpoint::client(at).expect("loopback");
                send(endpoint, client, to, todo, theirs).await;
            });
        });
        Self {
            orders: Some(orders),
            acked,
            sent: 0,
            threads: vec![sender, receiver],
        }
    }

    /// Sends so many updates and waits until all of them are acknowledged.
    pub fn send(&mut self, count: u64) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(count);
        }
        self.sent += count;
        while self.acked.load(Ordering::Acquire) < self.sent {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for QuicLane {
    fn drop(&mut self) {
        self.orders = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
