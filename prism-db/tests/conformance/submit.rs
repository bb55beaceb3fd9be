//! Submitting: numbers, order, isolation of what is bad.

use std::time::Duration;

use prism_db::submit::{SubmitError, submit, submit_chains, submit_in_turn};
use prism_db::{Submission, Update, Value};
use prism_proto::{RegionKey, Seq, Tag};

use crate::flaky::{Fate, Flaky};
use crate::world::{Backend, World, pattern, seqs, text, with_id};

/// Gapless, and each update names the one before it.
fn assert_chain(updates: &[(Seq, Vec<u8>)]) -> Vec<Update> {
    let mut before = Tag(0);
    let mut clock = prism_db::Hlc(0);
    let mut decoded = Vec::new();
    for (n, (seq, bytes)) in (1..).zip(updates) {
        let update = Update::decode(bytes).expect("update");
        assert_eq!((seq.0, update.prev_tag), (n, before));
        assert!(update.hlc > clock && update.tag != Tag(0));
        before = update.tag;
        clock = update.hlc;
        decoded.push(update);
    }
    decoded
}

pub fn concurrent_submitters_get_gapless_seqs_in_commit_order<B: Backend>(world: &World<B>) {
    const THREADS: usize = 4;
    const BATCHES: usize = 12;
    let mut options = world.na.options.clone();
    options.lock_timeout = Duration::from_secs(30);
    let batches: Vec<Vec<Vec<Submission>>> = (0..THREADS)
        .map(|thread| {
            let word = |batch, i| world.append(&format!("{thread}-{batch}-{i}"));
            (0..BATCHES)
                .map(|batch| (0..=batch % 3).map(|i| word(batch, i)).collect())
                .collect()
        })
        .collect();
    std::thread::scope(|scope| {
        for mine in &batches {
            let (url, options) = (&world.na.url, options.clone());
            scope.spawn(move || {
                let mut db = prism_db::open(url, options).expect("address");
                for batch in mine {
                    let answers = submit(&mut *db, batch);
                    let got = seqs(&answers);
                    assert_eq!(got.len(), batch.len(), "{answers:?}");
                    assert!(got.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                }
            });
        }
    });
    let updates = assert_chain(&world.outbox(&world.na));
    let words: Vec<_> = updates
        .iter()
        .map(|update| match &update.params[0] {
            Value::Text(word) => word.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    let total: usize = batches.iter().flatten().map(Vec::len).sum();
    assert_eq!(words.len(), total);
    assert_eq!(
        world.trace_at(&world.na),
        words.join(" "),
        "seq order is commit order"
    );
}

pub fn a_bad_update_fails_alone_and_the_order_is_kept<B: Backend>(world: &World<B>) {
    let batch = [
        world.append("1"),
        world.kills(5000),
        world.append("2"),
        world.call("add_user", &[text("steve"), text("again")]),
        world.call("add_note", &[text("n"), text("nobody")]),
        world.append("3"),
        world.kills(1),
    ];
    let answers = submit(&mut *world.na.open(), &batch);
    assert_eq!(pattern(&answers), "+R+RR++");
    assert_eq!(seqs(&answers), [1, 2, 3, 4]);
    assert_eq!(world.trace_at(&world.na), "1 2 3");
    assert_eq!(world.kills_at(&world.na), 1);
    let states: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Err(SubmitError::Refused { sqlstate, message }) => {
                assert!(!message.is_empty());
                Some(sqlstate.as_str())
            }
            _ => None,
        })
        .collect();
    assert_eq!(states, ["23514", "23505", "23503"]);
    assert_chain(&world.outbox(&world.na));
}

pub fn a_deferred_constraint_fails_alone<B: Backend>(world: &World<B>) {
    let batch = [
        world.append("1"),
        world.call("add_later", &[text("n"), text("nobody")]),
        world.append("2"),
        world.append("3"),
    ];
    let answers = submit(&mut *world.na.open(), &batch);
    assert_eq!(pattern(&answers), "+R++");
    assert_eq!(world.trace_at(&world.na), "1 2 3");
    assert_eq!(world.sql(&world.na).one("SELECT count(*) FROM later"), "0");
    assert_chain(&world.outbox(&world.na));
}

pub fn an_update_over_the_limit_fails_alone<B: Backend>(world: &World<B>) {
    let mut options = world.na.options.clone();
    options.max_update = 1000;
    let mut db = prism_db::open(&world.na.url, options).expect("address");
    let batch = [
        world.append("1"),
        world.append(&"x".repeat(1001)),
        world.append("2"),
    ];
    let answers = submit(&mut *db, &batch);
    assert_eq!(pattern(&answers), "+L+");
    assert!(
        matches!(&answers[1], Err(SubmitError::TooLarge { size, limit: 1000 }) if *size > 1001)
    );
    assert_eq!(world.trace_at(&world.na), "1 2");
}

/// Whoever links the crate can hand over anything.
pub fn parameters_that_no_peer_could_read_fail_alone<B: Backend>(world: &World<B>) {
    let with = |params: Vec<Value>| Submission {
        params,
        ..world.kills(1)
    };
    let store = |float: f64| Submission {
        params: (0..10)
            .map(|i| match i {
                0 => text("x"),
                3 => Value::Float(float),
                _ => Value::Null,
            })
            .collect(),
        ..world.call("store", &vec![Value::Null; 10])
    };
    let batch = [
        world.append("1"),
        with(vec![text("steve")]),
        with(vec![text("steve"), text("1")]),
        store(f64::NAN),
        with(vec![text("a\0b"), Value::Int(1)]),
        world.append("2"),
    ];
    let answers = submit(&mut *world.na.open(), &batch);
    assert_eq!(pattern(&answers), "+NNRR+");
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.executed, outcome.wait), (2, None));
}

pub fn a_missing_table_is_the_operators_matter<B: Backend>(world: &World<B>) {
    world.sql(&world.na).run("DROP TABLE extras");
    let batch = [
        world.append("1"),
        world.call("bump", &[text("e")]),
        world.append("2"),
    ];
    let answers = submit(&mut *world.na.open(), &batch);
    assert_eq!(pattern(&answers), "+N+");
    let said = answers[1].as_ref().expect_err("not ready").to_string();
    assert!(said.contains("extras"), "{said}");
    assert_eq!(world.trace_at(&world.na), "1 2");
}

pub fn a_locked_row_blocks_and_nothing_is_written<B: Backend>(world: &World<B>) {
    let mut other = world.sql(&world.na);
    let mut db = world.na.open();
    other.hold_users();
    let answers = submit(&mut *db, &[world.kills(1)]);
    other.let_go();
    assert_eq!(pattern(&answers), "B", "{answers:?}");
    assert_eq!(world.kills_at(&world.na), 0);
    assert!(world.outbox(&world.na).is_empty());
    // The same connection goes on.
    assert_eq!(seqs(&submit(&mut *db, &[world.kills(1)])), [1]);
    assert_eq!(world.kills_at(&world.na), 1);
}

pub fn old_values_are_read_just_before<B: Backend>(world: &World<B>) {
    let rename = |name: &str| world.call("rename", &[text("steve"), text(name)]);
    let batch = [rename("S1"), world.kills(7), rename("S2")];
    let answers = world.submit(&world.na, &batch);
    assert_eq!(answers[0].update.old, [text("Steve"), Value::Int(0)]);
    assert_eq!(answers[2].update.old, [text("S1"), Value::Int(7)]);
    assert_eq!(answers[2].update.rows, 1);
    let nobody = world.call("rename", &[text("nobody"), text("x")]);
    let none = world.submit(&world.na, &[nobody]).remove(0);
    assert_eq!(none.update.old, [Value::Null, Value::Null]);
    assert_eq!(none.update.rows, 0);
    assert_chain(&world.outbox(&world.na));
}

pub fn an_ambiguous_commit_is_found_by_its_request_id<B: Backend>(world: &World<B>) {
    let mut db = Flaky::new(world.na.open(), vec![Fate::Lost, Fate::CommittedUnheard]);
    let batch = [world.append("1"), world.append("2")];
    let answers = submit(&mut db, &batch);
    assert_eq!(
        (pattern(&answers), seqs(&answers)),
        ("++".into(), vec![1, 2])
    );
    // Not committed, and known not to be.
    assert_eq!(pattern(&submit(&mut db, &[world.append("3")])), "U");
    assert_eq!(world.trace_at(&world.na), "1 2");

    let mut id = world.append("4");
    id.request_id = Some([4; 16]);
    let seq = world.submit(&world.na, &[id])[0].seq;
    let found = db.inner.outbox_find(&[4; 16]).expect("look");
    assert_eq!(found.map(|committed| committed.seq), Some(seq));
    assert_eq!(db.inner.outbox_find(&[5; 16]).expect("look"), None);
}

/// What is not written now runs later, from the journal: an update behind it that is committed at
/// once, because the database is back, would have overtaken it.
pub fn nothing_overtakes_an_update_that_the_database_lost_in_between<B: Backend>(world: &World<B>) {
    let batch = [world.append("1"), world.kills(5000), world.append("2")];
    // The whole fails because of the second; then the first alone is lost.
    let mut db = Flaky::new(world.na.open(), vec![Fate::Lost, Fate::Fine]);
    assert_eq!(pattern(&submit(&mut db, &batch)), "UUU");
    assert_eq!(world.trace_at(&world.na), "");
    assert_eq!(pattern(&submit(&mut db, &batch)), "+R+");
    assert_eq!(world.trace_at(&world.na), "1 2");
}

pub fn nothing_overtakes_an_update_that_was_not_tried<B: Backend>(world: &World<B>) {
    let batch = [
        world.append("1"),
        world.append("other"),
        world.kills(5000),
        world.append("2"),
        world.append("other too"),
    ];
    let mut db = Flaky::new(world.na.open(), vec![Fate::Late, Fate::Late, Fate::Fine]);
    let answers = submit_chains(&mut db, &batch, &[0, 1, 0, 0, 2]);
    assert_eq!(pattern(&answers), "B+--+");
    assert_eq!(world.trace_at(&world.na), "other other too");
}

/// What waits on disk is told as refused before the next one runs: if nobody hears of the refusal, it
/// is tried again, and must not come behind them.
pub fn what_runs_in_turn_stops_behind_a_refusal<B: Backend>(world: &World<B>) {
    let mut db = world.na.open();
    let known = with_id(world.append("1"), 1);
    let batch = [
        known.clone(),
        world.append("2"),
        world.kills(5000),
        world.append("3"),
        world.kills(5000),
    ];
    db.submit(&[known]).expect("submitted");
    assert_eq!(pattern(&submit_in_turn(&mut *db, &batch)), "=+R--");
    assert_eq!(world.trace_at(&world.na), "1 2");
    assert_eq!(pattern(&submit_in_turn(&mut *db, &batch[3..])), "+R");
    // The id of another update.
    let reused = [
        world.append("4"),
        with_id(world.append("5"), 1),
        world.append("6"),
    ];
    assert_eq!(pattern(&submit_in_turn(&mut *db, &reused)), "+!-");
    assert_eq!(world.trace_at(&world.na), "1 2 3 4");
}

pub fn updates_name_what_their_origin_had_seen<B: Backend>(world: &World<B>) {
    world.submit(&world.asia, &[world.append("a"), world.append("b")]);
    let first = world.submit(&world.na, &[world.append("1")]).remove(0);
    assert!(first.update.seen.is_empty());
    world.ship(&world.asia, &world.na);
    let second = world.submit(&world.na, &[world.append("2")]).remove(0);
    assert_eq!(second.update.seen, [(RegionKey::of("AS"), Seq(2))]);
    let far = world.outbox(&world.asia);
    let there = Update::decode(&far[1].1).expect("update").hlc;
    assert!(
        second.update.hlc > there,
        "the clock runs behind nothing applied"
    );
    assert_eq!(world.na.open().hlc().expect("clock"), second.update.hlc);
}
