//! Which way to search a segment. A pure function of numbers, so that its one promise can be tested: no plan is
//! expected to cost more than the exact scan, which is always there.
//!
//! Costs are in units of one distance to a row at a random place in memory; the constants were fitted on 341,479 rows
//! of 100 dimensions with `benches/plans.rs`.

/// What the planner needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// Rows of the segment.
    pub rows: usize,
    /// Rows that an exact scan would look at.
    pub candidates: usize,
    /// Estimated rows that pass in the end; less than `candidates` where indexes do not decide the filter.
    pub passing: f64,
    /// Candidates kept while walking.
    pub ef: usize,
    /// Links of a node on level 0; 0 without a graph.
    pub width: usize,
    /// Whether passing a row means reading its payload.
    pub reads_payload: bool,
}

/// A way to search a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Compare with every candidate.
    Scan,
    /// Walk the graph; everything passes.
    Walk,
    /// Walk the graph and keep what passes.
    WalkFiltered,
    /// Walk over passing nodes, across failing ones.
    WalkTwoHop,
}

/// A distance to the next row in memory.
const SCANNED: f64 = 0.3;
/// What a gap before that row adds, when all rows around it are left out.
const GAP: f64 = 0.05;
/// Distances that a walk measures for each candidate it keeps.
const MEASURED_PER_EF: f64 = 14.0;
/// What asking every node makes of a walk.
const ASKING: f64 = 1.15;
/// A two-hop walk for each candidate it keeps: distances, and links looked at.
const TWO_HOP_PER_EF: f64 = 50.0;
/// Reading a payload to judge it.
const READ: f64 = 12.0;
/// Below this fraction a two-hop walk meets too few passing nodes to stay connected.
const LEAST_TWO_HOP: f64 = 0.004;

/// Expected cost of a plan.
pub fn cost(plan: Plan, situation: &Situation) -> f64 {
    let Situation { rows, candidates, passing, ef, width, reads_payload } = *situation;
    let fraction = (passing / rows.max(1) as f64).clamp(1e-9, 1.0);
    let (ef, rows) = (ef as f64, rows as f64);
    let read = if reads_payload { READ } else { 0.0 };
    match plan {
        // Payloads are read only of rows that would enter the answer: a few times ef.
        Plan::Scan => {
            let gaps = 1.0 - candidates as f64 / rows.max(1.0);
            candidates as f64 * (SCANNED + GAP * gaps)
                + read * 4.0 * ef / (passing / candidates.max(1) as f64).max(0.01)
        }
        Plan::Walk => (ef * MEASURED_PER_EF).min(rows),
        Plan::WalkFiltered => (ef / fraction * MEASURED_PER_EF * ASKING).min(rows) * (1.0 + read * 0.3),
        Plan::WalkTwoHop => {
            let looks = (2.0 * width as f64 / fraction).min((width * width) as f64);
            ef * (TWO_HOP_PER_EF + looks * read)
        }
    }
}

/// The cheapest plan that can find what is asked for.
pub fn choose(situation: &Situation) -> Plan {
    let everything_passes =
        situation.candidates == situation.rows && situation.passing >= situation.rows as f64;
    if situation.width == 0 || situation.passing <= situation.ef as f64 {
        return Plan::Scan;
    }
    let mut plans = vec![Plan::Scan];
    if everything_passes {
        plans.push(Plan::Walk);
    } else {
        plans.push(Plan::WalkFiltered);
        if situation.passing / situation.rows as f64 >= LEAST_TWO_HOP {
            plans.push(Plan::WalkTwoHop);
        }
    }
    let by_cost = |a: &Plan, b: &Plan| cost(*a, situation).total_cmp(&cost(*b, situation));
    plans.into_iter().min_by(by_cost).unwrap_or(Plan::Scan)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn situation(rows: usize, fraction: f64) -> Situation {
        let passing = (rows as f64 * fraction) as usize;
        Situation {
            rows,
            candidates: passing,
            passing: passing as f64,
            ef: 128,
            width: 32,
            reads_payload: false,
        }
    }

    proptest! {
        #[test]
        fn nothing_costs_more_than_the_scan(rows in 0usize..5_000_000, candidates in 0.0f64..=1.0, passing in 0.0f64..=1.0,
                                            ef in 1usize..5000, width in prop::sample::select(vec![0usize, 16, 32, 64]),
                                            reads_payload in any::<bool>()) {
            let candidates = (rows as f64 * candidates) as usize;
            let situation = Situation { rows, candidates, passing: candidates as f64 * passing, ef, width, reads_payload };
            let plan = choose(&situation);
            prop_assert!(cost(plan, &situation) <= cost(Plan::Scan, &situation));
        }
    }

    #[test]
    fn plans_by_fraction_of_a_third_of_a_million() {
        for (fraction, expected) in [
            (1.0, Plan::Walk),
            (0.9, Plan::WalkFiltered),
            (0.1, Plan::WalkTwoHop),
            (0.01, Plan::Scan),
            (0.001, Plan::Scan),
            (0.0, Plan::Scan),
        ] {
            assert_eq!(choose(&situation(341_479, fraction)), expected, "{fraction}");
        }
    }

    #[test]
    fn a_wide_search_of_a_tenth_is_scanned() {
        // Measured: 656 us against 780 us for the two-hop walk.
        assert_eq!(choose(&Situation { ef: 256, ..situation(341_479, 0.1) }), Plan::Scan);
        assert_eq!(choose(&Situation { ef: 256, ..situation(341_479, 0.2) }), Plan::WalkTwoHop);
    }

    #[test]
    fn small_segments_and_segments_without_a_graph_are_scanned() {
        assert_eq!(choose(&situation(3_000, 1.0)), Plan::Scan);
        assert_eq!(choose(&Situation { width: 0, ..situation(1_000_000, 1.0) }), Plan::Scan);
    }
}
