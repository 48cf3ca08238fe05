//! Sockets of a program for Lunatic, unchanged: the `lunatic` crate as published.
//!
//!     tidelock run lunatic_sockets.wasm CERTIFICATE KEY AUTHORITY
//!
//! The arguments are three PEM files: a certificate for `localhost`, its key, and the authority that
//! issued it. Prints a line for each part it has tried and ends with code 0 only if all hold.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use lunatic::net::{
    resolve, resolve_timeout, TcpListener, TcpStream, TlsListener, TlsStream, UdpSocket,
};
use lunatic::{Mailbox, Process};
use serde::{Deserialize, Serialize};

const HERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
const MOMENT: Duration = Duration::from_millis(20);
const CLIENTS: u64 = 200;
const ROUND_TRIPS: u64 = 20;

/// What the processes tell the first one.
#[derive(Serialize, Deserialize)]
enum Told {
    Done(u64),
    Stream(TcpStream),
    Refused(String),
}

type Check = fn(&Mailbox<Told>);

#[lunatic::main]
fn main(mailbox: Mailbox<Told>) {
    let checks: &[(&str, Check)] = &[
        ("tcp: an echo server with many clients", echo),
        ("tcp: a stream moves to another process", moved),
        ("tcp: timeouts of reading, writing and peeking", timeouts),
        ("tcp: a peer that closed, nobody there", closed),
        ("tls: an echo server with an authority of its own", tls_echo),
        ("tls: who is not trusted", tls_strangers),
        ("udp: both directions", udp),
        ("dns: this machine, and names that are none", names),
    ];
    for (name, check) in checks {
        check(&mailbox);
        println!("ok {name}");
    }
    println!("lunatic sockets: all {} checks hold", checks.len());
}

/// Each connection has a process of its own, and so has each client.
fn echo(mailbox: &Mailbox<Told>) {
    let listener = TcpListener::bind(HERE).unwrap();
    let address = listener.local_addr().unwrap();
    for number in 0..CLIENTS {
        let input = (mailbox.this(), address, number);
        Process::spawn_link(input, |(parent, address, number), _: Mailbox<()>| {
            let mut stream = TcpStream::connect(address).unwrap();
            for round in 0..ROUND_TRIPS {
                let sent = (number << 32 | round).to_le_bytes();
                stream.write_all(&sent).unwrap();
                let mut received = [0; 8];
                stream.read_exact(&mut received).unwrap();
                assert_eq!(sent, received);
            }
            parent.send(Told::Done(number));
        });
    }
    for _ in 0..CLIENTS {
        let (stream, _) = listener.accept().unwrap();
        Process::spawn_link(stream, |mut stream, _: Mailbox<()>| {
            let mut buffer = [0; 64];
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => break,
                    n => stream.write_all(&buffer[..n]).unwrap(),
                }
            }
        });
    }
    assert_eq!(sum(mailbox, CLIENTS), CLIENTS * (CLIENTS - 1) / 2);
}

/// The sum of what so many processes say when they are done.
fn sum(mailbox: &Mailbox<Told>, count: u64) -> u64 {
    let each = (0..count).map(|_| match mailbox.receive() {
        Told::Done(number) => number,
        Told::Stream(_) | Told::Refused(_) => panic!("nobody says that here"),
    });
    each.sum()
}

/// Connected streams.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HERE).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    (client, server)
}

fn moved(mailbox: &Mailbox<Told>) {
    let (mut client, server) = pair();
    let reader = Process::spawn_link(mailbox.this(), |parent, mailbox: Mailbox<TcpStream>| {
        let mut stream = mailbox.receive();
        let mut word = [0; 4];
        stream.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"ping");
        // And back, where it is answered.
        parent.send(Told::Stream(stream));
    });
    reader.send(server);
    client.write_all(b"ping").unwrap();
    let Told::Stream(mut server) = mailbox.receive() else {
        panic!("nobody says that here");
    };
    server.write_all(b"pong").unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "pong");
}

fn timeouts(_: &Mailbox<Told>) {
    let (mut client, mut server) = pair();
    client.set_read_timeout(Some(MOMENT)).unwrap();
    client.set_peek_timeout(Some(MOMENT)).unwrap();
    client.set_write_timeout(Some(MOMENT)).unwrap();
    assert_eq!(client.read_timeout(), Some(MOMENT));
    let mut buffer = vec![0; 1 << 16];
    assert_eq!(
        client.read(&mut buffer).unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    assert_eq!(
        client.peek(&mut buffer).unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    server.write_all(b"word").unwrap();
    assert_eq!(client.peek(&mut buffer[..2]).unwrap(), 2);
    assert_eq!(client.peek(&mut buffer).unwrap(), 4);
    assert_eq!(client.read(&mut buffer).unwrap(), 4);
    let mut written = 0;
    let error = loop {
        match client.write(&buffer) {
            Ok(n) => written += n,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    drop(client);
    let mut read = Vec::new();
    server.read_to_end(&mut read).unwrap();
    assert_eq!(read.len(), written);
    // A connection that is not there in time is an error that can be printed.
    let silent = TcpListener::bind(HERE).unwrap();
    let port = u32::from(silent.local_addr().unwrap().port());
    let late = TlsStream::connect_timeout("localhost", MOMENT, port, Vec::new()).unwrap_err();
    assert_eq!(late.to_string(), "timed out");
}

fn closed(_: &Mailbox<Told>) {
    let (mut client, server) = pair();
    drop(server);
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
    while client.write(b"word").is_ok() {}
    let listener = TcpListener::bind(HERE).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = TcpStream::connect(address).unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");
}

fn pem(number: usize) -> Vec<u8> {
    let path = std::env::args().nth(number).expect("three arguments");
    std::fs::read(path).unwrap()
}

fn tls_listener() -> (TlsListener, u32) {
    let listener = TlsListener::bind(HERE, pem(1), pem(2)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port.into())
}

fn tls_echo(mailbox: &Mailbox<Told>) {
    let (listener, port) = tls_listener();
    for number in 0..8_u64 {
        let input = (mailbox.this(), port, number);
        Process::spawn_link(input, |(parent, port, number), _: Mailbox<()>| {
            let authority = vec![pem(3)];
            let mut stream = TlsStream::connect_with_certs("localhost", port, authority).unwrap();
            let sent = vec![number as u8; 100_000];
            stream.write_all(&sent).unwrap();
            let mut received = vec![0; sent.len()];
            stream.read_exact(&mut received).unwrap();
            assert!(sent == received);
            drop(stream);
            parent.send(Told::Done(number));
        });
    }
    for _ in 0..8 {
        let (stream, _) = listener.accept().unwrap();
        Process::spawn_link(stream, |mut stream, _: Mailbox<()>| {
            let mut received = vec![0; 100_000];
            stream.read_exact(&mut received).unwrap();
            stream.write_all(&received).unwrap();
            stream.flush().unwrap();
            // The other side says that it was the end.
            assert_eq!(stream.read(&mut received).unwrap(), 0);
        });
    }
    assert_eq!(sum(mailbox, 8), 28);
}

fn tls_strangers(mailbox: &Mailbox<Told>) {
    let (listener, port) = tls_listener();
    Process::spawn_link((mailbox.this(), port), |(parent, port), _: Mailbox<()>| {
        let refused = TlsStream::connect("localhost", port).unwrap_err();
        parent.send(Told::Refused(refused.to_string()));
    });
    let refused = listener.accept().unwrap_err();
    assert!(refused.to_string().contains("handshake"), "{refused}");
    let Told::Refused(refused) = mailbox.receive() else {
        panic!("nobody says that here");
    };
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    let bad = TlsListener::bind(HERE, b"nonsense".to_vec(), pem(2)).unwrap_err();
    assert!(bad.to_string().contains("certificate"), "{bad}");
}

fn udp(_: &Mailbox<Told>) {
    let (a, b) = (
        UdpSocket::bind(HERE).unwrap(),
        UdpSocket::bind(HERE).unwrap(),
    );
    let (at_a, at_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    assert!(b.peer_addr().is_err());
    assert_eq!(a.send_to(b"ping", at_b).unwrap(), 4);
    let mut buffer = [0; 64];
    assert_eq!(b.recv_from(&mut buffer).unwrap(), (4, at_a));
    assert_eq!(&buffer[..4], b"ping");
    b.connect(at_a).unwrap();
    assert_eq!(b.peer_addr().unwrap(), at_a);
    assert_eq!(b.try_clone().unwrap().send(b"pong!").unwrap(), 5);
    assert_eq!(a.recv(&mut buffer).unwrap(), 5);
    a.set_broadcast(true).unwrap();
    a.set_ttl(5).unwrap();
    assert!(a.broadcast().unwrap() && a.ttl().unwrap() == 5);
}

fn names(_: &Mailbox<Told>) {
    let found: Vec<SocketAddr> = resolve("localhost:80").unwrap().collect();
    assert!(!found.is_empty() && found.iter().all(|found| found.ip().is_loopback()));
    assert!(found.iter().all(|found| found.port() == 80));
    assert!(resolve("no such name:80").is_err());
    let late = resolve_timeout("localhost:80", Duration::ZERO)
        .err()
        .unwrap();
    assert_eq!(late.to_string(), "timed out");
}
