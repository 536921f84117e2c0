//! Canaries in random worlds.

use super::*;

fn plan() -> CanaryPlan {
    CanaryPlan {
        target: "2".into(),
        steps: vec![5, 25, 50, 100],
        step_seconds: 60,
        min_samples: 20,
        max_error_permille: 10,
        max_first_byte_ms: Some(500),
    }
}

/// Numbers from 0 to 1 that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn sample(is_failed: bool, first_byte_ms: Option<u64>) -> Sample {
    Sample { ending: if is_failed { Ending::Failed } else { Ending::Answered }, first_byte_ms }
}

/// A canary whose replies fail and are late at given rates, asked after every reply. Says how it ended and after how many replies.
fn run(seed: u64, fails: f64, late: f64, replies: u64, plan: &CanaryPlan) -> (CanaryState, u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut state, mut watched) = (begin(0), Watched::new(plan));
    for reply in 0..replies {
        let is_late = dice.roll() < late;
        let sample = sample(dice.roll() < fails, Some(if is_late { 900 } else { 100 }));
        watched.see(plan, state.step, sample);
        // A tenth of a second a reply.
        if let Next::Become(next) = next(plan, &state, &watched, None, reply * 100) {
            state = next;
            if state.phase != CanaryPhase::Running {
                return (state, reply + 1);
            }
        }
    }
    (state, replies)
}

#[test]
fn of_canaries_that_keep_their_bounds_one_in_a_hundred_goes_back_at_most() {
    let worlds = 2_000;
    let back = (0..worlds)
        .filter(|seed| run(*seed, 0.009, 0.009, 36_000, &plan()).0.phase == CanaryPhase::RolledBack)
        .count();
    assert!(back <= worlds as usize / 100, "{back} of {worlds}");
    let done = (0..worlds)
        .filter(|seed| run(*seed, 0.001, 0.001, 36_000, &plan()).0.phase == CanaryPhase::Succeeded)
        .count();
    assert!(done * 100 >= worlds as usize * 98, "{done} of {worlds}");
}

#[test]
fn a_bad_canary_is_found_after_a_few_replies() {
    // Failing replies, late ones, and how many replies may pass until half the canaries are back.
    for (fails, late, most) in
        [(1.0, 0.0, 5), (0.2, 0.0, 40), (0.05, 0.0, 300), (0.0, 1.0, 5), (0.0, 0.1, 120)]
    {
        let mut seen: Vec<u64> = (0..501)
            .map(|seed| {
                let (state, replies) = run(seed, fails, late, 36_000, &plan());
                assert_eq!(state.phase, CanaryPhase::RolledBack, "{fails} {late}: {state:?}");
                replies
            })
            .collect();
        seen.sort_unstable();
        assert!(seen[250] <= most, "{fails} {late}: {}", seen[250]);
    }
}

#[test]
fn a_canary_that_turns_bad_late_is_found_as_fast() {
    let plan = CanaryPlan { step_seconds: 100_000, ..plan() };
    for good in [0, 1_000, 100_000] {
        let (state, mut watched) = (begin(0), Watched::new(&plan));
        (0..good).for_each(|_| watched.see(&plan, 0, sample(false, Some(1))));
        let found = (1..100).find(|_| {
            watched.see(&plan, 0, sample(true, Some(1)));
            matches!(next(&plan, &state, &watched, None, 1), Next::Become(_))
        });
        assert!(found.is_some_and(|replies| replies <= 10), "{good} good ones: {found:?}");
    }
}

#[test]
fn the_way_of_a_canary_that_is_well() {
    let plan = plan();
    let (mut state, mut watched) = (begin(0), Watched::new(&plan));
    let ok = sample(false, Some(10));
    let mut story = Vec::new();
    for second in 0..=300 {
        if second % 2 == 0 {
            watched.see(&plan, state.step, ok);
        }
        if let Next::Become(next) = next(&plan, &state, &watched, None, second * 1000) {
            story.push((second, next.phase, next.step));
            state = next;
        }
        if state.phase != CanaryPhase::Running {
            break;
        }
    }
    let running = CanaryPhase::Running;
    assert_eq!(
        story,
        [(60, running, 1), (120, running, 2), (180, running, 3), (240, CanaryPhase::Succeeded, 3)]
    );
}

#[test]
fn without_replies_nothing_is_concluded() {
    let plan = plan();
    let (state, mut watched) = (begin(0), Watched::new(&plan));
    let hour = 3_600_000;
    assert_eq!(next(&plan, &state, &watched, None, hour), Next::Wait("waits at 5 % for 20 replies".into()));
    // Replies of another step do not count for this one.
    (0..50).for_each(|_| watched.see(&plan, 3, sample(false, None)));
    assert!(matches!(next(&plan, &state, &watched, None, hour), Next::Wait(_)));
}

/// A canary that gets a fifth of the requests and refuses so many of them, beside a version that refuses so many of its own. Says how
/// it ended after how many requests to it, and how it waits if it did not.
fn refuse(seed: u64, own: f64, others: f64, requests: u64, plan: &CanaryPlan) -> (Next, u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (state, mut watched) = (begin(0), Watched::new(plan));
    let mut mine = 0;
    for _ in 0..requests {
        let is_mine = dice.roll() < 0.2;
        let is_refused = dice.roll() < if is_mine { own } else { others };
        let ending = if is_refused { Ending::Refused } else { Ending::Answered };
        if !is_mine {
            watched.see_other(ending);
            continue;
        }
        mine += 1;
        watched.see(plan, 0, Sample { ending, first_byte_ms: Some(1) });
        if watched.verdict(plan).is_some() {
            break;
        }
    }
    (next(plan, &state, &watched, None, 1), mine)
}

#[test]
fn a_canary_that_refuses_what_others_answer_goes_back() {
    for (own, others, most) in [(1.0, 0.0, 30), (0.3, 0.0, 60), (0.2, 0.05, 300), (1.0, 0.5, 60)] {
        let mut seen: Vec<u64> = (0..201)
            .map(|seed| {
                let (next, requests) = refuse(seed, own, others, 50_000, &plan());
                let Next::Become(state) = next else { panic!("{own} {others}: {next:?}") };
                assert!(
                    state.phase == CanaryPhase::RolledBack && state.reason.contains("refused"),
                    "{state:?}"
                );
                requests
            })
            .collect();
        seen.sort_unstable();
        assert!(seen[100] <= most, "{own} {others}: {}", seen[100]);
    }
}

#[test]
fn what_clients_get_wrong_takes_no_canary_back() {
    for share in [0.0, 0.01, 0.2, 0.9, 1.0] {
        let worlds = 500;
        let is_back = |seed: &u64| matches!(refuse(*seed, share, share, 5_000, &plan()).0, Next::Become(_));
        let back = (0..worlds).filter(is_back).count();
        assert!(back <= worlds as usize / 100, "{share}: {back} of {worlds}");
    }
    // Where nobody else is asked, nobody knows; it does not go on, and says why.
    let plan = CanaryPlan { step_seconds: 0, ..plan() };
    let (state, mut watched) = (begin(0), Watched::new(&plan));
    (0..1000).for_each(|_| watched.see(&plan, 0, Sample { ending: Ending::Refused, first_byte_ms: Some(1) }));
    let why = "waits at 5 % for 20 replies; its engine refused 1000 of 1000 requests (4xx)";
    assert_eq!(next(&plan, &state, &watched, None, 1), Next::Wait(why.into()));
}

#[test]
fn a_canary_that_does_not_answer_any_more_goes_back() {
    let plan = CanaryPlan { step_seconds: 300, ..plan() };
    let (state, watched) = (begin(0), Watched::new(&plan));
    for (seconds, begun, is_back) in [
        (0, 3600, false),
        (299, 3600, false),
        (300, 3600, true),
        (3600, 0, false),
        (3600, 299, false),
        (3600, 300, true),
    ] {
        let next = next(&plan, &state, &watched, Some(Duration::from_secs(seconds)), begun * 1000);
        assert_eq!(matches!(next, Next::Become(_)), is_back, "{seconds} s, begun {begun} s ago: {next:?}");
    }
}

#[test]
fn the_bounds_at_their_ends() {
    let bad = sample(true, None);
    let ends = |permille: u32, replies: u32| {
        let plan = CanaryPlan { max_error_permille: permille, max_first_byte_ms: None, ..plan() };
        let mut watched = Watched::new(&plan);
        (0..replies).for_each(|_| watched.see(&plan, 0, bad));
        watched.verdict(&plan).is_some()
    };
    assert!(ends(0, 1), "not one failure is allowed");
    assert!(!ends(1000, 10_000), "all may fail");
    assert!(!ends(999, 100), "nearly all may fail");
    assert!(ends(1, 5) && ends(500, 40));
}
