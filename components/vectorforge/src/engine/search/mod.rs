//! Searching one segment: which rows may be found, how to look for them, and looking.

pub mod execute;
pub mod narrow;
pub mod planner;
