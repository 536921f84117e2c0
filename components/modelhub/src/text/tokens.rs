//! How many tokens a text will have, guessed without the model's tokenizer: what passages are cut by. A guess that is too low costs
//! one refused request (the passage is then halved), one that is too high a shorter passage.

/// Letters that one token of a word covers on average, in the vocabularies of embedding models for English.
const LETTERS_A_TOKEN: usize = 6;
/// Characters that one token of a number or of a mixed name (`a3f9`, `sha256`) covers.
const MIXED_A_TOKEN: usize = 2;

/// Counts as characters come.
#[derive(Debug, Clone, Default)]
pub struct TokenGuess {
    closed: usize,
    letters: usize,
    digits: usize,
}

impl TokenGuess {
    /// Takes a character.
    pub fn push(&mut self, c: char) {
        // Latin letters make words; letters of other scripts are a token each in vocabularies that were not made for them.
        if c.is_ascii_digit() {
            self.digits += 1;
        } else if c.is_alphabetic() && u32::from(c) < 0x250 {
            self.letters += 1;
        } else {
            self.closed = self.total() + usize::from(!c.is_whitespace());
            (self.letters, self.digits) = (0, 0);
        }
    }

    /// Tokens so far.
    pub fn total(&self) -> usize {
        let run = match (self.letters, self.digits) {
            (letters, 0) => letters.div_ceil(LETTERS_A_TOKEN),
            (letters, digits) => (letters + digits).div_ceil(MIXED_A_TOKEN),
        };
        self.closed + run
    }
}

/// The guess for a whole text.
pub fn guess_tokens(text: &str) -> usize {
    let mut guess = TokenGuess::default();
    text.chars().for_each(|c| guess.push(c));
    guess.total()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_lean_to_the_high_side() {
        // The counts are those of all-MiniLM-L6-v2's tokenizer, without its two special tokens.
        let cases = [
            ("Leave is requested ten working days ahead.", 8, 12),
            ("请假至少提前十个工作日申请。", 14, 14),
            ("let limits = GatewayLimits::default();", 11, 16),
            ("checksum = \"9f2e4b0c77aa11d0\"", 12, 16),
            ("", 0, 0),
        ];
        for (text, least, most) in cases {
            let got = guess_tokens(text);
            assert!((least..=most).contains(&got), "{text:?}: {got}");
        }
    }
}
