//! A connection whose requests may have characters in their URLs that hyper refuses and API Gateway accepts:
//! `curl 'http://localhost:8888/v1/…?_since="123"'`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether the next bytes on a connection are the first line of a request. The server sets it after each response: no
/// client here sends the next request before it has the response.
#[derive(Clone, Debug)]
pub struct AtRequestLine(Arc<AtomicBool>);

impl AtRequestLine {
    /// The next bytes begin a request.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection that escapes these characters in the first line of each request as it is read.
#[derive(Debug)]
pub struct Escaping<S> {
    stream: S,
    at_request_line: AtRequestLine,
    /// Bytes that were read and did not fit into the reader's buffer.
    pending: Vec<u8>,
}

impl<S> Escaping<S> {
    /// A connection from which nothing was read yet.
    pub fn new(stream: S) -> (Self, AtRequestLine) {
        let at_request_line = AtRequestLine(Arc::new(AtomicBool::new(true)));
        let escaping = Self {
            stream,
            at_request_line: at_request_line.clone(),
            pending: vec![],
        };
        (escaping, at_request_line)
    }

    fn escape(&mut self, bytes: &[u8]) {
        let (line, rest) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => bytes.split_at(end),
            None => (bytes, &[][..]),
        };
        for byte in line {
            match byte {
                b'"' | b'<' | b'>' => self.pending.extend(format!("%{byte:02X}").bytes()),
                byte => self.pending.push(*byte),
            }
        }
        self.pending.extend_from_slice(rest);
        if !rest.is_empty() {
            self.at_request_line.0.store(false, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Escaping<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            if !self.at_request_line.0.load(Ordering::Relaxed) {
                return Pin::new(&mut self.stream).poll_read(context, buffer);
            }
            let mut read = [0; 4096];
            let mut read = ReadBuf::new(&mut read);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
            self.escape(read.filled());
        }
        let fits = self.pending.len().min(buffer.remaining());
        buffer.put_slice(&self.pending[..fits]);
        self.pending.drain(..fits);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Escaping<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
