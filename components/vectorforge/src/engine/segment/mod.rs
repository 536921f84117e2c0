//! Segments: where points lie.
//!
//! A collection is one appendable segment in memory and any number of immutable ones behind it. Immutable rows never
//! move or change; what happened to them since (deleted, payload changed) lies in an [`Overlay`] above them, small and
//! saved with each checkpoint. Every row belongs to exactly one living point or to none.

pub mod file;
pub mod flat;
pub mod overlay;
pub mod seal;
pub mod sealed;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::index::frozen::FrozenIndex;
use super::json_path::JsonPath;
use flat::Flat;
use overlay::Overlay;
use sealed::Sealed;
use view::View;

/// The rows of an immutable segment.
pub enum Base {
    /// Full, waiting for the optimiser; searched by exact scan.
    Flat(Flat),
    /// A segment file.
    Sealed(Sealed),
}

/// An immutable segment and what happened to it since.
pub struct Segment {
    /// Its number, unique in the collection; also the name of its file.
    pub number: u64,
    /// The rows.
    pub base: Arc<Base>,
    /// Indexes over the rows (a flat base has its own).
    pub indexes: BTreeMap<JsonPath, Arc<FrozenIndex>>,
    /// Changes since.
    pub overlay: Overlay,
}

impl Segment {
    /// The segment as a reader sees it.
    pub fn view(&self) -> View<'_> {
        match &*self.base {
            Base::Flat(flat) => View::of_flat(flat, &self.overlay),
            Base::Sealed(sealed) => View::of_sealed(sealed, &self.indexes, &self.overlay),
        }
    }
}
