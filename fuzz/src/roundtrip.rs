//! What is written is read, and is the same: frames, updates, batches. The input is what shall be
//! written; frames that contradict themselves are refused as a whole datagram.

use arbitrary::Arbitrary;
use prism_db::{Digest, Hlc, Update, Value};
use prism_net::Batch;
use prism_proto::wire::{self, Ack, Credit, Frame, Header, Nack, Progress, Run, Writer};
use prism_proto::{ApplyCause, Epoch, Position, Refusal, RefusalClass, RegionKey, Seq, Tag};

#[derive(Debug, Arbitrary)]
struct Input {
    header: (u32, u32, u64),
    frames: Vec<AnyFrame>,
    update: AnyUpdate,
    batch: (u64, Vec<Vec<u8>>),
}

#[derive(Debug, Arbitrary)]
enum AnyFrame {
    Ping,
    Hello(u32, u64, u64),
    Welcome(u32, AnyProgress),
    Ack(u64, u32, u64, Vec<(u64, u64)>, Option<AnyProgress>),
    /// A sound one: lengths of ranges and gaps, from the lowest up.
    Ranges(u64, Vec<(u8, u8)>),
    Missing(u64, u64),
    Refused(u64, u64, [u8; 5], u8),
    Unavailable(u32),
    Gap(u64),
    Waiting(u8),
    RefusedAck(u64, u64),
    Updates(u64, Vec<Vec<u8>>),
    RawUpdates(u64, Vec<u8>),
    Fragment(u64, u32, u16, u16, Vec<u8>),
    Appended(u64),
    Acked(u32, u64, u64),
}

#[derive(Debug, Arbitrary)]
struct AnyProgress {
    position: (u64, u64, u64),
    clean: u64,
    credit: (u32, u32),
}

#[derive(Debug, Arbitrary)]
struct AnyUpdate {
    tags: (u64, u64),
    statement: [u8; 16],
    params: Vec<AnyValue>,
    old: Vec<AnyValue>,
    hlc: u64,
    rows: u64,
    seen: Vec<(u32, u64)>,
    undoes: Option<u64>,
    held: bool,
    request_id: Option<[u8; 16]>,
}

#[derive(Debug, Arbitrary)]
enum AnyValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Decimal(String),
    Text(String),
    Bytes(Vec<u8>),
    Uuid([u8; 16]),
    Timestamp(i64),
    Json(String),
}

impl From<AnyValue> for Value {
    fn from(value: AnyValue) -> Self {
        match value {
            AnyValue::Null => Self::Null,
            AnyValue::Bool(b) => Self::Bool(b),
            AnyValue::Int(n) => Self::Int(n),
            AnyValue::Float(f) => Self::Float(f),
            AnyValue::Decimal(s) => Self::Decimal(s),
            AnyValue::Text(s) => Self::Text(s),
            AnyValue::Bytes(b) => Self::Bytes(b),
            AnyValue::Uuid(u) => Self::Uuid(u),
            AnyValue::Timestamp(us) => Self::Timestamp(us),
            AnyValue::Json(s) => Self::Json(s),
        }
    }
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some(input) = super::structured::<Input>(bytes) else {
        return;
    };
    frames(input.header, &input.frames);
    update(input.update);
    batch(&input.batch);
}

fn frames((from, to, pn): (u32, u32, u64), any: &[AnyFrame]) {
    let runs: Vec<Vec<u8>> = any.iter().map(run_of).collect();
    let written: Vec<Frame<'_>> = (any.iter().zip(&runs))
        .map(|(any, run)| frame(any, run))
        .collect();
    let mut buffer = vec![0; 4096 + written.len() * 700 + runs.iter().map(Vec::len).sum::<usize>()];
    let header = Header { from, to, pn };
    let mut writer = Writer::new(&mut buffer, header).expect("there is room");
    for frame in &written {
        assert!(writer.push(frame), "there is room");
    }
    let len = writer.written();
    match wire::decode(&buffer[..len]) {
        Ok((again, read)) => {
            assert_eq!(again, header);
            assert!(read.eq(written.iter().cloned()));
            assert!(written.iter().all(sound), "{written:?}");
        }
        Err(error) => assert!(!written.iter().all(sound), "{error}: {written:?}"),
    }
    for (any, run) in any.iter().zip(&runs) {
        if let AnyFrame::Updates(_, payloads) = any {
            assert_eq!(Run::count(run), Some(payloads.len() as u64));
            assert!(Run::new(run).eq(payloads.iter().map(Vec::as_slice)));
        }
    }
}

/// The bytes that a frame borrows.
fn run_of(frame: &AnyFrame) -> Vec<u8> {
    match frame {
        AnyFrame::Updates(_, payloads) => {
            let mut run = Vec::new();
            for payload in payloads {
                // A varint.
                let mut len = payload.len();
                while len > 0x7f {
                    run.push(len as u8 | 0x80);
                    len >>= 7;
                }
                run.push(len as u8);
                run.extend_from_slice(payload);
            }
            run
        }
        AnyFrame::RawUpdates(_, bytes) | AnyFrame::Fragment(.., bytes) => bytes.clone(),
        _ => Vec::new(),
    }
}

fn progress(any: &AnyProgress) -> Progress {
    Progress {
        position: Position {
            epoch: Epoch(any.position.0),
            seq: Seq(any.position.1),
            tag: Tag(any.position.2),
        },
        clean: Seq(any.clean),
        credit: Credit {
            updates: any.credit.0,
            bytes: any.credit.1,
        },
    }
}

fn frame<'a>(any: &AnyFrame, bytes: &'a [u8]) -> Frame<'a> {
    let causes = [
        ApplyCause::Unreachable,
        ApplyCause::Busy,
        ApplyCause::Dependency,
        ApplyCause::Parked,
        ApplyCause::Forked,
    ];
    match any {
        AnyFrame::Ping => Frame::Ping,
        AnyFrame::Hello(token, epoch, tail) => Frame::Hello {
            token: *token,
            epoch: Epoch(*epoch),
            tail: Seq(*tail),
        },
        AnyFrame::Welcome(token, any) => {
            let progress = progress(any);
            Frame::Welcome {
                token: *token,
                position: progress.position,
                clean: progress.clean,
                credit: progress.credit,
            }
        }
        AnyFrame::Ack(largest, delay_us, first, ranges, any) => {
            let mut ack = Ack {
                largest: *largest,
                delay_us: *delay_us,
                first: *first,
                more: Default::default(),
                progress: any.as_ref().map(progress),
            };
            for range in ranges {
                let _ = ack.more.push(*range);
            }
            Frame::Ack(ack)
        }
        AnyFrame::Ranges(low, ranges) => {
            let take = ranges.len().min(wire::MORE_RANGES);
            let mut ack = Ack {
                largest: u64::from(u32::try_from(*low).unwrap_or(u32::MAX)),
                delay_us: 0,
                first: 0,
                more: Default::default(),
                progress: None,
            };
            for (gap, before) in ranges[..take].iter().rev() {
                let _ = ack.more.push((u64::from(*gap), u64::from(*before)));
                ack.largest += u64::from(*gap) + 2 + u64::from(*before);
            }
            Frame::Ack(ack)
        }
        AnyFrame::Missing(from, to) => Frame::Nack(Nack::Missing {
            from: Seq(*from),
            to: Seq(*to),
        }),
        AnyFrame::Refused(epoch, seq, sqlstate, class) => Frame::Nack(Nack::Refused(Refusal {
            epoch: Epoch(*epoch),
            seq: Seq(*seq),
            class: [RefusalClass::Data, RefusalClass::Constraint][usize::from(*class) % 2],
            sqlstate: *sqlstate,
        })),
        AnyFrame::Unavailable(retry_ms) => Frame::Nack(Nack::Unavailable {
            retry_ms: *retry_ms,
        }),
        AnyFrame::Gap(need) => Frame::Nack(Nack::Gap { need: Seq(*need) }),
        AnyFrame::Waiting(cause) => Frame::Nack(Nack::Waiting {
            cause: causes[usize::from(*cause) % causes.len()],
        }),
        AnyFrame::RefusedAck(epoch, seq) => Frame::RefusedAck {
            epoch: Epoch(*epoch),
            seq: Seq(*seq),
        },
        AnyFrame::Updates(first, _) | AnyFrame::RawUpdates(first, _) => Frame::Updates {
            first: Seq(*first),
            run: bytes,
        },
        AnyFrame::Fragment(seq, total, chunk, index, _) => Frame::Fragment {
            seq: Seq(*seq),
            total: *total,
            chunk: *chunk,
            index: *index,
            bytes,
        },
        AnyFrame::Appended(tail) => Frame::Appended { tail: Seq(*tail) },
        AnyFrame::Acked(region, seq, clean) => Frame::Acked {
            region: RegionKey(*region),
            seq: Seq(*seq),
            clean: Seq(*clean),
        },
    }
}

/// What a datagram may say: written down once more, in numbers that cannot overflow.
fn sound(frame: &Frame<'_>) -> bool {
    match frame {
        Frame::Ack(ack) => {
            let mut low = i128::from(ack.largest) - i128::from(ack.first);
            let mut fits = low >= 0;
            for (gap, before) in &ack.more {
                low -= i128::from(*gap) + 2 + i128::from(*before);
                fits &= low >= 0;
            }
            fits && ack.progress.is_none_or(|p| p.clean <= p.position.seq)
        }
        Frame::Welcome {
            position, clean, ..
        } => clean <= &position.seq,
        Frame::Acked { seq, clean, .. } => clean <= seq,
        Frame::Nack(Nack::Missing { from, to }) => from <= to,
        Frame::Nack(Nack::Refused(refusal)) => {
            let printable = |c: &u8| c.is_ascii_graphic() || *c == b' ';
            refusal.seq.0 > 0 && refusal.sqlstate.iter().all(printable)
        }
        Frame::Updates { first, run } => {
            let count = Run::count(run);
            first.0 > 0 && count.is_some_and(|n| u128::from(first.0) + u128::from(n) < 1 << 64)
        }
        Frame::Fragment {
            seq,
            total,
            chunk,
            index,
            bytes,
        } => {
            let from = u64::from(*chunk) * u64::from(*index);
            let to = u64::from(*total).min(from + u64::from(*chunk));
            seq.0 > 0 && seq.0 < u64::MAX && from < to && bytes.len() as u64 == to - from
        }
        _ => true,
    }
}

fn update(any: AnyUpdate) {
    let update = Update {
        tag: Tag(any.tags.0),
        prev_tag: Tag(any.tags.1),
        statement: Digest(any.statement),
        params: any.params.into_iter().map(Value::from).collect(),
        old: any.old.into_iter().map(Value::from).collect(),
        hlc: Hlc(any.hlc),
        rows: any.rows,
        seen: (any.seen.into_iter())
            .map(|(key, seq)| (RegionKey(key), Seq(seq)))
            .collect(),
        undoes: any.undoes.map(Seq),
        held: any.held,
        request_id: any.request_id,
    };
    // Both backends have signed numbers, and a clock has to have room to tick.
    let most = i64::MAX as u64;
    let valid = update.hlc.0 <= most - (1 << 56)
        && update.undoes.is_none_or(|seq| seq.0 <= most)
        && update.seen.iter().all(|(_, seq)| seq.0 <= most)
        && (update.params.iter().chain(&update.old)).all(Value::is_valid);
    let encoded = update.encode();
    match Update::decode(&encoded) {
        Ok(read) => assert!(valid && read == update),
        Err(error) => assert!(!valid || encoded.len() > prism_db::MAX_UPDATE, "{error}"),
    }
}

fn batch((first, updates): &(u64, Vec<Vec<u8>>)) {
    let first = *first >> 1;
    let mut batch = Batch::default();
    batch.reset(Seq(first));
    updates.iter().for_each(|update| batch.push(update));
    assert_eq!(batch.len(), updates.len());
    assert!(
        (batch.iter()).eq((first..).map(Seq).zip(updates.iter().map(Vec::as_slice))),
        "a batch is what was pushed"
    );
}
