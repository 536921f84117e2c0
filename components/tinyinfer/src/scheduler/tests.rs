//! Stories, and seeded random runs against a model of the KV memory.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::*;

fn sizes() -> Sizes {
    Sizes { block_size: 4, blocks: 16, max_running: 4, max_waiting: 2, step_tokens: 12, prefill_chunk: 8 }
}

fn arrival(id: u64, prompt: impl IntoIterator<Item = u32>) -> NewSequence {
    NewSequence {
        id: SequenceId(id),
        prompt: prompt.into_iter().collect(),
        max_new: 8,
        wants_prompt_logits: false,
        salt: 0,
        after: None,
    }
}

fn arrive(scheduler: &mut Scheduler, id: u64, prompt: impl IntoIterator<Item = u32>) {
    scheduler.arrive(vec![arrival(id, prompt)]).expect("there is room");
}

/// Plans, computes and appends token `900 + id` to each sequence that samples; returns the plan in short:
/// `id:start+len`, with `!` where it samples.
fn step(scheduler: &mut Scheduler) -> String {
    let plan = scheduler.plan();
    scheduler.computed(&plan);
    let mut words: Vec<String> = Vec::new();
    for work in &plan.work {
        if work.samples {
            scheduler.append(work.id, 900 + work.id.0 as u32);
        }
        let mark = if work.samples { "!" } else { "" };
        words.push(format!("{}:{}+{}{mark}", work.id.0, work.start, work.len));
    }
    words.extend(plan.preempted.iter().map(|id| format!("preempt {}", id.0)));
    words.join(" ")
}

#[test]
fn a_long_prompt_is_chunked_and_decodes_go_first() {
    let mut s = Scheduler::new(sizes());
    arrive(&mut s, 1, 0..3);
    assert_eq!(step(&mut s), "1:0+3!");
    arrive(&mut s, 2, 100..120);
    assert_eq!(step(&mut s), "1:3+1! 2:0+8");
    assert_eq!(step(&mut s), "1:4+1! 2:8+8");
    assert_eq!(step(&mut s), "1:5+1! 2:16+4!");
    assert_eq!(step(&mut s), "1:6+1! 2:20+1!");
}

#[test]
fn the_step_budget_is_shared_and_what_is_left_admits() {
    let mut s = Scheduler::new(sizes());
    arrive(&mut s, 1, 0..10);
    arrive(&mut s, 2, 100..110);
    assert_eq!(step(&mut s), "1:0+8 2:0+4", "8 is the chunk, 4 is what is left of 12");
    assert_eq!(step(&mut s), "1:8+2! 2:4+6!");
}

#[test]
fn a_second_prompt_reuses_the_blocks_of_the_first() {
    let mut s = Scheduler::new(sizes());
    arrive(&mut s, 1, 0..9);
    step(&mut s);
    step(&mut s);
    s.remove(SequenceId(1));
    assert_eq!(s.stats().used_blocks, 0);
    arrive(&mut s, 2, (0..8).chain([50, 51]));
    assert_eq!(step(&mut s), "2:8+2!");
    assert_eq!((s.stats().prefix_queries, s.stats().prefix_hits), (19, 8));
    // The very same prompt still computes its last token, since that gives the logits.
    arrive(&mut s, 3, 0..8);
    assert_eq!(step(&mut s), "2:10+1! 3:4+4!");
}

#[test]
fn who_wants_prompt_logits_computes_everything() {
    let mut s = Scheduler::new(sizes());
    arrive(&mut s, 1, 0..8);
    step(&mut s);
    let scoring = NewSequence { wants_prompt_logits: true, ..arrival(2, 0..8) };
    s.arrive(vec![scoring]).unwrap();
    assert_eq!(step(&mut s), "1:8+1! 2:0+8!");
}

#[test]
fn another_salt_shares_nothing() {
    let mut s = Scheduler::new(sizes());
    arrive(&mut s, 1, 0..8);
    step(&mut s);
    s.arrive(vec![NewSequence { salt: 9, ..arrival(2, 0..8) }]).unwrap();
    assert_eq!(step(&mut s), "1:8+1! 2:0+8!");
}

#[test]
fn siblings_wait_for_the_first_and_share_its_blocks() {
    let mut s = Scheduler::new(sizes());
    let follow = |id| NewSequence { after: Some(SequenceId(1)), ..arrival(id, 0..10) };
    s.arrive(vec![arrival(1, 0..10), follow(2), follow(3)]).unwrap();
    assert_eq!(step(&mut s), "1:0+8");
    assert_eq!(step(&mut s), "1:8+2!");
    assert_eq!(step(&mut s), "1:10+1! 2:8+2! 3:8+2!");
    // A sibling whose first one is gone does not wait for ever.
    s.arrive(vec![NewSequence { after: Some(SequenceId(77)), ..arrival(4, 30..32) }]).unwrap();
    assert!(step(&mut s).ends_with("4:0+2!"));
}

#[test]
fn a_waiting_sibling_does_not_hold_up_others() {
    let mut s = Scheduler::new(sizes());
    let follow = NewSequence { after: Some(SequenceId(1)), ..arrival(2, 0..10) };
    s.arrive(vec![arrival(1, 0..10), follow]).unwrap();
    arrive(&mut s, 3, 40..42);
    assert_eq!(step(&mut s), "1:0+8 3:0+2!");
}

#[test]
fn out_of_blocks_the_latest_gives_way_and_comes_back() {
    let mut s = Scheduler::new(Sizes { blocks: 5, ..sizes() });
    arrive(&mut s, 1, 0..8);
    arrive(&mut s, 2, 100..104);
    assert_eq!(step(&mut s), "1:0+8! 2:0+4!");
    assert_eq!(step(&mut s), "1:8+1! 2:4+1!", "3 + 2 blocks: all of them");
    for at in [9, 10, 11] {
        assert_eq!(step(&mut s), format!("1:{at}+1! 2:{}+1!", at - 4));
    }
    assert_eq!(step(&mut s), "1:12+1! preempt 2");
    assert_eq!(s.stats().preemptions, 1);
    assert_eq!(step(&mut s), "1:13+1!", "no room for the other yet");
    s.remove(SequenceId(1));
    let resumed = step(&mut s);
    assert_eq!(resumed, "2:4+5!", "its first block was still in the cache, the rest is computed again");
    assert_eq!(&s.sequence(SequenceId(2)).unwrap().tokens[..4], &[100, 101, 102, 103]);
}

#[test]
fn refusals_name_their_numbers() {
    let mut s = Scheduler::new(sizes());
    let too_long = NewSequence { max_new: 60, ..arrival(1, 0..10) };
    assert_eq!(s.arrive(vec![too_long]), Err(Refusal::NeverFits { tokens: 69, capacity: 64 }));
    let exact = NewSequence { max_new: 55, ..arrival(2, 0..10) };
    assert_eq!(s.arrive(vec![exact]), Ok(()), "64 tokens fit: the last one is never computed");
    for id in 3..8 {
        arrive(&mut s, id, 0..2);
    }
    assert_eq!(s.arrive(vec![arrival(8, 0..2)]), Err(Refusal::QueueFull { waiting: 6 }));
    let group = vec![arrival(9, 0..2), arrival(10, 0..2)];
    s.remove(SequenceId(3));
    assert!(s.arrive(group).is_err(), "a group is taken whole or not at all");
    assert!(s.sequence(SequenceId(9)).is_none());
}

#[test]
fn cancelling_frees_blocks_at_once_and_twice_is_nothing() {
    let mut s = Scheduler::new(sizes());
    arrive(&mut s, 1, 0..10);
    arrive(&mut s, 2, 0..3);
    step(&mut s);
    assert!(s.stats().used_blocks > 0);
    for id in [1, 2] {
        assert!(s.remove(SequenceId(id)).is_some());
        assert!(s.remove(SequenceId(id)).is_none());
    }
    assert_eq!((s.stats().used_blocks, s.is_idle()), (0, true));
    assert_eq!(step(&mut s), "");
}

#[test]
fn resetting_the_prefix_cache_makes_prompts_compute_again() {
    let mut s = Scheduler::new(sizes());
    arrive(&mut s, 1, 0..8);
    step(&mut s);
    s.reset_prefix_cache();
    arrive(&mut s, 2, 0..8);
    assert_eq!(step(&mut s), "1:8+1! 2:0+8!");
    arrive(&mut s, 3, 0..10);
    assert!(step(&mut s).ends_with("3:8+2!"), "blocks computed since are shared again");
}

/// What a KV memory would hold: for each block slot, the token written there and all tokens before it.
struct Memory {
    slots: Vec<Vec<Option<Vec<u32>>>>,
}

impl Memory {
    /// Computes `work` as an executor would, checking that everything before it in the sequence's blocks is its own.
    fn compute(&mut self, sequence: &Sequence, work: &Work, block_size: usize) {
        assert!(sequence.blocks.len() * block_size >= work.start + work.len, "no block to write to");
        for position in 0..work.start + work.len {
            let block = sequence.blocks[position / block_size] as usize;
            let slot = &mut self.slots[block][position % block_size];
            let history = sequence.tokens[..=position].to_vec();
            if position >= work.start {
                *slot = Some(history);
            } else {
                assert_eq!(slot.as_ref(), Some(&history), "position {position} holds someone else's context");
            }
        }
    }
}

fn random_sizes(rng: &mut Xoshiro256PlusPlus) -> Sizes {
    let max_running = rng.random_range(1..6);
    Sizes {
        block_size: rng.random_range(1..6),
        blocks: rng.random_range(6..24),
        max_running,
        max_waiting: rng.random_range(0..6),
        step_tokens: rng.random_range(max_running..24),
        prefill_chunk: rng.random_range(1..12),
    }
}

/// Prompts over two tokens that share beginnings often.
fn random_arrival(rng: &mut Xoshiro256PlusPlus, id: u64, first_of_group: Option<SequenceId>) -> NewSequence {
    let shared = rng.random_range(0..20);
    let own = rng.random_range(1..12);
    NewSequence {
        id: SequenceId(id),
        prompt: (0..shared).map(|at| at as u32).chain((0..own).map(|_| rng.random_range(0..2))).collect(),
        max_new: rng.random_range(1..15),
        wants_prompt_logits: rng.random_range(0..8) == 0,
        salt: u64::from(rng.random_range(0..8) == 0),
        after: first_of_group,
    }
}

fn check_invariants(s: &Scheduler, plan: &StepPlan, sizes: Sizes) {
    assert!(plan.tokens() <= sizes.step_tokens);
    assert!(s.running.len() <= sizes.max_running);
    let mut uses: HashMap<BlockId, u32> = HashMap::new();
    for sequence in s.sequences.values() {
        for &block in &sequence.blocks {
            *uses.entry(block).or_default() += 1;
        }
    }
    for block in 0..sizes.blocks as BlockId {
        assert_eq!(s.blocks.users(block), uses.get(&block).copied().unwrap_or(0), "block {block}");
    }
    assert_eq!(s.blocks.available() + uses.len(), sizes.blocks);
    for &id in &s.waiting {
        assert!(s.sequences[&id].blocks.is_empty(), "a waiting sequence holds no block");
    }
    let mut seen = std::collections::HashSet::new();
    for work in &plan.work {
        assert!(work.len > 0 && seen.insert(work.id), "each sequence once, for something");
        assert!(s.running.contains(&work.id));
    }
}

/// One seeded run: random arrivals, cancellations and steps until all is done. Returns a log of every plan.
fn random_run(seed: u64) -> Vec<String> {
    let rng = &mut Xoshiro256PlusPlus::seed_from_u64(seed);
    let sizes = random_sizes(rng);
    let mut s = Scheduler::new(sizes);
    let mut memory = Memory { slots: vec![vec![None; sizes.block_size]; sizes.blocks] };
    let mut goal: HashMap<SequenceId, usize> = HashMap::new();
    let (mut next, mut finished, mut log) = (0, 0, Vec::new());
    for round in 0.. {
        assert!(round < 5000, "seed {seed}: no progress");
        if next < 30 && rng.random_range(0..3) == 0 {
            let follows = next > 0 && rng.random();
            let arrival = random_arrival(rng, next, follows.then(|| SequenceId(next - 1)));
            let end = arrival.prompt.len() + arrival.max_new;
            if s.arrive(vec![arrival]).is_ok() {
                goal.insert(SequenceId(next), end);
            }
            next += 1;
        }
        if rng.random_range(0..20) == 0
            && let Some(&id) = goal.keys().min()
        {
            s.remove(id);
            goal.remove(&id);
        }
        let plan = s.plan();
        check_invariants(&s, &plan, sizes);
        for work in &plan.work {
            memory.compute(&s.sequences[&work.id], work, sizes.block_size);
        }
        s.computed(&plan);
        for work in plan.work.iter().filter(|w| w.samples) {
            s.append(work.id, rng.random_range(0..2));
            if s.sequence(work.id).unwrap().tokens.len() == goal[&work.id] {
                s.remove(work.id);
                goal.remove(&work.id);
                finished += 1;
            }
        }
        log.push(format!("{plan:?}"));
        if next == 30 && s.is_idle() {
            break;
        }
    }
    assert_eq!(s.stats().used_blocks, 0);
    log.push(format!("{finished} finished, {:?}", s.stats()));
    log
}

#[test]
fn random_runs_never_mix_contexts_and_always_finish() {
    let mut preemptions = false;
    let mut hits = false;
    for seed in 0..300 {
        let last = random_run(seed).pop().unwrap();
        preemptions |= !last.contains("preemptions: 0");
        hits |= !last.contains("prefix_hits: 0");
    }
    assert!(preemptions && hits, "the runs must reach both");
}

#[test]
fn the_same_arrivals_give_the_same_plans() {
    for seed in 0..20 {
        assert_eq!(random_run(seed), random_run(seed));
    }
}
