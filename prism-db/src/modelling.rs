//! What a model of a database decides as the real backends do: no part of the interface.

pub use crate::chain::{
    Course, Plan, behind, counts, course, held_here, plan, undone_elsewhere, verdict,
};
