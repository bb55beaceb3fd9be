//! A stream whose reader must keep reading: one that takes its answer a byte at a time is cut off.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Whoever takes more than that gets more time.
const BYTES_PER_SECOND: u64 = 16 << 10;

/// See the module. An answer that has not been taken in `limit`, and a second more for each
/// [`BYTES_PER_SECOND`] that have been, ends the connection.
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    blocked: Option<Blocked>,
}

struct Blocked {
    since: Instant,
    written: u64,
    deadline: Pin<Box<Sleep>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            blocked: None,
        }
    }

    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(n)) => {
                if let Some(blocked) = &mut self.blocked {
                    blocked.written += n as u64;
                    let more = Duration::from_secs(blocked.written / BYTES_PER_SECOND);
                    blocked
                        .deadline
                        .as_mut()
                        .reset(blocked.since + self.limit + more);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let limit = self.limit;
                let blocked = self.blocked.get_or_insert_with(|| {
                    let since = Instant::now();
                    Blocked {
                        since,
                        written: 0,
                        deadline: Box::pin(sleep_until(since + limit)),
                    }
                });
                if blocked.deadline.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Reached only when everything before it has been written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.blocked = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
