//! Sealing and merging: which segments to rewrite as one, and doing it while searches and writes go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Inner;
use super::checkpoint::segment_path;
use super::state::{PreparedIndexes, State};
use crate::engine::config::{CollectionConfig, FieldSchema, OptimizerParams};
use crate::engine::error::EngineError;
use crate::engine::graph::{self, BuildError};
use crate::engine::json_path::JsonPath;
use crate::engine::segment::overlay::Overlay;
use crate::engine::segment::seal::{GraphPlan, Moves, SealError, seal};
use crate::engine::segment::sealed::Sealed;
use crate::engine::segment::{Base, Segment};
use crate::engine::storage::durable;

/// What the planner needs to know of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Its number.
    pub number: u64,
    /// Rows, dead ones included.
    pub rows: usize,
    /// Living rows.
    pub living: usize,
    /// In memory, or without a graph that it is large enough for.
    pub unfinished: bool,
}

/// The immutable segments of a collection.
pub fn facts(state: &State) -> Vec<Facts> {
    let fact = |segment: &Segment| {
        let view = segment.view();
        let rows = view.rows() as usize;
        let lacks_graph = state.config.vectors.keys().enumerate().any(|(field, name)| {
            let with_vector = view.present(field).map_or(rows, crate::engine::row_set::RowSet::count);
            let large =
                with_vector >= state.config.hnsw_of(name).full_scan_points.max(1) && with_vector * 2 >= rows;
            large && view.graph(field).is_none()
        });
        let unfinished = lacks_graph || matches!(&*segment.base, Base::Flat(_));
        Facts { number: segment.number, rows, living: view.living(), unfinished }
    };
    state.segments.iter().map(fact).collect()
}

/// The segments to rewrite as one next, if any. Unfinished segments go first, together with finished ones that are not
/// larger than what has come together so far: so a point is rewritten about as often as its collection doubles.
/// Then segments beyond the limit are merged, smallest first, then the most perforated one is rewritten.
pub fn plan(facts: &[Facts], params: &OptimizerParams) -> Option<Vec<u64>> {
    let mut finished: Vec<&Facts> = facts.iter().filter(|fact| !fact.unfinished).collect();
    finished.sort_by_key(|fact| fact.living);
    let mut chosen: Vec<&Facts> = facts.iter().filter(|fact| fact.unfinished).collect();
    if !chosen.is_empty() {
        let mut total: usize = chosen.iter().map(|fact| fact.living).sum();
        for fact in finished {
            if fact.living <= total {
                total += fact.living;
                chosen.push(fact);
            }
        }
    } else if finished.len() > params.max_segments {
        let surplus = finished.len() - params.max_segments + 1;
        chosen = finished[..surplus].to_vec();
    } else {
        let perforated =
            |fact: &&Facts| (fact.rows - fact.living) as f64 > params.vacuum_fraction * fact.rows as f64;
        chosen = finished.into_iter().filter(perforated).take(1).collect();
    }
    (!chosen.is_empty()).then(|| chosen.iter().map(|fact| fact.number).collect())
}

/// The segments being rewritten, as they were when it began.
struct Sources {
    number: u64,
    config: CollectionConfig,
    schema: BTreeMap<JsonPath, FieldSchema>,
    segments: Vec<Segment>,
}

impl Inner {
    /// Rewrites until nothing is left to do; says whether anything was done.
    pub(super) fn optimise_all(&self) -> Result<bool, EngineError> {
        let _one_optimiser = self.optimiser.lock();
        let mut done = false;
        while let Some(sources) = self.next_sources() {
            self.optimising.store(true, Ordering::Relaxed);
            let outcome = self.rewrite(&sources);
            self.optimising.store(false, Ordering::Relaxed);
            if !outcome? {
                break;
            }
            done = true;
        }
        Ok(done)
    }

    fn next_sources(&self) -> Option<Sources> {
        let mut state = self.state.write();
        if !state.config.optimizer.enabled || self.is_closed() {
            return None;
        }
        let numbers = plan(&facts(&state), &state.config.optimizer)?;
        let chosen = state.segments.iter().filter(|segment| numbers.contains(&segment.number));
        let copy = |segment: &Segment| Segment {
            number: segment.number,
            base: Arc::clone(&segment.base),
            indexes: segment.indexes.clone(),
            overlay: segment.overlay.clone(),
        };
        let segments = chosen.map(copy).collect();
        let number = state.next_segment;
        state.next_segment += 1;
        Some(Sources { number, config: state.config.clone(), schema: state.schema.clone(), segments })
    }

    /// Writes the sources into one new segment and puts it in their place; false when the collection is closing.
    fn rewrite(&self, sources: &Sources) -> Result<bool, EngineError> {
        let path = segment_path(&self.dir, sources.number);
        let builder = graph::builder(self.options.builder);
        let cancelled = || self.is_closed();
        let graphs = GraphPlan {
            builder: &*builder,
            threads: self.options.build_threads.max(1),
            cancelled: &cancelled,
        };
        let views: Vec<_> = sources.segments.iter().map(Segment::view).collect();
        let moves = match seal(&path, &sources.config, &sources.schema, &views, Some(&graphs)) {
            Ok(moves) => moves,
            Err(SealError::Graph(BuildError::Cancelled)) => return Ok(false),
            Err(SealError::Graph(error)) => {
                return Err(EngineError::GraphBuild {
                    collection: self.name.clone(),
                    reason: error.to_string(),
                });
            }
            Err(SealError::File(error)) => return Err(error),
        };
        let (sealed, indexes) = Sealed::open(&path, self.options.preload)?;
        let overlay = Overlay::new(sealed.meta().rows, &sources.schema);
        let base = Arc::new(Base::Sealed(sealed));
        self.swap(sources, &moves, Segment { number: sources.number, base, indexes, overlay })?;
        // The files of the sources go with the checkpoint that follows; until then the manifest names them.
        Ok(true)
    }

    /// Puts the new segment in the place of its sources and carries over what happened to them meanwhile.
    fn swap(&self, sources: &Sources, moves: &Moves, mut new: Segment) -> Result<(), EngineError> {
        // Payload indexes do not change while this is held.
        let saved = self.saved.lock();
        let current = self.state.read().schema.clone();
        new.indexes.retain(|key, _| current.get(key) == sources.schema.get(key));
        for (key, schema) in &current {
            if !new.indexes.contains_key(key) {
                PreparedIndexes::of(&[(new.number, Arc::clone(&new.base))], key, *schema)
                    .add_to(&mut new.indexes, key);
            }
        }
        // Deleting an index takes the writer's lock only: hold it, so that the schema is what was just read.
        let one_writer = self.writer.lock();
        let mut state = self.state.write();
        new.overlay = Overlay::new(new.view().rows(), &state.schema);
        new.indexes.retain(|key, _| state.schema.contains_key(key));
        for (source, moved) in sources.segments.iter().zip(moves) {
            let Some(now) = state.segments.iter().find(|segment| segment.number == source.number) else {
                // Only one optimiser runs, and nobody else removes segments.
                return durable::remove(&segment_path(&self.dir, new.number));
            };
            for (row, changed) in &now.overlay.changed {
                let before = source.overlay.changed.get(row);
                let is_new = before.is_none_or(|before| !Arc::ptr_eq(&before.payload, &changed.payload));
                if is_new && moved[*row as usize] != u32::MAX {
                    new.overlay.change(moved[*row as usize], changed.version, Arc::clone(&changed.payload));
                }
            }
            let mut died = now.overlay.deleted.clone();
            died.subtract(&source.overlay.deleted);
            died.iter().for_each(|row| new.overlay.delete(moved[row as usize]));
        }
        let replaced: Vec<u64> = sources.segments.iter().map(|segment| segment.number).collect();
        let at = state.segments.iter().position(|segment| replaced.contains(&segment.number)).unwrap_or(0);
        state.segments.retain(|segment| !replaced.contains(&segment.number));
        if new.view().rows() > 0 {
            state.segments.insert(at, new);
        }
        drop((state, one_writer));
        // A checkpoint removes what a manifest names; what came and went between two is removed here. Nobody needs it any more, so
        // that a file that stays is no failure of the swap: it goes when the collection is opened again.
        for number in replaced.into_iter().filter(|number| !saved.names(*number)) {
            if let Err(error) = durable::remove(&segment_path(&self.dir, number)) {
                tracing::warn!(%error, "a segment's file stays until the next start");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(number: u64, rows: usize, living: usize, unfinished: bool) -> Facts {
        Facts { number, rows, living, unfinished }
    }

    #[test]
    fn what_is_rewritten_next() {
        let params = OptimizerParams { max_segments: 2, ..OptimizerParams::default() };
        let table = [
            ("nothing", vec![], None),
            ("one good segment", vec![fact(1, 100, 100, false)], None),
            ("all that is flat", vec![fact(1, 20, 20, true), fact(2, 20, 20, true)], Some(vec![1, 2])),
            ("a small one with it", vec![fact(1, 15, 15, false), fact(2, 20, 20, true)], Some(vec![2, 1])),
            ("not the large one", vec![fact(1, 500, 500, false), fact(2, 20, 20, true)], Some(vec![2])),
            (
                "a chain of doublings",
                vec![fact(1, 40, 40, false), fact(2, 20, 20, false), fact(3, 20, 20, true)],
                Some(vec![3, 2, 1]),
            ),
            (
                "the smallest beyond the limit",
                vec![fact(1, 900, 900, false), fact(2, 50, 50, false), fact(3, 300, 300, false)],
                Some(vec![2, 3]),
            ),
            ("the perforated", vec![fact(1, 100, 95, false), fact(2, 100, 70, false)], Some(vec![2])),
        ];
        for (what, facts, expected) in table {
            assert_eq!(plan(&facts, &params), expected, "{what}");
        }
    }
}
