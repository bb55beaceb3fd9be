//! The choice of a rung: one pure function.

use core::time::Duration;

use crate::Policy;

/// What is known of a node when a rung is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Health {
    /// It was given up, and has not yet proven itself again.
    pub failed: bool,
    /// Smoothed round-trip time, if measured.
    pub srtt: Option<Duration>,
}

/// A rung of the ladder; nodes by their place in the failover order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rung {
    /// UDP to the node at this place.
    Node(u8),
    /// SQL to the region's database.
    Direct,
    /// Wait.
    Parked,
}

/// Picks the best rung: a healthy node, else the direct path if `direct`, else waiting.
///
/// [`Policy::Fastest`] leaves a healthy current node only for one that is a quarter faster, so that
/// noise in the measurement moves nobody.
#[must_use]
pub fn select(nodes: &[Health], direct: bool, current: Option<Rung>, policy: Policy) -> Rung {
    let healthy = nodes
        .iter()
        .enumerate()
        .filter(|(_, health)| !health.failed);
    let best = match policy {
        Policy::Ordered => healthy.map(|(i, _)| i).next(),
        Policy::Fastest => healthy
            .min_by_key(|(i, health)| (health.srtt.unwrap_or(Duration::MAX), *i))
            .map(|(i, _)| i),
    };
    let Some(best) = best else {
        return if direct { Rung::Direct } else { Rung::Parked };
    };
    if let (Policy::Fastest, Some(Rung::Node(now))) = (policy, current)
        && let Some(here) = nodes.get(usize::from(now)).filter(|here| !here.failed)
    {
        let better = match (nodes[best].srtt, here.srtt) {
            (Some(there), Some(here)) => there < here / 4 * 3,
            _ => false,
        };
        if !better {
            return Rung::Node(now);
        }
    }
    Rung::Node(u8::try_from(best).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn health() -> impl Strategy<Value = Health> {
        (any::<bool>(), proptest::option::of(1u64..1000)).prop_map(|(failed, ms)| Health {
            failed,
            srtt: ms.map(Duration::from_millis),
        })
    }

    proptest! {
        #[test]
        fn never_picks_a_failed_node_while_another_rung_is_left(
            nodes in proptest::collection::vec(health(), 0..8), direct: bool, current in 0u8..8, fastest: bool,
        ) {
            let policy = if fastest { Policy::Fastest } else { Policy::Ordered };
            let healthy: Vec<usize> = (0..nodes.len()).filter(|i| !nodes[*i].failed).collect();
            match select(&nodes, direct, Some(Rung::Node(current)), policy) {
                Rung::Node(i) => {
                    let i = usize::from(i);
                    prop_assert!(!nodes[i].failed);
                    match policy {
                        Policy::Ordered => prop_assert_eq!(Some(&i), healthy.first()),
                        Policy::Fastest => for j in healthy {
                            // Nobody else is a quarter faster than the choice.
                            if let (Some(there), Some(here)) = (nodes[j].srtt, nodes[i].srtt) {
                                prop_assert!(there >= here / 4 * 3);
                            }
                        },
                    }
                }
                Rung::Direct => prop_assert!(healthy.is_empty() && direct),
                Rung::Parked => prop_assert!(healthy.is_empty() && !direct),
            }
        }

        /// Choosing again from the choice changes nothing.
        #[test]
        fn is_stable(nodes in proptest::collection::vec(health(), 0..8), direct: bool, fastest: bool) {
            let policy = if fastest { Policy::Fastest } else { Policy::Ordered };
            let first = select(&nodes, direct, None, policy);
            prop_assert_eq!(select(&nodes, direct, Some(first), policy), first);
        }
    }
}
