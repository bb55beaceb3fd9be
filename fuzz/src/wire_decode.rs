//! Any bytes as a datagram's plaintext: refused or understood; what is understood is written again
//! in the same length or shorter, and means the same.

use prism_proto::wire::{self, MAX_HEADER, Writer};

/// See the module.
pub fn run(bytes: &[u8]) {
    let Ok((header, frames)) = wire::decode(bytes) else {
        return;
    };
    let mut buffer = vec![0; bytes.len() + MAX_HEADER];
    let mut writer = Writer::new(&mut buffer, header).expect("there is room");
    for frame in frames.clone() {
        assert!(writer.push(&frame), "canonical encoding is never longer");
    }
    let len = writer.written();
    let (again, frames_again) = wire::decode(&buffer[..len]).expect("own writing is readable");
    assert_eq!(header, again);
    assert!(frames.eq(frames_again));
}
