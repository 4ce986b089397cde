//! The load generator: one thread, many connections, a closed loop like redis-benchmark's.
//!
//! Requests are built once; before a batch is sent, only its numbers are overwritten. Replies are counted, not parsed
//! in full. Latency is the time from writing a batch's first byte to reading the last byte of its replies. If
//! [`Outcome::own_cpu_part`] is well below 1, the generator is not the bottleneck.

use super::workload::{DIGITS, Distribution, Number, Part, Workload};
use crate::client::Answer;
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Parameters of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Number of connections.
    pub clients: usize,
    /// Operations sent at once on a connection.
    pub pipeline: usize,
    /// Number of distinct keys.
    pub keys: u64,
    /// How keys are chosen.
    pub distribution: Distribution,
    /// Number of the most frequent key.
    pub first: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Operations per second; 0: as many as the server takes.
    pub rate: u64,
}

/// Condition that ends a load.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// The load ends after this time.
    Elapsed(Duration),
    /// The load ends after so many operations.
    Operations(u64),
}

/// Result of a load.
pub(super) struct Outcome {
    /// Number of answered operations.
    pub operations: u64,
    /// Time from the first request to the last reply.
    pub elapsed: Duration,
    /// Latencies of batches, in microseconds from a batch's first byte to its last reply.
    pub latency_us: Histogram<u64>,
    /// CPU time of this generator divided by the elapsed time.
    pub own_cpu_part: f64,
    /// Operations answered in each second since the start.
    pub by_second: Vec<u64>,
}

impl Outcome {
    /// Returns the answered operations per second.
    pub(super) fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns a quantile of the latency, in milliseconds.
    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Runs a load on the server at a loopback port.
pub(super) fn run(port: u16, workload: &Workload, shape: Shape, until: Until, seed: u64) -> Answer<Outcome> {
    Generator::new(port, workload, shape, seed)?.run(until)
}

struct Generator {
    poll: Poll,
    connections: Vec<Connection>,
    random: SmallRng,
    zipf: Option<Zipf<f64>>,
    shape: Shape,
    sent: u64,
}

struct Connection {
    socket: TcpStream,
    /// The bytes of one batch of requests.
    requests: Vec<u8>,
    /// For each number in the batch: its position, its kind, and its operation in the batch.
    holes: Vec<(usize, Number, u64)>,
    /// Number of operations sent on the connection.
    sent: u64,
    /// Bytes of the current batch that are already written.
    written: usize,
    started: Instant,
    replies: Replies,
    replies_wanted: usize,
    is_idle: bool,
}

impl Generator {
    fn new(port: u16, workload: &Workload, shape: Shape, seed: u64) -> Answer<Self> {
        let failed = |error: std::io::Error| format!("load generator: {error}");
        let poll = Poll::new().map_err(failed)?;
        let mut connections = Vec::new();
        for nth in 0..shape.clients {
            let mut socket = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).map_err(failed)?;
            poll.registry()
                .register(&mut socket, Token(nth), Interest::READABLE | Interest::WRITABLE)
                .map_err(failed)?;
            let (mut requests, mut holes) = (Vec::new(), Vec::new());
            for operation in 0..shape.pipeline as u64 {
                for part in workload.parts(shape.value_bytes) {
                    match part {
                        Part::Bytes(bytes) => requests.extend_from_slice(&bytes),
                        Part::Number(number) => {
                            holes.push((requests.len(), number, operation));
                            requests.extend_from_slice(&[b'0'; DIGITS]);
                        }
                    }
                }
            }
            let replies_wanted = shape.pipeline * workload.replies();
            connections.push(Connection {
                socket,
                requests,
                holes,
                sent: 0,
                written: 0,
                started: Instant::now(),
                replies: Replies::default(),
                replies_wanted,
                is_idle: true,
            });
        }
        let zipf = match shape.distribution {
            Distribution::Uniform => None,
            Distribution::Zipfian => {
                Some(Zipf::new(shape.keys as f64, 0.99).map_err(|error| format!("load generator: {error}"))?)
            }
        };
        Ok(Self { poll, connections, random: SmallRng::seed_from_u64(seed), zipf, shape, sent: 0 })
    }

    fn run(mut self, until: Until) -> Answer<Outcome> {
        let failed = |error: std::io::Error| format!("load generator: {error}");
        let mut latency_us = Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are valid");
        let mut events = Events::with_capacity(1024);
        let (started, cpu_before) = (Instant::now(), thread_cpu());
        let (mut operations, mut by_second) = (0, Vec::new());
        let batch = self.shape.pipeline as u64;
        let mut running = 0;
        let mut sending = true;
        loop {
            sending &= match until {
                Until::Elapsed(time) => started.elapsed() < time,
                Until::Operations(count) => self.sent < count,
            };
            if sending {
                for nth in 0..self.connections.len() {
                    if self.connections[nth].is_idle && self.may_send(started) {
                        self.begin(nth)?;
                        running += 1;
                    }
                }
            }
            if running == 0 && !sending {
                break;
            }
            let patience = if self.shape.rate > 0 { Duration::from_micros(200) } else { Duration::from_secs(30) };
            self.poll.poll(&mut events, Some(patience)).map_err(failed)?;
            if events.is_empty() && self.shape.rate == 0 {
                return Err("load generator: the server sent no reply for 30 s".into());
            }
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                connection.write()?;
                if event.is_readable() && connection.read()? {
                    latency_us.saturating_record(connection.started.elapsed().as_micros() as u64);
                    operations += batch;
                    let second = started.elapsed().as_secs() as usize;
                    by_second.resize(by_second.len().max(second + 1), 0);
                    by_second[second] += batch;
                    running -= 1;
                    let continues = match until {
                        Until::Elapsed(_) => sending,
                        Until::Operations(count) => self.sent < count,
                    };
                    if continues && self.may_send(started) {
                        self.begin(event.token().0)?;
                        running += 1;
                    }
                }
            }
        }
        let elapsed = started.elapsed();
        let own_cpu_part = (thread_cpu() - cpu_before) / elapsed.as_secs_f64();
        Ok(Outcome { operations, elapsed, latency_us, own_cpu_part, by_second })
    }

    /// Reports whether the rate allows another batch at this moment.
    fn may_send(&self, started: Instant) -> bool {
        self.shape.rate == 0 || (self.sent as f64) < started.elapsed().as_secs_f64() * self.shape.rate as f64
    }

    /// Fills in the numbers of a connection's batch and starts to send the batch.
    fn begin(&mut self, nth: usize) -> Answer<()> {
        self.sent += self.shape.pipeline as u64;
        let Self { connections, random, zipf, shape, .. } = self;
        let connection = &mut connections[nth];
        for &(at, number, operation) in &connection.holes {
            let number = match (number, &zipf) {
                (Number::Key, Some(zipf)) => (zipf.sample(random) as u64 - 1 + shape.first) % shape.keys,
                (Number::Key, None) => random.random_range(0..shape.keys),
                (Number::Below(below), _) => random.random_range(0..below),
                (Number::Client, _) => nth as u64,
                (Number::Sent(less), _) => (connection.sent + operation).saturating_sub(less),
            };
            put_digits(&mut connection.requests[at..at + DIGITS], number);
        }
        connection.sent += shape.pipeline as u64;
        connection.written = 0;
        connection.is_idle = false;
        connection.started = Instant::now();
        connection.write()
    }
}

impl Connection {
    fn write(&mut self) -> Answer<()> {
        while self.written < self.requests.len() && !self.is_idle {
            match self.socket.write(&self.requests[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::NotConnected => break,
                Err(error) => return Err(format!("load generator: cannot send: {error}")),
            }
        }
        Ok(())
    }

    /// Reads the available bytes; returns true once the batch is answered.
    fn read(&mut self) -> Answer<bool> {
        let mut buffer = [0; 64 << 10];
        while !self.is_idle {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err("load generator: the server closed a connection".into()),
                Ok(read) => {
                    self.replies.feed(&buffer[..read])?;
                    if self.replies.complete >= self.replies_wanted {
                        self.replies.complete = 0;
                        self.is_idle = true;
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("load generator: cannot read: {error}")),
            }
        }
        Ok(false)
    }
}

/// Counts replies in a stream of bytes.
#[derive(Default)]
struct Replies {
    /// Whole replies since this count was last set to 0.
    complete: usize,
    /// Elements of the current reply that are missing; 0 between replies.
    elements: u64,
    /// Bytes of a bulk string that are missing, including its line end.
    bulk: u64,
    /// Beginning of a header line that is not complete.
    line: Vec<u8>,
}

impl Replies {
    fn feed(&mut self, mut bytes: &[u8]) -> Answer<()> {
        while !bytes.is_empty() {
            if self.bulk > 0 {
                let skipped = self.bulk.min(bytes.len() as u64);
                self.bulk -= skipped;
                bytes = &bytes[skipped as usize..];
                if self.bulk == 0 {
                    self.element();
                }
                continue;
            }
            let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                break;
            };
            if self.line.is_empty() {
                self.header(&bytes[..end])?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.header(&line)?;
            }
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Answer<()> {
        let Some((&kind, rest)) = line.split_first() else { return Err("load generator: an empty reply line".into()) };
        if self.elements == 0 {
            self.elements = 1;
        }
        let text = std::str::from_utf8(rest).unwrap_or_default().trim_end();
        let length = || text.parse::<i64>().map_err(|_| format!("load generator: unexpected reply {text:?}"));
        match kind {
            b'+' | b':' => self.element(),
            b'-' => return Err(format!("the server refused a request of the load: {text}")),
            b'$' => match length()? {
                -1 => self.element(),
                length => self.bulk = length as u64 + 2,
            },
            b'*' => {
                self.elements += length()?.max(0) as u64;
                self.element();
            }
            _ => return Err(format!("load generator: unexpected reply {:?}", String::from_utf8_lossy(line))),
        }
        Ok(())
    }

    fn element(&mut self) {
        self.elements -= 1;
        self.complete += usize::from(self.elements == 0);
    }
}

fn put_digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Returns the CPU seconds that this thread has used.
fn thread_cpu() -> f64 {
    // The first number is the time on a CPU, in nanoseconds.
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_however_they_are_split() {
        let stream = b"+OK\r\n:5\r\n$-1\r\n$5\r\na\r\nbc\r\n*3\r\n$1\r\nx\r\n*2\r\n:1\r\n:2\r\n*0\r\n*-1\r\n+END\r\n";
        for size in 1..=stream.len() {
            let mut replies = Replies::default();
            stream.chunks(size).for_each(|chunk| replies.feed(chunk).unwrap());
            assert_eq!((replies.complete, replies.elements, replies.bulk), (7, 0, 0), "pieces of {size} bytes");
        }
        assert!(Replies::default().feed(b"-ERR no\r\n").is_err());
    }

    #[test]
    fn numbers_have_a_fixed_width() {
        let mut digits = [0; DIGITS];
        put_digits(&mut digits, 1234);
        assert_eq!(&digits, b"000000001234");
    }
}
