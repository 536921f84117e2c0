//! TinyInfer: one process that serves one model, a text generator or an embedder, over OpenAI's HTTP API and gRPC.
//!
//! In reading order: the doors ([`openai`], [`grpc`]) turn requests into token sequences (by way of [`chat`] and
//! [`tokenizer`]); the [`scheduler`] decides, as a pure value, which of them compute in each step; the [`executor`]
//! computes; [`sampling`] chooses tokens and [`engine`] is the one thread that joins the three. [`model`] and [`gguf`]
//! read the weights.
//!
//! It refuses to know about routing, several models, API keys with budgets and retrieval: that is ModelHub's. Nor does
//! it know any cluster.
//!
//! ```
//! use tinyinfer::scheduler::{NewSequence, Scheduler, SequenceId, Sizes};
//!
//! let sizes = Sizes { block_size: 16, blocks: 64, max_running: 8, max_waiting: 8, step_tokens: 64, prefill_chunk: 32 };
//! let mut scheduler = Scheduler::new(sizes);
//! let prompt = (0..40).collect();
//! let arrival =
//!     NewSequence { id: SequenceId(1), prompt, max_new: 8, wants_prompt_logits: false, salt: 0, after: None };
//! scheduler.arrive(vec![arrival])?;
//! assert_eq!(scheduler.plan().tokens(), 32, "the first chunk of the prompt");
//! # Ok::<(), tinyinfer::scheduler::Refusal>(())
//! ```

pub mod chat;
pub mod engine;
pub mod executor;
pub mod gguf;
pub mod grpc;
mod mmap;
pub mod model;
pub mod openai;
pub mod sampling;
pub mod scheduler;
pub mod served;
pub mod server;
pub mod tokenizer;
