//! One sequence of tokens on its way through the engine.

use super::BlockId;

/// Names a sequence within one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// A sequence as it arrives.
#[derive(Debug, Clone)]
pub struct NewSequence {
    /// Its name; the caller never uses one twice.
    pub id: SequenceId,
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// Most tokens it can grow by.
    pub max_new: usize,
    /// Whether the logits of every prompt token are wanted, which leaves the prefix cache unread.
    pub wants_prompt_logits: bool,
    /// Sequences share cached blocks only under the same salt.
    pub salt: u64,
    /// A sequence with the same prompt to wait for, so that its blocks are shared instead of computed twice.
    pub after: Option<SequenceId>,
}

/// A sequence that the scheduler holds.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Prompt and generated tokens.
    pub tokens: Vec<u32>,
    /// How many of them the client sent.
    pub prompt_len: usize,
    /// How many have their keys and values in the cache.
    pub computed: usize,
    /// The blocks that hold them, in order.
    pub blocks: Vec<BlockId>,
    /// Tokens taken from the prefix cache when it was last admitted.
    pub cached: usize,
    pub(super) wants_prompt_logits: bool,
    pub(super) salt: u64,
    pub(super) after: Option<SequenceId>,
    /// Fingerprints of the published blocks at the front of `blocks`.
    pub(super) fingerprints: Vec<u128>,
}

impl Sequence {
    pub(super) fn new(arrival: NewSequence) -> Self {
        Self {
            prompt_len: arrival.prompt.len(),
            tokens: arrival.prompt,
            computed: 0,
            blocks: Vec::new(),
            cached: 0,
            wants_prompt_logits: arrival.wants_prompt_logits,
            salt: arrival.salt,
            after: arrival.after,
            fingerprints: Vec::new(),
        }
    }

    /// Tokens whose keys and values are still to be computed.
    pub fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether the prompt is in the cache and tokens are being generated one by one.
    pub fn is_decoding(&self) -> bool {
        self.computed >= self.prompt_len && self.left() == 1
    }
}
