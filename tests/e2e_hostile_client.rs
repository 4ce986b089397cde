//! Hostile, broken or vanished clients get the replies that Redis gives, cost little, and do not affect other clients.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::archive::Archive;
use support::client::{Client, Command, bytes, cmd, error_text, integer, text};
use support::faulty_s3::FaultyS3;
use support::oracle::Oracle;
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::workload::seed;

/// Longest duration of another client's command, whatever the hostile clients do.
const SERVED_WITHIN: Duration = Duration::from_secs(1);
/// Number of idle connections that the test opens; fewer where the system limits open files.
const IDLE_CLIENTS: u64 = 10_000;
/// Largest number of bytes of memory per idle connection.
const IDLE_CLIENT_BYTES_MAX: u64 = 12 << 10;

struct Server {
    node: Node,
    _root: tempfile::TempDir,
}

impl Server {
    fn start(configure: impl FnOnce(Launch) -> Launch) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        let node = configure(Launch::primary(&root.path().join("data"))).start();
        Self { node, _root: root }
    }

    fn stream(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.node.launch.port)).expect("the server accepts a connection")
    }
}

fn field(client: &mut Client, name: &str) -> u64 {
    client.info()[name].parse().expect("a number")
}

fn resident(client: &mut Client) -> u64 {
    field(client, "used_memory_rss")
}

/// Fails the test unless a client can write and read without delay.
#[track_caller]
fn assert_served(client: &mut Client) {
    for command in [cmd!("SET", "served", 1), cmd!("RPUSH", "served:list", 1), cmd!("GET", "served")] {
        let started = Instant::now();
        client.ok(&command);
        let took = started.elapsed();
        assert!(took < SERVED_WITHIN, "another client's command took {took:?}");
    }
}

/// Waits until the observer is the only client.
#[track_caller]
fn await_alone(observer: &mut Client) {
    wait_until("all other clients are gone", SETTLED_WITHIN, || {
        (field(observer, "connected_clients") == 1).then_some(())
    });
}

/// Returns what the server sends until it closes the connection.
fn last_words(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(SETTLED_WITHIN)).expect("a timeout");
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the connection stays open"),
        // A connection that is closed with unread requests is reset.
        _ => all.escape_ascii().to_string(),
    }
}

/// Goal: ten thousand idle connections are accepted although the process started with a low limit of open files. Each
/// costs little, another client is served without delay, and clients beyond `maxclients` get an error that says so.
#[test]
fn ten_thousand_idle_clients() {
    let hard = raise_open_files();
    // The server reserves some files for itself.
    let idle = IDLE_CLIENTS.min(hard - 4_608.min(hard / 2) - 100).min(hard - 500);
    assert!(idle >= 1_000, "this test needs more open files than `ulimit -Hn` ({hard}) allows");
    let maxclients = idle + 10;
    let server = Server::start(|launch| launch.open_files(1_024).set("maxclients", &maxclients.to_string()));
    let mut observer = server.node.client();
    await_alone(&mut observer);
    assert_eq!(field(&mut observer, "maxclients"), maxclients, "there are descriptors for all of them");
    let before = resident(&mut observer);
    let started = Instant::now();
    let mut clients: Vec<TcpStream> = (0..idle).map(|_| server.stream()).collect();
    // Every second client sends a request before it falls silent.
    for client in clients.iter_mut().step_by(2) {
        client.write_all(b"PING\r\n").expect("the server reads");
    }
    for client in clients.iter_mut().step_by(2) {
        let mut pong = [0; 7];
        client.read_exact(&mut pong).expect("the server answers");
        assert_eq!(pong, *b"+PONG\r\n");
    }
    wait_until("all are connected", SETTLED_WITHIN, || {
        (field(&mut observer, "connected_clients") == idle + 1).then_some(())
    });
    let each = resident(&mut observer).saturating_sub(before) / idle;
    eprintln!("{idle} idle clients connected within {:?}; each costs {each} bytes", started.elapsed());
    assert!(each <= IDLE_CLIENT_BYTES_MAX, "an idle client costs {each} bytes");
    (0..50).for_each(|_| assert_served(&mut observer));

    // Accepted connections stay open, so that no place becomes free.
    let mut more: Vec<TcpStream> = (0..30).map(|_| server.stream()).collect();
    for words in more.split_off(20).into_iter().map(last_words) {
        assert!(words.starts_with("-ERR max number of clients reached"), "found {words:?}");
    }
    assert!(field(&mut observer, "rejected_connections") >= 20);
    drop((clients, more));
    await_alone(&mut observer);
    assert_served(&mut server.node.client());
}

/// Raises this process' limit of open files to the maximum; returns the limit.
fn raise_open_files() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit can be raised");
    maximum.unwrap_or(1 << 20)
}

/// Goal: the server stops reading from clients that send requests and never read replies. The memory for them is
/// bounded, other clients are served, and a client that reads in the end gets every reply whole and in order.
#[test]
fn clients_that_never_read_their_replies() {
    const DEAF: usize = 20;
    const REQUESTS: usize = 400_000;
    let server = Server::start(|launch| launch);
    let mut observer = server.node.client();
    let value = b"0123456789abcdef".repeat(64 << 10);
    observer.ok(&cmd!("SET", "large", &value[..]));
    observer.ok(&cmd!("RPUSH", "list", &value[..]));
    let before = resident(&mut observer);
    let requests = b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n*4\r\n$6\r\nLRANGE\r\n$4\r\nlist\r\n$1\r\n0\r\n$2\r\n-1\r\n"
        .repeat(REQUESTS);
    let mut deaf: Vec<TcpStream> = (0..DEAF).map(|_| server.stream()).collect();
    for stream in &mut deaf {
        stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        // The server stops reading, so that sending fails at some point.
        let stuck = stream.write_all(&requests).expect_err("the server reads on although nobody takes its replies");
        assert!(matches!(stuck.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stuck}");
        assert_served(&mut observer);
    }
    let grown = resident(&mut observer).saturating_sub(before);
    eprintln!("{DEAF} clients that do not read make the server hold {grown} bytes more");
    assert!(grown < (DEAF as u64 * 4 + 32) << 20, "{grown} bytes held for {DEAF} clients that do not read");

    let mut reader = deaf.pop().expect("there are some");
    let expected = [b"$1048576\r\n", &value[..], b"\r\n*1\r\n$1048576\r\n", &value, b"\r\n"].concat();
    let mut found = vec![0; expected.len()];
    for _ in 0..5 {
        reader.read_exact(&mut found).expect("the server goes on when its replies are taken");
        assert!(found == expected, "replies are whole and in order");
    }
    drop((reader, deaf));
    await_alone(&mut observer);
}

/// Goal: with `timeout`, clients that neither send nor read are disconnected, at whatever point they stopped.
#[test]
fn silent_clients_are_disconnected_after_a_while() {
    let server = Server::start(|launch| launch.set("timeout", "1"));
    let mut observer = server.node.client();
    observer.ok(&cmd!("SET", "large", vec![b'x'; 16 << 20]));
    let openings: [&[u8]; 4] = [
        b"",
        b"*2\r\n$3\r\nGET\r\n$1",
        b"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n",
        // This client does not read its replies.
        b"GET large\r\nGET large\r\nGET large\r\n",
    ];
    let connect = |opening: &&[u8]| {
        let mut stream = server.stream();
        stream.write_all(opening).expect("the server reads");
        stream
    };
    let silent: Vec<TcpStream> = openings.iter().map(connect).collect();
    await_alone(&mut observer);
    drop(silent);
    assert_eq!(integer(&observer.ok(&cmd!("EXISTS", "n"))), 0, "a transaction without EXEC is nothing");
}

/// Goal: requests that arrive byte by byte from many clients in turn are understood and delay no other client.
#[test]
fn requests_that_come_byte_by_byte() {
    let server = Server::start(|launch| launch);
    let mut observer = server.node.client();
    let request = |nth: usize| format!("*3\r\n$5\r\nRPUSH\r\n$4\r\nslow\r\n$3\r\n{nth:03}\r\n").into_bytes();
    let mut slow: Vec<TcpStream> = (0..50).map(|_| server.stream()).collect();
    for at in 0..request(0).len() {
        for (nth, stream) in slow.iter_mut().enumerate() {
            stream.write_all(&request(nth)[at..=at]).expect("the server reads");
        }
        assert_served(&mut observer);
    }
    for stream in &mut slow {
        let mut head = [0; 1];
        stream.read_exact(&mut head).expect("the server answers");
        assert_eq!(head, *b":");
    }
    assert_eq!(integer(&observer.ok(&cmd!("LLEN", "slow"))), 50);
}

/// Goal: an announced length takes no memory: neither for many arguments, nor for a long argument, nor for a long
/// line.
#[test]
fn announced_lengths_take_no_memory() {
    const LIARS: u64 = 400;
    let server = Server::start(|launch| launch);
    let mut observer = server.node.client();
    let before = resident(&mut observer);
    let announcements: [&[u8]; 4] = [
        b"*1048576\r\n$536870912\r\nx",
        b"*2\r\n$536870912\r\nx",
        b"*1048576\r\n$1\r\nx\r\n$1\r\nx",
        b"SET key 'never closed",
    ];
    let liars: Vec<TcpStream> = (0..LIARS as usize)
        .map(|nth| {
            let mut stream = server.stream();
            stream.write_all(announcements[nth % announcements.len()]).expect("the server reads");
            stream
        })
        .collect();
    wait_until("all are connected", SETTLED_WITHIN, || {
        (field(&mut observer, "connected_clients") == LIARS + 1).then_some(())
    });
    assert_served(&mut observer);
    let each = resident(&mut observer).saturating_sub(before) / LIARS;
    eprintln!("a client that announced much costs {each} bytes");
    assert!(each < 64 << 10, "a client that announced much costs {each} bytes");
    drop(liars);
    await_alone(&mut observer);
}

/// Goal: before authentication a client can make the server hold as little as in Redis, gets Redis' error, and is
/// served once it has authenticated.
#[test]
fn little_is_taken_before_authentication() {
    let server = Server::start(|launch| launch.set("requirepass", "secret"));
    let oracle = Oracle::start();
    oracle.client().ok(&cmd!("CONFIG", "SET", "requirepass", "secret"));
    let frames: [&[u8]; 5] = [
        b"*11\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$16385\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*11\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$5\r\nwrong\r\n*2\r\n$4\r\nAUTH\r\n$16385\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n*11\r\n$4\r\nQUIT\r\nbroken",
    ];
    for frame in frames {
        let [expected, found] = [oracle.port, server.node.launch.port].map(|port| {
            let mut client = Client::connect(port).expect("the server accepts a connection");
            client.send_bytes(frame).expect("the server reads");
            client.read_to_end(Duration::from_secs(5)).escape_ascii().to_string()
        });
        assert_eq!(found, expected, "for {}", frame.escape_ascii());
    }
    let mut client = server.node.client();
    client.ok(&cmd!("AUTH", "secret"));
    client.ok(&cmd!("SET", "key", vec![b'x'; 20_000]));
}

/// Goal: a connection with any other protocol gets an error or is closed, and changes nothing; a web page cannot
/// smuggle commands behind the lines of an HTTP request.
#[test]
fn other_protocols_and_garbage() {
    let mut rng = StdRng::seed_from_u64(seed());
    let server = Server::start(|launch| launch);
    let mut observer = server.node.client();
    let before = observer.watermarks().committed;
    let mut garbage: Vec<Vec<u8>> = [
        &b"POST / HTTP/1.1\r\nHost: localhost:6379\r\nContent-Length: 20\r\n\r\nSET smuggled 1\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nSET smuggled 1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"+OK\r\n:1\r\n$-1\r\n-ERR no\r\n",
        b"*2\r\n+SET\r\n",
        b"*1\r\n$3\r\n\0\0\0\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"*-9223372036854775808\r\n*9223372036854775807\r\n",
        b"$5\r\nhello\r\n",
    ]
    .map(<[u8]>::to_vec)
    .into();
    for _ in 0..300 {
        let mut noise: Vec<u8> = (0..rng.random_range(1..400)).map(|_| rng.random()).collect();
        if rng.random_bool(0.5) {
            noise.splice(..0, format!("*{}\r\n$", rng.random_range(1..5)).into_bytes());
        }
        garbage.push(noise);
    }
    for bytes in garbage {
        let mut stream = server.stream();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        last_words(stream);
    }
    assert_eq!(observer.watermarks().committed, before, "garbage commits nothing");
    assert_eq!(integer(&observer.ok(&cmd!("EXISTS", "smuggled"))), 0);
    assert_served(&mut observer);
    await_alone(&mut observer);
}

/// Goal: connections to machines that vanished do not stay for ever: every connection has TCP keepalive.
#[test]
fn every_connection_is_probed() {
    let server = Server::start(|launch| launch);
    let mut observer = server.node.client();
    let _silent: Vec<TcpStream> = (0..3).map(|_| server.stream()).collect();
    wait_until("all are connected", SETTLED_WITHIN, || (field(&mut observer, "connected_clients") == 4).then_some(()));
    wait_until("the system probes every connection", SETTLED_WITHIN, || {
        let timers = timers(server.node.launch.port);
        (timers.len() >= 4 && timers.iter().all(|timer| timer == KEEPALIVE)).then_some(())
    });
}

/// Timer code in /proc/net/tcp of a connection with keepalive.
const KEEPALIVE: &str = "02";

/// Returns the timer codes of the server's ends of its connections.
fn timers(port: u16) -> Vec<String> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let local = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&local) && row[3] == ESTABLISHED).map(|row| row[5][..2].to_owned()).collect()
}

/// Goal: thousands of clients that connect and leave at any point of a conversation leave nothing behind.
#[test]
fn connecting_and_leaving() {
    let mut rng = StdRng::seed_from_u64(seed());
    let server = Server::start(|launch| launch);
    let mut observer = server.node.client();
    let files = || -> usize {
        let dir = PathBuf::from(format!("/proc/{}/fd", server.node.pid()));
        std::fs::read_dir(dir).expect("the server runs").count()
    };
    await_alone(&mut observer);
    let before = files();
    let openings: [&[u8]; 6] = [
        b"",
        b"*3\r\n$3\r\nSET\r\n$1",
        b"MULTI\r\nSET left 1\r\n",
        b"WATCH left\r\nMULTI\r\nSET left 1\r\n",
        b"XREAD BLOCK 0 STREAMS nothing $\r\n",
        b"PING\r\nPING\r\nQUIT\r\n",
    ];
    for _ in 0..3_000 {
        let mut stream = server.stream();
        let _ = stream.write_all(openings[rng.random_range(0..openings.len())]);
        if rng.random_bool(0.1) {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
            let _ = stream.read(&mut [0; 8]);
        }
    }
    await_alone(&mut observer);
    assert_eq!(integer(&observer.ok(&cmd!("EXISTS", "left"))), 0);
    let after = files();
    // RocksDB and the logs may have opened a few files.
    assert!(after <= before + 20, "{before} files were open, now {after}");
    assert_served(&mut observer);
}

/// Goal: clients that wait for the archive, for a task or for a commit, and then leave, free their places, whatever
/// they sent ahead. Retrying clients never reach `maxclients`, and work that no client waits for is not done.
#[test]
fn clients_that_wait_and_leave_free_their_seats() {
    const MAXCLIENTS: usize = 40;
    const CLIENTS: usize = 25;
    const ROUNDS: usize = 6;
    let direct = Archive::s3();
    let store = FaultyS3::start();
    let server = Server::start(|launch| {
        let launch = launch.archive(&store.to(&direct)).set("archive-ack", "yes");
        launch.set("maxclients", &MAXCLIENTS.to_string()).set("snapshot-interval", "0").set("archive-interval", "20")
    });
    let mut observer = server.node.client();
    observer.ok(&cmd!("SET", "before", 1));
    store.set_down(true);
    let openings: [&[u8]; 5] = [
        b"SET left 1\r\n",
        b"SET left 1\r\nPING\r\nPING\r\n",
        b"WALFERRY ARCHIVE FLUSH\r\nPING\r\n",
        b"WALFERRY SNAPSHOT STRICT\r\n",
        b"XREAD BLOCK 0 STREAMS nothing $\r\nPING\r\n",
    ];
    for _ in 0..ROUNDS {
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| server.stream()).collect();
        for (nth, client) in clients.iter_mut().enumerate() {
            client.write_all(openings[nth % openings.len()]).expect("the server reads");
        }
        wait_until("all of them wait", SETTLED_WITHIN, || {
            (field(&mut observer, "connected_clients") == CLIENTS as u64 + 1).then_some(())
        });
        // The server does not read a request that follows the one being waited for.
        clients.iter_mut().for_each(|client| client.write_all(b"PING\r\n").expect("the server is there"));
        drop(clients);
        await_alone(&mut observer);
    }
    assert_eq!(field(&mut observer, "rejected_connections"), 0);
    store.heal();
    let csn = integer(&observer.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64;
    assert_eq!(csn, observer.watermarks().committed);
    let abandoned = ROUNDS * CLIENTS / openings.len();
    observer.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    let bases = direct.tool("snapshots", &["--json"]).expect(0).json()["bases"].as_array().map_or(0, Vec::len);
    assert!(bases < abandoned / 2, "{bases} bases after {abandoned} abandoned requests");
    assert_served(&mut observer);
}

/// Goal: a transaction whose client leaves before EXEC has no effect; one whose client leaves after EXEC is whole or
/// has no effect, whether or not a client reads the reply.
#[test]
fn leaving_in_the_middle_of_a_transaction() {
    let mut rng = StdRng::seed_from_u64(seed());
    let server = Server::start(|launch| launch);
    let mut observer = server.node.client();
    let mut executed = 0;
    for round in 0..300 {
        let commands: Vec<Command> = vec![
            cmd!("MULTI"),
            cmd!("SET", "string", round),
            cmd!("LPUSH", "list", round),
            cmd!("ZADD", "zset", round, "member"),
            cmd!("EXEC"),
        ];
        let request: Vec<u8> = commands.iter().flat_map(|command| redis::pack_command(command)).collect();
        let cut = if rng.random_bool(0.5) { request.len() } else { rng.random_range(0..request.len()) };
        let mut stream = server.stream();
        stream.write_all(&request[..cut]).expect("the server reads");
        drop(stream);
        if cut == request.len() {
            executed += 1;
        }
    }
    await_alone(&mut observer);
    let reads =
        [cmd!("GET", "string"), cmd!("LINDEX", "list", 0), cmd!("ZSCORE", "zset", "member"), cmd!("LLEN", "list")];
    let found = observer.pipeline(&reads);
    found.iter().for_each(|reply| assert!(error_text(reply).is_none(), "{reply:?}"));
    let last = text(&found[0]);
    assert!(found[1..3].iter().all(|reply| bytes(reply) == last.as_bytes()), "torn: {found:?}");
    let whole = integer(&found[3]);
    assert_eq!(observer.watermarks().committed as i64, whole, "nothing but whole transactions was committed");
    assert!((1..=executed).contains(&whole), "{whole} transactions of {executed}");
}
