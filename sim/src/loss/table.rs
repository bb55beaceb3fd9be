//! The table as text.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::cluster::Path;
use super::measure::{Figures, measure};

/// Updates in flight.
pub const WINDOWS: [u32; 5] = [16, 64, 256, 1024, 4096];
/// Percent.
pub const LOSSES: [u64; 6] = [0, 1, 5, 10, 20, 30];
/// Milliseconds.
pub const RTTS: [u64; 4] = [1, 20, 100, 200];

const HEADER: &str = "\
What losses cost, in a simulated network and in virtual time: it changes only when the code does. Written
by `PRISM_BLESS=1 cargo test --release -p prism-sim --test loss_table`, compared by the same without
PRISM_BLESS; docs/testing.md says how to read it.

NA1 sends updates of 100 bytes to EU1 (then EU2, then direct SQL) over links of 100 Mbit/s, on which every
datagram, in both directions, is lost with the same probability; a transaction takes 1 ms.

  window  updates in flight, at most                        loss %  of all datagrams
  rtt     there and back, in ms
  upd/s   updates applied and acknowledged per second while there is always more to send
  link %  what their bytes are of what the link carries
  resent  retransmissions per update during that (loss / (1 - loss) would be perfect)
  falls   changes to a worse rung during that, with nobody dead: six unanswered datagrams in a row
  p50     ms from the commit in NA until NA knows that EU has applied it, at 20 updates per second:
  p99     half, and 99 of 100, take no longer
  ->EU2   ms from the death of EU1 until an update is applied through EU2 (5 retransmissions first)
  ->SQL   ms from the death of EU2 as well until one is applied by direct SQL; medians of five
";

const NAMES: &str = " rtt  loss %  window |   upd/s  link %  resent  falls |      p50      p99 |    ->EU2    ->SQL\n";

/// Measures everything: header and blocks.
#[must_use]
pub fn table() -> String {
    let blocks = RTTS.map(|rtt| format!("\n{}", block(rtt)));
    format!("{HEADER}{}", blocks.concat())
}

/// The rows of one round-trip time.
#[must_use]
pub fn block(rtt: u64) -> String {
    let path = |loss| WINDOWS.map(|window| Path { window, loss, rtt });
    let paths: Vec<Path> = LOSSES.into_iter().flat_map(path).collect();
    let mut text = NAMES.to_owned();
    for (i, (path, figures)) in paths.iter().zip(all(&paths)).enumerate() {
        if i > 0 && i % WINDOWS.len() == 0 {
            text += "\n";
        }
        text += &row(path, &figures);
    }
    text
}

fn row(path: &Path, figures: &Figures) -> String {
    let tenths = |n: u64| format!("{}.{}", n / 10, n % 10);
    let thousandths = |n: u64| format!("{}.{:03}", n / 1000, n % 1000);
    let ms = |us: u64| tenths(us / 100);
    format!(
        "{:4}  {:6}  {:6} | {:7}  {:>6}  {:>6}  {:5} | {:>8} {:>8} | {:>8} {:>8}\n",
        path.rtt,
        path.loss,
        path.window,
        figures.goodput,
        tenths(figures.share),
        thousandths(figures.resent),
        figures.moves,
        ms(figures.p50),
        ms(figures.p99),
        ms(figures.second),
        ms(figures.direct),
    )
}

/// On all processors; each row is a world of its own.
fn all(paths: &[Path]) -> Vec<Figures> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let figures = measure(*path);
            done.lock().expect("no row panics").push((*path, figures));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let done = done.into_inner().expect("no row panics");
    let of = |path: &Path| {
        let same = |(other, _): &&(Path, Figures)| {
            (other.window, other.loss, other.rtt) == (path.window, path.loss, path.rtt)
        };
        done.iter().find(same).expect("every row was measured").1
    };
    paths.iter().map(of).collect()
}
