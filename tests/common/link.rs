//! A slow link: a TCP proxy on loopback with a round-trip time and a bandwidth, which counts the traffic.
//!
//! All connections through it share one link: bytes leave one after the other at the link's rate and arrive half a round trip
//! later. A new connection takes one round trip for its handshake. Requests are counted by the empty line that ends the head of
//! each (HTTP/1.1 without bodies, as clients of a published repository send).
//!
//! *Used by* the tests of remotes and mounts, and by `benches/remote`.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are forwarded together, about as many as in a burst of packets.
const SEGMENT_BYTES: usize = 16 << 10;

/// Most segments under way in one direction: far more than any link here holds.
const SEGMENTS_IN_FLIGHT_MAX: usize = 1024;

/// The properties of a link.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Time there and back.
    pub round_trip: Duration,
    /// Bits a second in each direction.
    pub bits_per_second: u64,
}

impl Shape {
    /// A connection of a home to a server of its country.
    pub const HOME: Self = Self { round_trip: Duration::from_millis(20), bits_per_second: 50_000_000 };
    /// A device at the end of a bad radio link.
    pub const RADIO: Self = Self { round_trip: Duration::from_millis(100), bits_per_second: 1_000_000 };
}

/// Counts of what passed through a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Heads of HTTP requests.
    pub requests: u64,
    /// Bytes towards the client, headers counted.
    pub received: u64,
    /// Bytes from the client, headers counted.
    pub sent: u64,
    /// Connections opened.
    pub connections: u64,
}

/// A proxy, which stops when dropped.
pub struct Link {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    shape: Shape,
    target: SocketAddr,
    stopped: AtomicBool,
    /// Whether the link is down: connections are cut, new ones refused.
    cut: AtomicBool,
    /// Bytes towards the client until the link is cut; `u64::MAX` for never.
    budget_down: AtomicU64,
    budget_up: AtomicU64,
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    connections: AtomicU64,
    /// Connections up to this number forward nothing any more.
    mute: AtomicU64,
    up: Mutex<Instant>,
    down: Mutex<Instant>,
}

impl Link {
    /// Starts a link to `target`, which listens on a port of its own.
    pub fn to(target: SocketAddr, shape: Shape) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("just bound");
        let now = Instant::now();
        let state = Arc::new(State {
            shape,
            target,
            stopped: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            budget_down: AtomicU64::new(u64::MAX),
            budget_up: AtomicU64::new(u64::MAX),
            requests: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            mute: AtomicU64::new(0),
            up: Mutex::new(now),
            down: Mutex::new(now),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || accept(&listener, &shared));
        Self { address, state }
    }

    /// Returns the address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what passed since the start.
    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            requests: read(&self.state.requests),
            received: read(&self.state.received),
            sent: read(&self.state.sent),
            connections: read(&self.state.connections),
        }
    }

    /// Cuts every connection and refuses new ones, until [`Self::restore`].
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
    }

    /// Cuts the link once `bytes` more have reached the client.
    pub fn cut_after(&self, bytes: u64) {
        self.state.budget_down.store(bytes, Ordering::SeqCst);
    }

    /// Cuts the link once `bytes` more have come from the client.
    pub fn cut_after_sent(&self, bytes: u64) {
        self.state.budget_up.store(bytes, Ordering::SeqCst);
    }

    /// Makes the present connections forward nothing any more, without closing them, as when a router forgets them. New
    /// connections work.
    pub fn forget_connections(&self) {
        self.state.mute.store(self.state.connections.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Restores the link.
    pub fn restore(&self) {
        self.state.budget_down.store(u64::MAX, Ordering::SeqCst);
        self.state.budget_up.store(u64::MAX, Ordering::SeqCst);
        self.state.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        self.state.cut.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming() {
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if state.cut.load(Ordering::SeqCst) {
            continue;
        }
        let number = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let state = Arc::clone(state);
        thread::spawn(move || {
            let _ = serve(client, number, &state);
        });
    }
}

fn serve(client: TcpStream, number: u64, state: &Arc<State>) -> io::Result<()> {
    let server = TcpStream::connect(state.target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // On loopback bytes arrive at once; the handshake takes its time here.
    thread::sleep(state.shape.round_trip);
    let (up, down) = ((client.try_clone()?, server.try_clone()?), (server, client));
    let upward = Arc::clone(state);
    let pump = thread::spawn(move || forward(up.0, up.1, (number, Direction::Up), &upward));
    forward(down.0, down.1, (number, Direction::Down), state);
    let _ = pump.join();
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

fn forward(from: TcpStream, to: TcpStream, (number, direction): (u64, Direction), state: &Arc<State>) {
    let (sender, receiver) = sync_channel(SEGMENTS_IN_FLIGHT_MAX);
    let writer = {
        let state = Arc::clone(state);
        let to = to.try_clone();
        thread::spawn(move || to.map(|to| deliver(&receiver, to, &state, (number, direction))))
    };
    let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
    receive(&from, &sender, state, direction);
    drop(sender);
    let _ = writer.join();
    let how = if state.cut.load(Ordering::SeqCst) { Shutdown::Both } else { Shutdown::Write };
    let _ = to.shutdown(how);
    if state.cut.load(Ordering::SeqCst) {
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// Reads bytes and computes when they arrive at the other end.
fn receive(mut from: &TcpStream, sender: &SyncSender<(Instant, Vec<u8>)>, state: &State, direction: Direction) {
    let mut piece = vec![0; SEGMENT_BYTES];
    let mut end_of_head = 0;
    while !state.cut.load(Ordering::SeqCst) {
        let length = match from.read(&mut piece) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(_) => return,
        };
        if direction == Direction::Up {
            count_heads(&piece[..length], &mut end_of_head, state);
        }
        let arrival = state.departure_time(length, direction) + state.shape.round_trip / 2;
        if sender.send((arrival, piece[..length].to_vec())).is_err() {
            return;
        }
    }
}

impl State {
    /// Returns when the last of `length` bytes leaves, after all earlier ones.
    fn departure_time(&self, length: usize, direction: Direction) -> Instant {
        let nanoseconds = length as u64 * 8 * 1_000_000_000 / self.shape.bits_per_second.max(1);
        let lane = if direction == Direction::Up { &self.up } else { &self.down };
        let mut free = lane.lock().expect("no holder panics");
        *free = (*free).max(Instant::now()) + Duration::from_nanos(nanoseconds);
        *free
    }
}

fn deliver(
    receiver: &Receiver<(Instant, Vec<u8>)>,
    mut to: TcpStream,
    state: &State,
    (number, direction): (u64, Direction),
) {
    for (arrival, piece) in receiver {
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        if state.cut.load(Ordering::SeqCst) {
            return;
        }
        if number <= state.mute.load(Ordering::SeqCst) {
            continue;
        }
        let mut length = piece.len();
        let (budget, passed) = match direction {
            Direction::Down => (&state.budget_down, &state.received),
            Direction::Up => (&state.budget_up, &state.sent),
        };
        let before = budget.load(Ordering::SeqCst);
        if before != u64::MAX {
            length = length.min(usize::try_from(before).unwrap_or(usize::MAX));
            budget.store(before - length as u64, Ordering::SeqCst);
        }
        passed.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(&piece[..length]).is_err() {
            return;
        }
        if length < piece.len() {
            state.cut.store(true, Ordering::SeqCst);
        }
    }
}

/// Counts `\r\n\r\n`, which may be split over two pieces.
fn count_heads(bytes: &[u8], matched: &mut usize, state: &State) {
    const END: &[u8; 4] = b"\r\n\r\n";
    for byte in bytes {
        *matched = match (*byte == END[*matched], *byte) {
            (true, _) => *matched + 1,
            (false, b'\r') => 1,
            (false, _) => 0,
        };
        if *matched == END.len() {
            state.requests.fetch_add(1, Ordering::Relaxed);
            *matched = 0;
        }
    }
}
