//! The power goes at every operation of a checkpoint and of a collection, and any part of what was not
//! synced is lost. What is found afterwards is the state before or the state after, never a mixture; and
//! the state after, once a commit has answered.

mod disk;

use cowtree::Tree;
use cowtree::store::{Store, StoreError};
use disk::{Disk, Random};

type State = (u64, Tree<u64, u64>, Tree<u64, u64>);

fn open(disk: &Disk) -> Result<Store, StoreError> {
    Store::open_in(Box::new(disk.clone()))
}

fn change(state: &mut State, random: &mut Random) {
    state.0 += 1;
    for _ in 0..30 {
        let key = random.below(2000) as u64;
        state.1.insert(key, state.0);
        state.2.remove(&key);
        state.2.insert(key / 2, state.0);
    }
}

fn commit(store: &mut Store, (number, one, other): &State) -> Result<(), StoreError> {
    let mut checkpoint = store.checkpoint()?;
    checkpoint.put("one", one)?;
    checkpoint.put("other", other)?;
    checkpoint.commit(&number.to_le_bytes()).map(drop)
}

fn read(store: &Store) -> Result<State, StoreError> {
    let number = store.note().try_into().map_or(0, u64::from_le_bytes);
    if number == 0 {
        return Ok(State::default());
    }
    Ok((number, store.load("one")?, store.load("other")?))
}

/// Does three commits and a collection; answers the states that were acknowledged and tried.
fn run(disk: &Disk, random: &mut Random, start: &State) -> (Vec<State>, Result<(), StoreError>) {
    let mut states = vec![start.clone()];
    let mut attempt = || {
        let mut store = open(disk)?;
        for round in 0..3 {
            let mut next = states.last().expect("the start at least").clone();
            change(&mut next, random);
            states.push(next);
            commit(&mut store, &states[states.len() - 1])?;
            if round == 1 {
                store.collect()?;
            }
        }
        Ok(())
    };
    let outcome = attempt();
    (states, outcome)
}

#[test]
fn a_power_cut_at_any_operation_leaves_one_state_whole() -> Result<(), StoreError> {
    let operations = {
        let disk = Disk::default();
        run(&disk, &mut Random(1), &State::default()).1?;
        disk.operations()
    };
    assert!(operations > 50, "{operations}");
    for seed in 0..60 {
        for cut in 1..=operations + 1 {
            let mut random = Random(seed);
            let disk = Disk::default();
            disk.cut_after(cut);
            let (states, outcome) = run(&disk, &mut random, &State::default());
            if seed % 2 == 1 {
                // The process alone dies; the next one tidies up, and then the power goes.
                disk.after_kill();
                disk.cut_after(1 + cut % 6);
                drop(open(&disk));
            }
            let rest = disk.after_power_cut(&mut random);
            let mut store = open(&rest)?;
            store.verify()?;
            let found = read(&store)?;
            let tried = states.last().expect("the start at least");
            let before = &states[states.len().saturating_sub(2)];
            assert!(
                found == *tried || (outcome.is_err() && found == *before),
                "seed {seed}, cut {cut}: {}",
                found.0
            );
            // Life goes on, from whatever was found, through another cut.
            let mut next = found.clone();
            change(&mut next, &mut random);
            commit(&mut store, &next)?;
            rest.cut_after(1 + cut % 40);
            let (states, outcome) = run(&rest, &mut random, &next);
            let found = read(&open(&rest.after_power_cut(&mut random))?)?;
            let was_tried = states.iter().rev().take(2).any(|state| *state == found);
            assert!(was_tried, "seed {seed}, second cut {cut}, {outcome:?}: {}", found.0);
        }
    }
    Ok(())
}

#[test]
fn a_disk_error_stops_the_store_until_it_is_opened_anew() -> Result<(), StoreError> {
    for at in 1..40 {
        let disk = Disk::default();
        let mut store = open(&disk)?;
        let mut state = State::default();
        change(&mut state, &mut Random(at));
        commit(&mut store, &state)?;
        let before = state.clone();
        change(&mut state, &mut Random(at + 1));
        disk.fail_once_after(at as usize);
        let mut failed = commit(&mut store, &state).is_err();
        if failed {
            // Either nothing was published, and trying again works, or the store refuses to go on.
            match commit(&mut store, &state) {
                Ok(()) => failed = false,
                Err(refused) => assert!(matches!(refused, StoreError::CommitFailed), "{at}: {refused}"),
            }
            assert!(failed || read(&store)? == state);
        }
        disk.after_kill();
        let found = read(&open(&disk)?)?;
        assert!(found == state || (failed && found == before), "{at}: {}", found.0);
    }
    Ok(())
}
