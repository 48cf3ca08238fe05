//! The frame decoder: W1 and W2 of `tidelock_proto::wire`.

use bytes::BytesMut;
use tidelock_proto::wire::{
    CONTROL_BYTES_MAX, Datagram, Frame, HEADER_BYTES, LANE_PAYLOAD_BYTES_MAX, decode, decode_first,
    lacking,
};

/// Takes `data` for what comes in a lane, and for a datagram.
pub fn run(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    let mut rest = data;
    loop {
        match decode(&mut buffer) {
            Ok(Some(frame)) => {
                let used = rest.len() - buffer.len();
                assert_eq!(decode_first(rest), Ok(Some((frame.clone(), used))));
                assert_eq!(lacking(rest), Ok(0));
                rest = check(&frame, rest, buffer.len());
            }
            Ok(None) => {
                assert_eq!(decode_first(rest), Ok(None));
                assert!(lacking(rest).expect("it may become a frame") > 0);
                assert_eq!(buffer, rest, "bytes are kept until the rest comes");
                let room = buffer.capacity();
                let bound = 4 * (CONTROL_BYTES_MAX + HEADER_BYTES) + data.len();
                assert!(room <= bound, "{room} bytes reserved");
                break;
            }
            Err(error) => {
                assert_eq!(decode_first(rest), Err(error));
                break;
            }
        }
    }
    if let Some(datagram) = Datagram::decode(data) {
        assert_eq!(datagram.encode(), data);
    }
}

/// Compares `frame` with the front of `rest`, which it was read from; returns what follows it.
fn check<'a>(frame: &Frame, rest: &'a [u8], left: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(rest.len() - left);
    let claimed = u32::from_le_bytes(taken[..4].try_into().expect("four bytes"));
    assert_eq!(
        taken.len(),
        HEADER_BYTES + claimed as usize,
        "a frame takes as much as its header says"
    );
    if let Frame::Message(_, _, payload) = frame {
        assert!(payload.len() <= LANE_PAYLOAD_BYTES_MAX);
    }
    let mut again = Vec::new();
    frame.encode(&mut again);
    assert_eq!(again, taken, "what decodes is canonical");
    let second = decode(&mut BytesMut::from(&again[..]));
    assert_eq!(second, Ok(Some(frame.clone())), "a frame means itself");
    after
}
