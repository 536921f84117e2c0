//! The prompt: as many of the best passages as fit the model's context, then the question.

use crate::text::sentences;

/// What the model is told. Short: a small model follows one clear instruction.
pub const INSTRUCTION: &str = "You answer questions from the given text. Use only facts from the text, in the words of the text. \
                               Answer in one or two short sentences. If the text does not say it, answer: I don't know.";

/// What a model is told that reads only the sentences nearest to the question.
pub const FOCUS_INSTRUCTION: &str = "You answer questions with a sentence from the text.";

/// Two examples for such a model (it is small): text and question, then the answer. About nothing that a user would ask.
pub const FOCUS_EXAMPLES: [(&str, &str); 2] = [
    (
        "Text:\nThe library opens at nine in the morning. Books are lent for three weeks. Late books cost 20 cents a day.\n\n\
         Question: How long can I keep a book?",
        "Books are lent for three weeks.",
    ),
    (
        "Text:\nThe car park has 40 places. Visitors park on the second floor. The gate closes at ten in the evening.\n\n\
         Question: Where do visitors park?",
        "Visitors park on the second floor.",
    ),
];

/// The prompt of a few sentences, best last: small models read the end best.
pub fn focused(question: &str, sentences: &[&str]) -> String {
    let one_line = |s: &&str| s.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: Vec<String> = sentences.iter().rev().map(one_line).collect();
    format!("Text:\n{}\n\nQuestion: {question}", text.join(" "))
}

/// What is answered when no passage is relevant; no model is asked then.
pub const NO_ANSWER: &str = "I don't know: none of the passages found is relevant to this question.";

/// Tokens that the chat template and the instruction need, with a margin.
const OVERHEAD_TOKENS: u64 = 120;

/// A passage offered to the prompt.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Headings above it, joined.
    pub heading: &'a str,
    /// Its text.
    pub text: &'a str,
    /// Its length in the model's tokens.
    pub tokens: u64,
}

/// A prompt and the passages that are in it: a prefix of those offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Content of the user's message.
    pub user: String,
    /// How many of the offered passages it holds.
    pub passages: usize,
}

/// Packs the offered passages, best first, into a context of `context` tokens that must also hold the answer. The first
/// passage is always there, cut after a sentence when it alone is too long.
pub fn pack(
    question: &str,
    question_tokens: u64,
    offers: &[Offer<'_>],
    context: u64,
    answer_tokens: u64,
) -> Prompt {
    let budget =
        context.saturating_sub(answer_tokens).saturating_sub(OVERHEAD_TOKENS).saturating_sub(question_tokens);
    let mut used = 0;
    let mut texts: Vec<String> = Vec::new();
    for offer in offers {
        let heading_tokens = estimate(offer.heading) + 4;
        if used + offer.tokens + heading_tokens > budget {
            if texts.is_empty() {
                let room = budget.saturating_sub(heading_tokens);
                texts.push(render(offer.heading, cut(offer.text, offer.tokens, room)));
            }
            break;
        }
        used += offer.tokens + heading_tokens;
        texts.push(render(offer.heading, offer.text));
    }
    let passages = texts.len();
    // The best passage stands last, next to the question: small models read the end best.
    texts.reverse();
    let user = format!("Text:\n{}\n\nQuestion: {question}", texts.join("\n\n"));
    Prompt { user, passages }
}

/// A length in tokens for engines that cannot count: four bytes a token, as English has it, rounded up.
pub fn estimate(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}

fn render(heading: &str, text: &str) -> String {
    let text = text.trim();
    if heading.is_empty() { text.to_owned() } else { format!("{heading}\n{text}") }
}

/// The longest run of whole sentences from the start that fits `room` tokens; at least a few words.
fn cut(text: &str, tokens: u64, room: u64) -> &str {
    let bytes = (text.len() as u64 * room / tokens.max(1)) as usize;
    let end = sentences(text).iter().map(|s| s.end).take_while(|end| *end <= bytes).last();
    let end = end.unwrap_or_else(|| {
        (0..=bytes.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
    });
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(text: &str, tokens: u64) -> Offer<'_> {
        Offer { heading: "H", text, tokens }
    }

    #[test]
    fn passages_fill_the_context_and_no_more() {
        let offers = [offer("First one.", 100), offer("Second.", 100), offer("Third.", 100)];
        let cases: &[(u64, usize)] = &[
            (10_000, 3),
            (120 + 50 + 10 + 320, 3),
            (120 + 50 + 10 + 220, 2),
            (120 + 50 + 10 + 110, 1),
            (0, 1),
        ];
        for (context, want) in cases {
            assert_eq!(pack("Why?", 10, &offers, *context, 50).passages, *want, "{context}");
        }
        let prompt = pack("Why?", 10, &offers, 10_000, 50);
        assert_eq!(prompt.user, "Text:\nH\nThird.\n\nH\nSecond.\n\nH\nFirst one.\n\nQuestion: Why?");
    }

    #[test]
    fn a_focused_prompt_ends_with_the_best_sentence() {
        let prompt = focused("Why?", &["Best\none.", "Next."]);
        assert_eq!(prompt, "Text:\nNext. Best one.\n\nQuestion: Why?");
    }

    #[test]
    fn a_passage_over_the_context_is_cut_after_a_sentence() {
        let text = "One two three. Four five six. Seven eight nine.";
        let prompt = pack("Why?", 0, &[Offer { heading: "", text, tokens: 12 }], OVERHEAD_TOKENS + 13, 0);
        assert_eq!(prompt.user, "Text:\nOne two three. Four five six.\n\nQuestion: Why?");
        assert!(pack("Why?", 0, &[offer("ééééé", 10)], 0, 0).user.starts_with("Text:\nH"));
    }
}
