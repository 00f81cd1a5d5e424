//! Distance: a TCP proxy on the bridge that holds back what passes for half a round trip, and counts round trips.
//!
//! It keeps the order and limits nothing. The handshake costs what it would cost: the host hears of a connection after one
//! and a half round trips, when the client's last segment of it would have come.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::{Fleet, Host};

/// An address from which a host is far away.
pub struct Far {
    port: u16,
    counts: Arc<Counts>,
}

/// What has passed.
///
/// Data from the client is as deep as the deepest that the client had got before it; data from the host is one deeper than
/// the deepest that the host had got before it. So the depth is the number of times that one side can have waited for the
/// other, one after another: the round trips that no faster line would save.
#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    /// Counts how often somebody asked; a connection counts for whoever asks next.
    asked: AtomicUsize,
    deepest: AtomicUsize,
    to_host: AtomicUsize,
    to_client: AtomicUsize,
    closed: AtomicBool,
    /// Both ends of all connections.
    open: Mutex<Vec<TcpStream>>,
}

const ADDRESS: &str = "10.77.0.1";

impl Far {
    /// A way to this host that takes so long there and back.
    pub fn from(fleet: &Fleet, host: &Host, round_trip: Duration) -> Far {
        let target = format!("{}:22", host.address());
        Far::listen(fleet, move |client, counts| carry(client, &target, round_trip, counts))
    }

    /// Somebody who accepts and never says a word.
    pub fn silent(fleet: &Fleet) -> Far {
        Far::listen(fleet, |mut client, _| {
            let mut nothing = [0; 512];
            while client.read(&mut nothing).is_ok_and(|length| length > 0) {}
        })
    }

    fn listen(fleet: &Fleet, serve: impl Fn(TcpStream, &Arc<Counts>) + Send + Sync + 'static) -> Far {
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let serve = Arc::new(serve);
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                fleet.move_thread_here();
                // Threads that are started from here are on the bridge too.
                thread::spawn(move || {
                    let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
                    tell.send(listener.local_addr().unwrap().port()).unwrap();
                    for client in listener.incoming() {
                        if shared.closed.load(Ordering::SeqCst) {
                            break;
                        }
                        let Ok(client) = client else { continue };
                        let (shared, serve) = (Arc::clone(&shared), Arc::clone(&serve));
                        shared.connections.fetch_add(1, Ordering::SeqCst);
                        thread::spawn(move || serve(client, &shared));
                    }
                });
            });
        });
        Far { port: told.recv().unwrap(), counts }
    }

    /// Where it listens.
    pub fn address(&self) -> &'static str {
        ADDRESS
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its name in known_hosts.
    pub fn known_as(&self) -> String {
        format!("[{ADDRESS}]:{}", self.port)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// How often one side waited for the other, one after another, in any one of the connections that were begun since
    /// the last time this was asked.
    pub fn round_trips(&self) -> usize {
        self.counts.asked.fetch_add(1, Ordering::SeqCst);
        self.counts.deepest.swap(0, Ordering::SeqCst)
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for socket in self.counts.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Bytes to the host and back.
    pub fn bytes(&self) -> (usize, usize) {
        (self.counts.to_host.load(Ordering::SeqCst), self.counts.to_client.load(Ordering::SeqCst))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // The listener goes with this process; whoever comes until then is turned away.
        self.counts.closed.store(true, Ordering::SeqCst);
    }
}

/// A piece of data on its way: when it arrives, and how deep it is.
type Piece = (Instant, usize, Vec<u8>);

fn carry(client: TcpStream, target: &str, round_trip: Duration, counts: &Arc<Counts>) {
    let arrives = Instant::now() + round_trip * 3 / 2;
    thread::sleep(round_trip * 3 / 2);
    let Ok(host) = TcpStream::connect(target) else {
        let _ = client.shutdown(Shutdown::Both);
        return;
    };
    let _ = (client.set_nodelay(true), host.set_nodelay(true));
    counts.open.lock().unwrap().extend([client.try_clone().unwrap(), host.try_clone().unwrap()]);
    let half = round_trip / 2;
    let asked = counts.asked.load(Ordering::SeqCst);
    // How deep the deepest is that each side has got.
    let (at_host, at_client) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let there = {
        let (from, to, counts) = (client.try_clone().unwrap(), host.try_clone().unwrap(), Arc::clone(counts));
        let (at_host, at_client) = (Arc::clone(&at_host), Arc::clone(&at_client));
        let sent = move || at_client.load(Ordering::SeqCst);
        let got = move |depth, length| {
            at_host.fetch_max(depth, Ordering::SeqCst);
            counts.to_host.fetch_add(length, Ordering::SeqCst);
        };
        thread::spawn(move || one_way(from, to, half, arrives, sent, got))
    };
    let back = {
        let counts = Arc::clone(counts);
        let sent = move || at_host.load(Ordering::SeqCst) + 1;
        let got = move |depth, length| {
            at_client.fetch_max(depth, Ordering::SeqCst);
            if counts.asked.load(Ordering::SeqCst) == asked {
                counts.deepest.fetch_max(depth, Ordering::SeqCst);
            }
            counts.to_client.fetch_add(length, Ordering::SeqCst);
        };
        thread::spawn(move || one_way(host, client, half, arrives, sent, got))
    };
    let _ = (there.join(), back.join());
}

fn one_way(
    mut from: TcpStream,
    mut to: TcpStream,
    half: Duration,
    not_before: Instant,
    depth: impl Fn() -> usize,
    got: impl Fn(usize, usize) + Send + 'static,
) {
    let (send, pieces) = mpsc::channel::<Piece>();
    let writer = thread::spawn(move || {
        for (due, depth, bytes) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            got(depth, bytes.len());
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let due = (Instant::now() + half).max(not_before);
        if send.send((due, depth(), buffer[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(send);
    let _ = writer.join();
    let _ = from.shutdown(Shutdown::Read);
}
