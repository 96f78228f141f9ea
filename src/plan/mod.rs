//! The plan of a run: what it will hold in each phase, and what it will compute, before anything is allocated.
//!
//! A plan is made by running a step of the run on paper ([`crate::ops::paper`]): the constructors, the forward and the backward
//! pass, the engine and the optimizer are those of the run itself. So a plan cannot forget a buffer, and it is right for every
//! lever.

pub mod fit;
pub mod job;
pub mod machine;
pub mod stages;
pub mod table;

pub use fit::{Fit, Largest, Wanted};
pub use job::{Job, Plan, PlanError, Stage};
pub use machine::{CARDS, Card, Kind, Machine};
