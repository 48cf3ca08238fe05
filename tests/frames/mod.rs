//! Frames to test with: what a peer with number 2 says to this node, which has number 1.

use bytes::BytesMut;
use tidelock_proto::spawn::{Param, Prepare, ProcessConfig, Request};
use tidelock_proto::wire::{Frame, Hello, Renew, Route, WireError, decode};
use tidelock_proto::{Environ, ModuleHash, NodeId, PROTOCOL, Pid};

pub(crate) const US: NodeId = NodeId(1);
pub(crate) const PEER: NodeId = NodeId(2);

pub(crate) fn here(local: u64) -> Pid {
    Pid::new(US, local).unwrap()
}

pub(crate) fn there(local: u64) -> Pid {
    Pid::new(PEER, local).unwrap()
}

/// From the peer's process 7 to ours with number 5.
pub(crate) fn route() -> Route {
    Route {
        environ: Environ(1),
        from: there(7),
        to: here(5),
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        versions: PROTOCOL,
        from: PEER,
        to: US,
        epoch: 3,
        ticket: vec![0xaa, 0xbb],
    }
}

pub(crate) fn prepare() -> Prepare {
    Prepare {
        environ: Environ(1),
        parent: there(7),
        module: ModuleHash([0x11; 32]),
        entry: "main".into(),
        params: vec![Param::I32(-1), Param::I64(2), Param::V128(3)],
        config: ProcessConfig {
            args: vec!["wc".into(), "-l".into()],
            env: vec![("HOME".into(), "/".into())],
            preopens: vec!["/data".into()],
            memory_bytes_max: 1 << 20,
            fuel_max: Some(9),
            ..ProcessConfig::default()
        }
        .into(),
        link: Some(Some(-4)),
        monitor: Some(6),
    }
}

/// As [`prepare`], with what this slot holds.
pub(crate) fn request(slot: u8) -> Request {
    let prepare = prepare();
    Request {
        environ: prepare.environ,
        parent: prepare.parent,
        module: prepare.module,
        entry: prepare.entry,
        params: prepare.params,
        slot,
        link: prepare.link,
        monitor: prepare.monitor,
    }
}

/// What its parts mean is nothing to the crate.
pub(crate) fn renew() -> Renew {
    Renew {
        certificate: vec![0x30, 0x82],
        ticket: vec![0xaa, 0xbb, 0xcc],
        proof: vec![0x5f],
    }
}

pub(crate) fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

pub(crate) fn frame_of(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    decode(&mut BytesMut::from(bytes))
}
