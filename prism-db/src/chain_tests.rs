//! Numbering, and the course of doubles and undos.

use super::*;

fn update(undoes: Option<u64>) -> Update {
    Update {
        tag: Tag(1),
        prev_tag: Tag(0),
        statement: Digest([1; 16]),
        params: Vec::new(),
        old: Vec::new(),
        hlc: Hlc(0),
        rows: 1,
        seen: Vec::new(),
        undoes: undoes.map(Seq),
        held: false,
        request_id: Some([1; 16]),
    }
}

const BODY: Digest = Digest([7; 16]);

fn row(stream: &str, seq: Option<u64>, state: RequestState) -> RequestRow {
    RequestRow {
        request_id: [1; 16],
        body: BODY,
        stream: stream.to_owned(),
        seq: seq.map(Seq),
        state,
    }
}

fn refused() -> RequestState {
    RequestState::Refused {
        sqlstate: "23505".into(),
        message: String::new(),
    }
}

fn undone() -> RequestState {
    RequestState::Undone(UndoReason::Crashed)
}

#[test]
fn the_second_copy_of_a_request_is_a_double_whatever_became_of_the_first() {
    let of = |row: &RequestRow| course(("EU", Seq(5)), &update(None), BODY, Some(row), false);
    for state in [RequestState::Committed, refused(), undone()] {
        assert_eq!(of(&row("NA", Some(5), state)), Course::Double);
    }
    assert_eq!(of(&row("NA", Some(9), RequestState::Held)), Course::Wait);
    let first = course(("EU", Seq(5)), &update(None), BODY, None, false);
    assert_eq!(first, Course::Run);
    assert_eq!(
        of(&row("NA", None, refused())),
        Course::Run,
        "refused to a client here: the other region has taken it"
    );
    let other = RequestRow {
        body: Digest([8; 16]),
        ..row("NA", Some(5), RequestState::Committed)
    };
    assert_eq!(of(&other), Course::Run, "another update, the same id");
}

#[test]
fn an_undo_takes_back_what_has_an_effect_here() {
    let of = |row: Option<&RequestRow>, refused| {
        course(("EU", Seq(6)), &update(Some(5)), BODY, row, refused)
    };
    let committed = |stream| row(stream, Some(5), RequestState::Committed);
    assert_eq!(of(None, false), Course::Undo);
    assert_eq!(of(None, true), Course::NothingToUndo);
    assert_eq!(of(Some(&committed("EU")), false), Course::Undo);
    assert_eq!(of(Some(&committed("EU")), true), Course::NothingToUndo);
    assert_eq!(
        of(Some(&committed("NA")), false),
        Course::Undo,
        "its copy of another stream was executed"
    );
    for state in [refused(), undone()] {
        assert_eq!(
            of(Some(&row("NA", Some(3), state)), false),
            Course::NothingToUndo
        );
    }
    assert_eq!(
        of(Some(&row("NA", Some(3), RequestState::Held)), false),
        Course::Wait
    );
}

#[test]
fn the_clock_of_updates_never_goes_back_though_the_wall_clock_does() {
    const HOUR: i64 = 3_600_000_000;
    let mut tail = Tail {
        next_seq: Seq(1),
        last_tag: Tag(0),
        hlc: Hlc(0),
    };
    let mut before = Hlc(0);
    let noon = 1_800_000_000_000_000;
    for now in [noon, noon - HOUR, noon + HOUR, noon, noon + HOUR + 1_000] {
        let submission = Submission {
            statement: Digest([1; 16]),
            params: Vec::new(),
            request_id: None,
        };
        let executed = Executed {
            rows: 1,
            old: Vec::new(),
        };
        let drafts = vec![Draft::of(&submission, executed)];
        let (next, numbered) = number(tail, drafts, &[], now, MAX_UPDATE).expect("fits");
        let update = &numbered[0].0.update;
        assert!(update.hlc > before && update.prev_tag == tail.last_tag);
        assert!(update.hlc.0 >> 16 >= (now / 1000).cast_unsigned());
        before = update.hlc;
        tail = next;
    }
    assert_eq!(tail.next_seq, Seq(6));
}

#[test]
fn the_undo_of_the_largest_update_still_fits() {
    let tail = Tail {
        next_seq: Seq(u64::MAX / 4),
        last_tag: Tag(u64::MAX),
        hlc: Hlc(1 << 62),
    };
    let of_size = |size| Submission {
        statement: Digest([1; 16]),
        params: vec![Value::Bytes(vec![1; size])],
        request_id: Some([1; 16]),
    };
    let executed = || Executed {
        rows: 1,
        old: Vec::new(),
    };
    let attempt = |size| {
        let drafts = vec![Draft::of(&of_size(size), executed())];
        number(tail, drafts, &[], 0, MAX_UPDATE)
    };
    let largest = (MAX_UPDATE - 2 * UNDO_ROOM..MAX_UPDATE - UNDO_ROOM)
        .rev()
        .find_map(|size| attempt(size).ok())
        .expect("some size fits");
    let original = &largest.1[0].0;
    let seen: Vec<_> = (0..60)
        .map(|n| (RegionKey(u32::MAX - n), Seq(u64::MAX >> 1)))
        .collect();
    let undo = Draft::undo(original.seq, &original.update, u64::MAX);
    let (_, numbered) = number(largest.0, vec![undo], &seen, 0, 10).expect("the undo fits");
    assert!(Update::decode(&numbered[0].1).is_ok());
}

#[test]
fn a_notice_is_told_from_an_update() {
    let draft = Draft::notice(Seq(5), "23505", &"ä\0".repeat(5_000));
    let tail = Tail {
        next_seq: Seq(6),
        last_tag: Tag(0),
        hlc: Hlc(0),
    };
    let (_, numbered) = number(tail, vec![draft], &[], 0, 10).expect("fits");
    let update = Update::decode(&numbered[0].1).expect("update");
    assert_eq!(update.notice().map(|(state, _)| state), Some("23505"));
    assert_eq!(self::update(Some(5)).notice(), None);
}

#[test]
fn a_guarded_undo_may_affect_no_row() {
    assert!(counts(&update(None), true));
    assert!(counts(&update(Some(1)), false));
    assert!(!counts(&update(Some(1)), true));
    let unknown = Update {
        rows: u64::MAX,
        ..update(None)
    };
    assert!(!counts(&unknown, false));
}
