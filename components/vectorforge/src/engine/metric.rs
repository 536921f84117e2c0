//! How rows are compared: one distance, smaller is nearer, whatever the collection calls its score.

use super::config::Distance;
use crate::simd::{Kernel, LANE, Lane, copy_into_lanes, kernels, lanes_of};

/// Rows of vectors, one after the other, each padded to whole lanes.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [Lane],
    lanes: usize,
}

impl<'a> Matrix<'a> {
    /// `data` holds rows of `lanes` lanes each.
    pub fn new(data: &'a [Lane], lanes: usize) -> Self {
        debug_assert!(data.len().is_multiple_of(lanes));
        Self { data, lanes }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.lanes
    }

    /// One row.
    #[inline]
    pub fn row(&self, row: u32) -> &'a [Lane] {
        let start = row as usize * self.lanes;
        &self.data[start..start + self.lanes]
    }

    /// Lanes of a row.
    pub fn lanes(&self) -> usize {
        self.lanes
    }
}

/// The comparison of a vector field.
#[derive(Clone, Copy)]
pub struct Metric {
    kernel: Kernel,
    sign: f32,
    kind: Distance,
}

impl Metric {
    /// The comparison for a kind of score, with the fastest kernels of this machine.
    pub fn new(kind: Distance) -> Self {
        let kernels = kernels();
        let (kernel, sign) = match kind {
            Distance::Cosine | Distance::Dot => (kernels.dot, -1.0),
            Distance::Euclid => (kernels.squared_l2, 1.0),
            Distance::Manhattan => (kernels.l1, 1.0),
        };
        Self { kernel, sign, kind }
    }

    /// Distance of two rows. Never NaN: sums that overflow to NaN count as infinitely far.
    #[inline]
    pub fn distance(&self, a: &[Lane], b: &[Lane]) -> f32 {
        defined(self.sign * (self.kernel.one)(a, b))
    }

    /// Distances of one row to four.
    #[inline]
    pub fn distances(&self, a: &[Lane], others: [&[Lane]; 4]) -> [f32; 4] {
        (self.kernel.four)(a, others).map(|sum| defined(self.sign * sum))
    }

    /// The score that a distance stands for.
    pub fn score(&self, distance: f32) -> f32 {
        match self.kind {
            Distance::Cosine | Distance::Dot => -distance,
            Distance::Euclid => distance.sqrt(),
            Distance::Manhattan => distance,
        }
    }

    /// Whether a score is at least as near as a threshold.
    pub fn reaches(&self, score: f32, threshold: f32) -> bool {
        if self.kind.larger_is_nearer() { score >= threshold } else { score <= threshold }
    }

    /// Writes a vector over a row in the form it is stored and asked in: normalised for Cosine. A vector of zeros stays.
    pub fn store(&self, vector: &[f32], row: &mut [Lane]) {
        copy_into_lanes(vector, row);
        if self.kind == Distance::Cosine {
            normalise(bytemuck::cast_slice_mut(row));
        }
    }

    /// A vector as a row of its own, in the form it is stored and asked in.
    pub fn row_of(&self, vector: &[f32]) -> Vec<Lane> {
        let mut row = vec![Lane([0.0; LANE]); lanes_of(vector.len())];
        self.store(vector, &mut row);
        row
    }
}

#[inline]
fn defined(distance: f32) -> f32 {
    if distance.is_nan() { f32::INFINITY } else { distance }
}

fn normalise(vector: &mut [f32]) {
    let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    // A vector that is normalised already is kept bit for bit, so that reading and writing back changes nothing.
    if square == 0.0 || (square - 1.0).abs() < 1e-6 {
        return;
    }
    let norm = square.sqrt();
    for x in vector {
        *x = (f64::from(*x) / norm) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_mean_what_their_names_say() {
        let (a, b) = ([3.0, 4.0], [1.0, 0.0]);
        for (kind, expected) in [
            (Distance::Cosine, 0.6),
            (Distance::Dot, 3.0),
            (Distance::Euclid, 20f32.sqrt()),
            (Distance::Manhattan, 6.0),
        ] {
            let metric = Metric::new(kind);
            let score = metric.score(metric.distance(&metric.row_of(&a), &metric.row_of(&b)));
            assert!((score - expected).abs() < 1e-6, "{kind:?}: {score}");
        }
    }

    #[test]
    fn extremes_stay_ordered() {
        let metric = Metric::new(Distance::Dot);
        let row = |values: &[f32]| metric.row_of(values);
        let distance = metric.distance(&row(&[f32::MAX, f32::MAX]), &row(&[f32::MAX, f32::MIN]));
        assert!(!distance.is_nan());
        let cosine = Metric::new(Distance::Cosine);
        assert!(cosine.row_of(&[0.0, 0.0])[0].0.iter().all(|x| x.abs() < f32::MIN_POSITIVE));
        assert!((cosine.row_of(&[f32::MAX, f32::MAX])[0].0[0] - 0.5f32.sqrt()).abs() < 1e-6);
        assert!((cosine.row_of(&[1e-30, 0.0])[0].0[0] - 1.0).abs() < 1e-6);
    }
}
