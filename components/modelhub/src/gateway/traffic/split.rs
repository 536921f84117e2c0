//! Which target a session goes to, as pure functions.
//!
//! Weighted rendezvous hashing: every target draws a number from the session's name and its own, scaled by its share, and the
//! highest wins. It needs no memory, so all gateways agree and a restart changes nothing; when shares change, only as many
//! sessions move as must; and when a target is away, its sessions go to their second choice and come back.

use std::collections::BTreeMap;

use http::HeaderMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Header that names a session.
pub const SESSION_HEADER: &str = "x-session-id";

/// The order in which a session would have the targets, those without a share left out. `names` and `shares` go together.
pub fn ranking<'a>(session: &[u8], names: impl Iterator<Item = &'a str>, shares: &[f64]) -> Vec<usize> {
    let seed = xxh3_64_with_seed(session, 0);
    let mut drawn: Vec<(f64, usize)> = names
        .zip(shares)
        .enumerate()
        .filter(|(_, (_, share))| **share > 0.0)
        .map(|(i, (name, share))| (draw(seed, name) / share, i))
        .collect();
    drawn.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    drawn.into_iter().map(|(_, i)| i).collect()
}

/// An exponentially distributed number: the smallest of several, each divided by a share, is drawn as often as the share says.
fn draw(seed: u64, name: &str) -> f64 {
    let hash = xxh3_64_with_seed(name.as_bytes(), seed);
    // 53 bits are what a float holds; half a step keeps it off zero and one.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln()
}

/// Whether a request carries all the headers that a target asks for. A target that asks for none is not meant.
pub fn is_meant(wanted: &BTreeMap<String, String>, headers: &HeaderMap) -> bool {
    let has = |name: &str, value: &str| {
        headers.get_all(name).iter().any(|given| given.as_bytes() == value.as_bytes())
    };
    !wanted.is_empty() && wanted.iter().all(|(name, value)| has(name, value))
}

/// Whether a shadow that copies `percent` of the requests copies this one.
pub fn is_copied(request: u64, target: &str, percent: u32) -> bool {
    xxh3_64_with_seed(target.as_bytes(), request) % 100 < u64::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["1", "2", "3"];

    fn first(session: u32, shares: &[f64]) -> usize {
        ranking(&session.to_le_bytes(), NAMES.into_iter(), shares)[0]
    }

    #[test]
    fn sessions_are_shared_as_the_weights_say() {
        let shares = [70.0, 25.0, 5.0];
        let mut counts = [0_u32; 3];
        (0..100_000).for_each(|session| counts[first(session, &shares)] += 1);
        for (count, share) in counts.into_iter().zip(shares) {
            let percent = f64::from(count) / 1000.0;
            assert!((percent - share).abs() < 0.5, "{percent} of {share}");
        }
    }

    #[test]
    fn the_same_session_goes_to_the_same_target_in_any_process() {
        // Written down once: a change of these numbers would move every session of every user at an upgrade.
        let places: Vec<usize> = (0..16).map(|session| first(session, &[50.0, 30.0, 20.0])).collect();
        assert_eq!(places, PLACES);
    }

    const PLACES: [usize; 16] = [1, 0, 1, 0, 0, 2, 2, 2, 0, 0, 0, 0, 1, 2, 0, 2];

    #[test]
    fn a_canary_that_grows_keeps_the_sessions_it_has() {
        let steps = [0.0, 5.0, 25.0, 50.0, 100.0];
        for session in 0..20_000 {
            let places: Vec<usize> = steps
                .iter()
                .map(|share| {
                    ranking(&u32::to_le_bytes(session), ["a", "b"].into_iter(), &[100.0 - share, *share])[0]
                })
                .collect();
            assert!(places.is_sorted(), "session {session} went back: {places:?}");
        }
    }

    #[test]
    fn only_as_many_sessions_move_as_must() {
        let (before, after) = ([50.0, 50.0, 0.0], [45.0, 45.0, 10.0]);
        let moved: Vec<(usize, usize)> = (0..50_000)
            .map(|session| (first(session, &before), first(session, &after)))
            .filter(|(before, after)| before != after)
            .collect();
        assert!(moved.iter().all(|(_, to)| *to == 2), "nobody changes between those who lose");
        assert!((4_500..5_500).contains(&moved.len()), "{}", moved.len());
    }

    #[test]
    fn headers_choose_when_all_of_them_are_there() {
        let wanted = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let mut headers = HeaderMap::new();
        headers.append("x-team", "a".parse().expect("a value"));
        headers.append("x-team", "b".parse().expect("a value"));
        headers.append("x-beta", "1".parse().expect("a value"));
        let table: [(BTreeMap<String, String>, bool); 5] = [
            (wanted(&[]), false),
            (wanted(&[("x-beta", "1")]), true),
            (wanted(&[("X-Team", "b"), ("x-beta", "1")]), true),
            (wanted(&[("x-team", "c"), ("x-beta", "1")]), false),
            (wanted(&[("x-gone", "1")]), false),
        ];
        for (wanted, is_so) in table {
            assert_eq!(is_meant(&wanted, &headers), is_so, "{wanted:?}");
        }
    }

    #[test]
    fn shadows_copy_their_percentage() {
        for percent in [0, 10, 100] {
            let copied = (0..10_000).filter(|request| is_copied(*request, "s", percent)).count();
            assert!(copied.abs_diff(percent as usize * 100) < 150, "{copied} at {percent} %");
        }
    }
}
