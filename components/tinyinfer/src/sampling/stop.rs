//! Stop strings, found across token boundaries without showing a client any part of one.

/// Watches a growing reply for the strings that end it.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Whether the stop string itself is part of the reply.
    keep: bool,
    /// Text that may turn out to be the beginning of a stop string.
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stopped {
    /// Text that can be shown now.
    pub text: String,
    /// The stop string that was found, as its place in the list: the reply ends with `text`.
    pub by: Option<usize>,
}

impl StopMatcher {
    /// Watches for `stops`; with `keep`, the one found stays in the reply. Empty strings are ignored.
    pub fn new(stops: Vec<String>, keep: bool) -> Self {
        Self { stops, keep, held: String::new() }
    }

    /// Takes the next piece of the reply.
    pub fn push(&mut self, piece: &str) -> Stopped {
        self.held.push_str(piece);
        if let Some((at, by)) = self.first_match() {
            let end = if self.keep { at + self.stops[by].len() } else { at };
            let text = self.held[..end].to_owned();
            self.held.clear();
            return Stopped { text, by: Some(by) };
        }
        let text = self.held.drain(..self.held.len() - self.undecided()).collect();
        Stopped { text, by: None }
    }

    /// Ends the reply: what was held back is shown after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The match that begins first; of several there, the one listed first.
    fn first_match(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        found.filter_map(|(by, stop)| Some((self.held.find(stop.as_str())?, by))).min()
    }

    /// Bytes at the end that are the beginning of some stop string.
    fn undecided(&self) -> usize {
        let held = self.held.as_bytes();
        let longest = |stop: &String| {
            let stop = stop.as_bytes();
            (1..stop.len().min(held.len() + 1)).rev().find(|&n| held.ends_with(&stop[..n])).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes the pieces; returns what was shown after each, and `|n` where stop `n` ended it.
    fn story(stops: &[&str], keep: bool, pieces: &[&str]) -> String {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect(), keep);
        let mut shown = Vec::new();
        for piece in pieces {
            let step = matcher.push(piece);
            shown.push(step.text);
            if let Some(by) = step.by {
                return format!("{}|{by}", shown.join("_"));
            }
        }
        format!("{}_{}", shown.join("_"), matcher.finish())
    }

    #[test]
    fn stop_strings_end_replies_and_never_leak() {
        let table: &[(&[&str], bool, &[&str], &str)] = &[
            (&[], false, &["a", "b"], "a_b_"),
            (&["END"], false, &["one EN", "D two"], "one _|0"),
            (&["END"], false, &["one EN", "D"], "one _|0"),
            (&["END"], true, &["one EN", "D two"], "one _END|0"),
            (&["END"], false, &["one EN", "E"], "one _EN_E"),
            (&["END"], false, &["one EN"], "one _EN"),
            (&["b", "a"], false, &["xab"], "x|1"),
            (&["abc", "ab"], false, &["xabc"], "x|0"),
            (&["abc", "bcd"], false, &["xab", "cd"], "x_|0"),
            (&["aab"], false, &["a", "a", "a", "b"], "__a_|0"),
            (&["\n\n"], false, &["a\n", "b\n", "\nc"], "a_\nb_|0"),
            (&["ß!"], false, &["Stra", "ß", "e ", "ß", "!"], "Stra__ße __|0"),
            (&["👩‍🚀"], false, &["ok 👩", "‍🚀"], "ok _|0"),
            (&[""], false, &["a", "b"], "a_b_"),
        ];
        for (stops, keep, pieces, expected) in table {
            assert_eq!(story(stops, *keep, pieces), *expected, "{stops:?} {pieces:?}");
        }
    }

    #[test]
    fn cutting_a_text_anywhere_gives_the_same_reply() {
        let text = "aab — abab ßab\nabaabb 👩‍🚀 end";
        let stops = ["abaabb", "👩", "zz"];
        let expected = "aab — abab ßab\n";
        let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        for &one in &cuts {
            for &two in cuts.iter().filter(|&&two| two >= one) {
                let mut matcher = StopMatcher::new(stops.map(str::to_owned).to_vec(), false);
                let mut shown = String::new();
                for piece in [&text[..one], &text[one..two], &text[two..]] {
                    let step = matcher.push(piece);
                    shown.push_str(&step.text);
                    if step.by.is_some() {
                        break;
                    }
                }
                assert_eq!(shown, expected, "cut at {one} and {two}");
            }
        }
    }
}
