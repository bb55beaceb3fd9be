//! Packet counters in any order: the window says what a set of everything seen would say.

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use prism_net::fuzzing::Window;

#[derive(Debug, Arbitrary)]
enum Step {
    Near(i8),
    Edge(i8),
    Jump(u32),
    Any(u64),
    /// From the highest counter there is.
    Top(u16),
}

/// What the window means, with unbounded memory.
#[derive(Default)]
struct Model {
    seen: BTreeSet<u64>,
}

impl Model {
    fn accept(&mut self, counter: u64) -> bool {
        let newest = self.seen.last().copied().unwrap_or(0);
        if counter == u64::MAX || newest.saturating_sub(counter) >= Window::LENGTH {
            return false;
        }
        self.seen.insert(counter)
    }
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some((start, steps)) = super::structured::<(u64, Vec<Step>)>(bytes) else {
        return;
    };
    let (mut window, mut model) = (Window::new(), Model::default());
    let mut newest = start;
    for step in steps {
        let counter = match step {
            Step::Near(by) => newest.saturating_add_signed(by.into()),
            Step::Edge(by) => newest
                .saturating_sub(Window::LENGTH)
                .saturating_add_signed(by.into()),
            Step::Jump(by) => newest.saturating_add(by.into()),
            Step::Any(counter) => counter,
            Step::Top(below) => u64::MAX - u64::from(below),
        };
        let fresh = window.is_fresh(counter);
        assert_eq!(fresh, window.clone().accept(counter), "{counter}");
        if window.accept(counter) {
            newest = newest.max(counter);
            assert!(model.accept(counter), "{counter} is accepted twice, or too late");
        } else {
            assert!(!model.accept(counter), "{counter} is refused");
        }
    }
}
