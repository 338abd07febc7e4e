//! A line of a certain length and width: bytes put in at one end come out at the other later, and not faster than so.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

/// How long and how wide the line between the client and the proxy is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// How long a byte is under way, each way. Opening a connection costs a way there and back as well.
    pub(crate) latency: Duration,
    /// How many bytes of a connection may be under way, counted until the news of their arrival is back: what TCP's
    /// window is. Together with the latency it bounds what one connection can carry, and more of them carry more.
    pub(crate) window: u32,
    /// Bytes a second of each connection, each way.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Default for Link {
    fn default() -> Self {
        Self { latency: Duration::ZERO, window: 4 << 20, bytes_per_second: None }
    }
}

impl Link {
    /// A line of this latency each way.
    pub(crate) fn of(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }

    /// A line that lets so many bytes a second through on each connection.
    pub(crate) fn at(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: Some(bytes_per_second), ..Self::default() }
    }

    fn is_plain(self) -> bool {
        self.latency.is_zero() && self.bytes_per_second.is_none()
    }
}

/// At most so much is taken off the line at once, so that a narrow line is narrow all the time.
const PIECE: usize = 64 << 10;

/// The client's end of the line is given, the other end returned. Without latency and width it is the same.
pub(super) async fn through(client: TcpStream, link: Link) -> io::Result<TcpStream> {
    if link.is_plain() {
        return Ok(client);
    }
    // SYN and its answer.
    tokio::time::sleep(link.latency * 2).await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let (near, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (near, (far, _)) = (near?, accepted?);
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_proxy, to_proxy) = near.into_split();
    tokio::spawn(carry(from_client, to_proxy, link));
    tokio::spawn(carry(from_proxy, to_client, link));
    Ok(far)
}

/// Carries one direction until it ends or breaks.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: Link) {
    let window = std::sync::Arc::new(Semaphore::new(link.window as usize));
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let credits = std::sync::Arc::clone(&window);
    let arriving = tokio::spawn(async move {
        while let Some((arrival, piece)) = under_way.recv().await {
            sleep_until(arrival).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            // The room is free when the news of it is back at the sender's.
            let (credits, back, room) =
                (std::sync::Arc::clone(&credits), arrival + link.latency, piece.len());
            tokio::spawn(async move {
                sleep_until(back).await;
                credits.add_permits(room);
            });
        }
        let _ = to.shutdown().await;
    });
    let piece = PIECE.min(link.window as usize / 4).max(1);
    let piece = link
        .bytes_per_second
        .map_or(piece, |rate| piece.min(usize::try_from(rate / 20).unwrap_or(piece)).max(1));
    let mut buffer = vec![0; piece];
    // When the line is free for the next piece.
    let mut free = Instant::now();
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        let Ok(room) = window.acquire_many(u32::try_from(length).expect("a piece is small")).await else {
            break;
        };
        room.forget();
        if let Some(rate) = link.bytes_per_second {
            free = free.max(Instant::now()) + Duration::from_secs_f64(length as f64 / rate as f64);
            sleep_until(free).await;
        }
        if sender.send((Instant::now() + link.latency, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = arriving.await;
}
