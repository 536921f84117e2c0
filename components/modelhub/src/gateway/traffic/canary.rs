//! What is to become of a canary: a pure function of what it was asked to be, how far it is, and what was seen of it.
//!
//! All three questions (do more than so many in a thousand fail? are more refused than of the other versions, and by so many? is the
//! 99th percentile above so much?) are whether a share of bad replies is above a bound. They are asked after every single reply, so a
//! test that is made for one look would cry wolf: [`Evidence`] is a test martingale, whose chance to ever reach a hundred while the share keeps its bound is one in a
//! hundred, however often one looks and however long it runs. It starts anew all the time (with weights that sum to one), so a canary
//! that turns bad after an hour of good replies is found as fast as one that is bad from the beginning.

use std::time::Duration;

use aistack_api::traffic::{CanaryPhase, CanaryPlan, CanaryState};

/// Shares of bad replies that are held against the bound, as the way from it to one.
const GRID: usize = 12;
/// How sure a rollback must be: one in so many canaries that keep their bounds is rolled back all the same. Three questions
/// share one in a hundred.
const SURE: f64 = 300.0;
/// Kept below what a float can hold.
const ENOUGH: f64 = 1e200;
/// Share of replies that may be above a 99th percentile.
const ONE_PERCENT: f64 = 0.01;
/// Share of requests that may be refused while nothing says what others would have got; as good as all.
const ALL: f64 = 0.99;

/// How much speaks for a share of bad replies above a bound, which may move with what is known before a reply.
#[derive(Debug, Clone)]
pub struct Evidence {
    bound: f64,
    /// Wealth of the bets on each share above the bound, and what a bad and a good reply multiply it by.
    bets: [Bet; GRID],
    seen: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bet {
    wealth: f64,
    bad: f64,
    good: f64,
}

impl Evidence {
    /// Against a bound from 0 to 1.
    pub fn against(bound: f64) -> Self {
        let mut new = Self { bound, bets: [Bet { wealth: 0.0, bad: 1.0, good: 1.0 }; GRID], seen: 0.0 };
        new.price();
        new
    }

    fn price(&mut self) {
        for (i, bet) in self.bets.iter_mut().enumerate() {
            let share = alternative(self.bound, i);
            (bet.bad, bet.good) = (share / self.bound, (1.0 - share) / (1.0 - self.bound));
        }
    }

    /// From here on the bound is this one.
    pub fn move_to(&mut self, bound: f64) {
        self.bound = bound;
        self.price();
    }

    /// Notes a reply.
    pub fn see(&mut self, is_bad: bool) {
        self.seen += 1.0;
        // A part of the capital enters with every reply; all parts together are one.
        let entering = 1.0 / (self.seen * (self.seen + 1.0));
        for bet in &mut self.bets {
            bet.wealth = ((bet.wealth + entering) * if is_bad { bet.bad } else { bet.good }).min(ENOUGH);
        }
    }

    /// Whether the bound is broken.
    pub fn is_conclusive(&self) -> bool {
        let wealth = self.bets.iter().map(|bet| bet.wealth).sum::<f64>() / GRID as f64;
        wealth >= SURE
    }
}

/// The `i`th share that is held against a bound: from a little above it to nearly one, evenly on a logarithmic scale.
fn alternative(bound: f64, i: usize) -> f64 {
    let (low, high) = ((bound * 1.5).min(f64::midpoint(bound, 1.0)), 0.99_f64.max(f64::midpoint(bound, 1.0)));
    #[expect(clippy::cast_precision_loss, reason = "a dozen")]
    let way = i as f64 / (GRID - 1) as f64;
    low * (high / low).powf(way)
}

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Well.
    Answered,
    /// The engine refused the request (4xx). Whether clients got it wrong or the version cannot do what it is asked shows when others
    /// are asked the same.
    Refused,
    /// It failed on the engine's side.
    Failed,
}

/// A reply of the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// How it ended.
    pub ending: Ending,
    /// Milliseconds to its first byte, if there was one.
    pub first_byte_ms: Option<u64>,
}

/// Requests, and those of them that an engine refused.
#[derive(Debug, Clone, Copy, Default)]
struct Refusals {
    refused: u64,
    all: u64,
}

impl Refusals {
    fn see(&mut self, ending: Ending) {
        self.refused += u64::from(ending == Ending::Refused);
        self.all += 1;
    }

    /// What the share is at most, by three standard deviations (Agresti and Coull 1998): nearly one while nothing was seen.
    fn at_most(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
        let (refused, all) = (self.refused as f64 + 4.5, self.all as f64 + 9.0);
        let share = refused / all;
        share + 3.0 * (share * (1.0 - share) / all).sqrt()
    }
}

/// What was seen of a canary: all of it for the rollback, and of its present step for going on.
#[derive(Debug, Clone)]
pub struct Watched {
    failures: Option<Evidence>,
    slowness: Option<Evidence>,
    refusals: Option<Evidence>,
    max_first_byte_ms: Option<u64>,
    /// No failure at all is allowed, and there was one.
    is_broken: bool,
    step: usize,
    /// Replies of the present step, refusals left out.
    pub samples: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those whose first byte came too late.
    pub slow: u64,
    /// Requests of the present step with those that were refused.
    asked: Refusals,
    /// Requests that the other versions got meanwhile.
    others: Refusals,
}

impl Watched {
    /// Nothing yet.
    pub fn new(plan: &CanaryPlan) -> Self {
        let bound = f64::from(plan.max_error_permille) / 1000.0;
        Self {
            failures: (bound > 0.0 && bound < 1.0).then(|| Evidence::against(bound)),
            slowness: plan.max_first_byte_ms.map(|_| Evidence::against(ONE_PERCENT)),
            refusals: (bound < 1.0).then(|| Evidence::against(ALL)),
            max_first_byte_ms: plan.max_first_byte_ms,
            is_broken: false,
            step: 0,
            samples: 0,
            failed: 0,
            slow: 0,
            asked: Refusals::default(),
            others: Refusals::default(),
        }
    }

    /// Notes a reply that came while the canary was at `step`.
    pub fn see(&mut self, plan: &CanaryPlan, step: usize, sample: Sample) {
        if step != self.step {
            (self.step, self.samples, self.failed, self.slow) = (step, 0, 0, 0);
            self.asked = Refusals::default();
        }
        self.asked.see(sample.ending);
        let bound = self.may_be_refused(plan);
        if let Some(refusals) = &mut self.refusals {
            refusals.move_to(bound);
            refusals.see(sample.ending == Ending::Refused);
        }
        if sample.ending == Ending::Refused {
            return;
        }
        let is_failed = sample.ending == Ending::Failed;
        self.samples += 1;
        self.failed += u64::from(is_failed);
        self.is_broken |= is_failed && plan.max_error_permille == 0;
        if let Some(failures) = &mut self.failures {
            failures.see(is_failed);
        }
        if let (Some(slowness), Some(most), Some(took)) =
            (&mut self.slowness, self.max_first_byte_ms, sample.first_byte_ms)
        {
            slowness.see(took > most);
            self.slow += u64::from(took > most);
        }
    }

    /// Notes a reply of another version that answers clients.
    pub fn see_other(&mut self, ending: Ending) {
        self.others.see(ending);
    }

    /// The share of its requests that it may refuse: as many as other versions do, and as many more as may fail.
    fn may_be_refused(&self, plan: &CanaryPlan) -> f64 {
        (self.others.at_most() + f64::from(plan.max_error_permille) / 1000.0).min(ALL)
    }

    /// Why it must go back, if it must.
    pub fn verdict(&self, plan: &CanaryPlan) -> Option<String> {
        let failures = self.is_broken || self.failures.as_ref().is_some_and(Evidence::is_conclusive);
        if failures {
            return Some(format!(
                "{} of {} replies of this step failed; at most {} in a thousand may",
                self.failed, self.samples, plan.max_error_permille
            ));
        }
        if self.refusals.as_ref().is_some_and(Evidence::is_conclusive) {
            let (asked, others) = (self.asked, self.others);
            return Some(format!(
                "its engine refused {} of {} requests of this step (4xx), and other versions {} of {}",
                asked.refused, asked.all, others.refused, others.all
            ));
        }
        self.slowness.as_ref().filter(|slowness| slowness.is_conclusive()).map(|_| {
            format!(
                "{} of {} replies of this step began after more than {} ms; at most one in a hundred may",
                self.slow,
                self.samples,
                self.max_first_byte_ms.unwrap_or_default()
            )
        })
    }

    /// Whether what was seen of the step lets the next one begin.
    fn is_good(&self, plan: &CanaryPlan, step: usize) -> bool {
        let few = |bad: u64, permille: u64| bad * 1000 <= self.samples * permille;
        #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
        let is_refused = self.asked.refused as f64 > self.asked.all as f64 * self.may_be_refused(plan);
        self.step == step
            && self.samples >= plan.min_samples
            && !is_refused
            && few(self.failed, u64::from(plan.max_error_permille))
            // A single late reply among a few dozen says nothing of a percentile; the evidence does.
            && self.slow <= (self.samples / 100).max(1)
    }

    /// Why the step at `percent` goes on.
    fn awaited(&self, plan: &CanaryPlan, step: usize, percent: u32) -> String {
        let (seen, asked) =
            if self.step == step { (self.samples, self.asked) } else { (0, Refusals::default()) };
        if seen >= plan.min_samples {
            return format!(
                "waits at {percent} %: too many replies fail, are refused or are late, and not enough to be sure"
            );
        }
        let refused = match asked.refused {
            0 => String::new(),
            refused => format!("; its engine refused {refused} of {} requests (4xx)", asked.all),
        };
        format!("waits at {percent} % for {} replies{refused}", plan.min_samples)
    }
}

/// What is next for a canary that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing, for this reason.
    Wait(String),
    /// Another state.
    Become(CanaryState),
}

/// Time that a canary may be out of rotation, at least: a pod that moves to another node is.
const ABSENCE: Duration = Duration::from_mins(1);

/// What is next for a canary that has been out of rotation for so long, if it is. The clock is that of whoever asks; a step begins when
/// it was written.
pub fn next(
    plan: &CanaryPlan,
    state: &CanaryState,
    watched: &Watched,
    away: Option<Duration>,
    now_ms: u64,
) -> Next {
    let begun_ms = state.begun_ms;
    let become_ = |phase, step, reason: String| {
        Next::Become(CanaryState { phase, step, since_ms: now_ms, begun_ms, reason })
    };
    if state.phase != CanaryPhase::Running {
        return Next::Wait(state.reason.clone());
    }
    if let Some(why) = watched.verdict(plan) {
        return become_(CanaryPhase::RolledBack, state.step, why);
    }
    // Nobody is led there meanwhile, so replies say nothing more of it. What was before it began is nothing to its run.
    let away = away.map(|away| away.min(Duration::from_millis(now_ms.saturating_sub(begun_ms))));
    let is_gone = |away: &Duration| *away >= ABSENCE.max(Duration::from_secs(plan.step_seconds));
    if let Some(away) = away.filter(is_gone) {
        let why = format!("it has not answered for {} s", away.as_secs());
        return become_(CanaryPhase::RolledBack, state.step, why);
    }
    let percent = plan.steps.get(state.step).copied().unwrap_or(100);
    let elapsed = now_ms.saturating_sub(state.since_ms);
    if elapsed < plan.step_seconds.saturating_mul(1000) {
        return Next::Wait(format!("watched at {percent} % for {} s", plan.step_seconds));
    }
    if !watched.is_good(plan, state.step) {
        return Next::Wait(watched.awaited(plan, state.step, percent));
    }
    let seen = format!("{} replies, {} failed, {} late", watched.samples, watched.failed, watched.slow);
    if state.step + 1 >= plan.steps.len() {
        return become_(
            CanaryPhase::Succeeded,
            state.step,
            format!("all steps went well; at the last: {seen}"),
        );
    }
    become_(CanaryPhase::Running, state.step + 1, format!("the step at {percent} % went well: {seen}"))
}

/// The beginning of a run.
pub fn begin(now_ms: u64) -> CanaryState {
    let (phase, reason) = (CanaryPhase::Running, "it begins".to_owned());
    CanaryState { phase, step: 0, since_ms: now_ms, begun_ms: now_ms, reason }
}

#[cfg(test)]
mod tests;
