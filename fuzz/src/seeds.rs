//! Seeds made of real things.

use std::path::Path;

use prism_db::journal::Journal;
use prism_db::{Digest, Hlc, Update, Value};
use prism_proto::wire::{Ack, Credit, Frame, Header, Nack, Progress, Writer};
use prism_proto::{ApplyCause, Epoch, Position, Refusal, RefusalClass, RegionKey, Seq, Tag};

use crate::disk::Memory;
use crate::journal_files::{OPTIONS, pack};

/// Target, name, bytes.
#[must_use]
pub fn all() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (i, frame) in frames().iter().enumerate() {
        seeds.push((
            "wire_decode",
            format!("frame-{i}"),
            datagram(std::slice::from_ref(frame)),
        ));
    }
    seeds.push(("wire_decode", "all".into(), datagram(&frames())));
    for (name, update) in [("full", update()), ("plain", plain())] {
        seeds.push(("update_decode", name.into(), update.encode()));
    }
    seeds.push(("update_decode", "entry".into(), entry()));
    for (i, groups) in [vec![], vec![1], vec![3, 1, 20], vec![1; 40]]
        .iter()
        .enumerate()
    {
        seeds.push(("journal_files", format!("journal-{i}"), journal(groups)));
    }
    seeds
}

fn datagram(frames: &[Frame<'_>]) -> Vec<u8> {
    let header = Header {
        from: 1,
        to: 2,
        pn: 300,
    };
    let mut buffer = vec![0; 1200];
    let mut writer = Writer::new(&mut buffer, header).expect("there is room");
    assert!(
        frames.iter().all(|frame| writer.push(frame)),
        "there is room"
    );
    let len = writer.written();
    buffer.truncate(len);
    buffer
}

fn frames() -> Vec<Frame<'static>> {
    let position = Position {
        epoch: Epoch(128),
        seq: Seq(17),
        tag: Tag(1),
    };
    let credit = Credit {
        updates: 4096,
        bytes: 5,
    };
    let mut ack = Ack {
        largest: 90,
        delay_us: 200,
        first: 2,
        more: Default::default(),
        progress: Some(Progress {
            position,
            clean: Seq(16),
            credit,
        }),
    };
    ack.more.extend([(0, 1), (3, 4)]);
    let refusal = Refusal {
        epoch: Epoch(128),
        seq: Seq(3),
        class: RefusalClass::Constraint,
        sqlstate: *b"23505",
    };
    let (seq, clean) = (Seq(2), Seq(1));
    vec![
        Frame::Ping,
        Frame::Hello {
            token: 7,
            epoch: Epoch(128),
            tail: Seq(17),
        },
        Frame::Welcome {
            token: 7,
            position,
            clean,
            credit,
        },
        Frame::Ack(ack),
        Frame::Nack(Nack::Missing {
            from: Seq(4),
            to: Seq(6),
        }),
        Frame::Nack(Nack::Refused(refusal)),
        Frame::Nack(Nack::Unavailable { retry_ms: 1000 }),
        Frame::Nack(Nack::Gap { need: Seq(5) }),
        Frame::Nack(Nack::Waiting {
            cause: ApplyCause::Dependency,
        }),
        Frame::RefusedAck {
            epoch: Epoch(128),
            seq,
        },
        Frame::Updates {
            first: Seq(18),
            run: &[2, 0xaa, 0xbb, 0, 1, 0xcc],
        },
        Frame::Fragment {
            seq: Seq(18),
            total: 5,
            chunk: 3,
            index: 1,
            bytes: &[0xdd, 0xee],
        },
        Frame::Appended { tail: Seq(17) },
        Frame::Acked {
            region: RegionKey(1),
            seq,
            clean,
        },
    ]
}

fn plain() -> Update {
    Update {
        tag: Tag(0x0102),
        prev_tag: Tag(3),
        statement: Digest([0xAB; 16]),
        params: vec![Value::Text("steve".into()), Value::Int(1)],
        old: Vec::new(),
        hlc: Hlc(1 << 16),
        rows: 1,
        seen: Vec::new(),
        undoes: None,
        held: false,
        request_id: None,
    }
}

fn update() -> Update {
    Update {
        params: values(),
        old: vec![Value::Int(1)],
        seen: vec![(RegionKey(5), Seq(300))],
        undoes: Some(Seq(9)),
        request_id: Some([1; 16]),
        ..plain()
    }
}

fn values() -> Vec<Value> {
    vec![
        Value::Null,
        Value::Bool(true),
        Value::Int(-2),
        Value::Float(1.5),
        Value::Decimal("1.50".into()),
        Value::Text("ä".into()),
        Value::Bytes(vec![0, 255]),
        Value::Uuid([7; 16]),
        Value::Timestamp(1),
        Value::Json("{}".into()),
    ]
}

/// As the node's own test has it.
fn entry() -> Vec<u8> {
    let mut bytes = b"\x01\x03add".to_vec();
    bytes.extend([2; 16]);
    bytes.extend(b"\x02\x02\x01\x05\x01x");
    bytes.extend([3; 16]);
    bytes.extend([4; 16]);
    assert!(prism_node::hooks::entry(&bytes).is_some(), "an entry");
    bytes
}

/// Groups of so many records, and the first two done.
fn journal(groups: &[u8]) -> Vec<u8> {
    let disk = Memory::default();
    let opened = Journal::open_on(disk.clone(), Path::new("/j"), OPTIONS);
    let (mut journal, _) = opened.expect("an empty directory");
    for count in groups {
        let records: Vec<_> = (0..*count).map(|i| vec![i; 20]).collect();
        journal.append(&records).expect("memory is never full");
    }
    if groups.len() > 2 {
        journal.trim(2).expect("memory is never full");
    }
    drop(journal);
    pack(&disk)
}
