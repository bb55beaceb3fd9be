//! Judges the databases: equal, and every acknowledged update in each of them exactly once.

use std::collections::HashMap;

use super::database::{Content, counter};
use super::load::{Expected, Tries};

/// Problems listed at most; the rest is only counted.
const LISTED: usize = 8;

/// Everything that is wrong; nothing if the promise holds.
pub(super) fn check(contents: &[(&str, Content)], expected: &Expected) -> Vec<String> {
    let mut problems = Vec::new();
    for (region, content) in contents {
        for (i, tries) in expected.counters.iter().enumerate() {
            let name = counter(i);
            let n = content.counters.get(&name).copied().unwrap_or(0);
            judge(&mut problems, region, &name, n, *tries);
        }
        let mut known = HashMap::new();
        for (id, origin, tries) in &expected.notes {
            let key = (id.clone(), origin.clone());
            let n = content.notes.get(&key).copied().unwrap_or(0);
            judge(&mut problems, region, &format!("note {id}"), n, *tries);
            known.insert(key, ());
        }
        for (id, origin) in content.notes.keys() {
            if !known.contains_key(&(id.clone(), origin.clone())) {
                problems.push(format!(
                    "{region}: note {id} of {origin} comes from nowhere"
                ));
            }
        }
    }
    if let Some(((first, content), rest)) = contents.split_first() {
        for (region, other) in rest {
            if other != content {
                problems.push(format!("the databases of {first} and {region} differ"));
            }
        }
    }
    if problems.len() > LISTED {
        let more = problems.len() - LISTED;
        // The last ones compare whole databases: they stay.
        problems.drain(LISTED / 2..LISTED / 2 + more);
        problems.push(format!("and {more} more"));
    }
    problems
}

fn judge(problems: &mut Vec<String>, region: &str, what: &str, n: i64, tries: Tries) {
    let (least, most) = (tries.acknowledged, tries.acknowledged + tries.unknown);
    if n < least {
        problems.push(format!(
            "{region}: {what} is there {n} times, {least} were acknowledged"
        ));
    } else if n > most {
        problems.push(format!(
            "{region}: {what} is there {n} times, only {most} were submitted"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(count: i64, notes: &[(&str, i64)]) -> Content {
        Content {
            counters: [(counter(0), count)].into(),
            notes: notes
                .iter()
                .map(|(id, n)| (((*id).to_owned(), "NA".to_owned()), *n))
                .collect(),
        }
    }

    fn expected() -> Expected {
        let mut expected = Expected::default();
        expected.counters[0] = Tries {
            acknowledged: 3,
            unknown: 1,
        };
        let once = Tries {
            acknowledged: 1,
            unknown: 0,
        };
        expected.notes.push(("a".into(), "NA".into(), once));
        expected
    }

    #[test]
    fn exactly_once_and_equal_is_what_passes() {
        for n in [3, 4] {
            let good = content(n, &[("a", 1)]);
            let all = [("NA", good.clone()), ("EU", good)];
            assert_eq!(check(&all, &expected()), Vec::<String>::new());
        }
    }

    #[test]
    fn lost_doubled_foreign_and_different_do_not() {
        for (bad, word) in [
            (content(2, &[("a", 1)]), "3 were acknowledged"),
            (content(5, &[("a", 1)]), "only 4 were submitted"),
            (content(3, &[]), "note a is there 0 times"),
            (content(3, &[("a", 2)]), "note a is there 2 times"),
            (content(3, &[("a", 1), ("b", 1)]), "comes from nowhere"),
        ] {
            let problems = check(&[("EU", bad)], &expected());
            assert!(
                problems.iter().any(|p| p.contains(word)),
                "{word}: {problems:?}"
            );
        }
        let all = [
            ("NA", content(3, &[("a", 1)])),
            ("EU", content(4, &[("a", 1)])),
        ];
        assert_eq!(
            check(&all, &expected()),
            ["the databases of NA and EU differ"]
        );
    }
}
