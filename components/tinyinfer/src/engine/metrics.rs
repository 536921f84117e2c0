//! The engine's figures under vLLM's names, so that its dashboards and autoscalers read them.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Finish, FinishReason, Request};
use crate::scheduler::{Sizes, Stats};

const TOKENS: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];
const FIRST_TOKEN_SECONDS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 40.0];
const NEXT_TOKEN_SECONDS: [f64; 14] =
    [0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0];
const REQUEST_SECONDS: [f64; 14] =
    [0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishedLabels {
    finished_reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    block_size: usize,
    num_cpu_blocks: usize,
    enable_prefix_caching: &'static str,
}

/// Counters and histograms of one engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    running: Gauge,
    waiting: Gauge,
    cache_usage: Gauge<f64, AtomicU64>,
    prefix_queries: Counter,
    prefix_hits: Counter,
    preemptions: Counter,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    iteration_tokens: Histogram,
    success: Family<FinishedLabels, Counter>,
    first_token: Histogram,
    next_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
    cache_config: Family<CacheLabels, Gauge>,
}

impl Default for EngineMetrics {
    /// All at zero, and shown nowhere until they are registered.
    fn default() -> Self {
        Self {
            running: Gauge::default(),
            waiting: Gauge::default(),
            cache_usage: Gauge::default(),
            prefix_queries: Counter::default(),
            prefix_hits: Counter::default(),
            preemptions: Counter::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            iteration_tokens: Histogram::new(TOKENS),
            success: Family::default(),
            first_token: Histogram::new(FIRST_TOKEN_SECONDS),
            next_token: Histogram::new(NEXT_TOKEN_SECONDS),
            end_to_end: Histogram::new(REQUEST_SECONDS),
            queue: Histogram::new(REQUEST_SECONDS),
            prefill: Histogram::new(REQUEST_SECONDS),
            decode: Histogram::new(REQUEST_SECONDS),
            inference: Histogram::new(REQUEST_SECONDS),
            request_prompt_tokens: Histogram::new(TOKENS),
            request_generation_tokens: Histogram::new(TOKENS),
            params_n: Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0]),
            params_max_tokens: Histogram::new(TOKENS),
            cache_config: Family::default(),
        }
    }
}

impl EngineMetrics {
    /// Registers them with `model_name` and `engine` as labels.
    pub fn register(&self, registry: &mut Registry, model_name: &str) {
        let labels = [("model_name".into(), model_name.to_owned().into()), ("engine".into(), "0".into())];
        let registry = registry.sub_registry_with_labels(labels.into_iter());
        self.register_state(registry);
        self.register_times(registry);
    }

    fn register_state(&self, registry: &mut Registry) {
        registry.register("vllm:num_requests_running", "Sequences computing", self.running.clone());
        registry.register("vllm:num_requests_waiting", "Sequences waiting", self.waiting.clone());
        registry.register("vllm:kv_cache_usage_perc", "KV blocks in use; 1 is all", self.cache_usage.clone());
        registry.register("vllm:cache_config_info", "The KV cache's sizes", self.cache_config.clone());
        let counters = [
            (
                "vllm:prefix_cache_queries",
                "Prompt tokens looked up in the prefix cache",
                &self.prefix_queries,
            ),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache", &self.prefix_hits),
            ("vllm:num_preemptions", "Sequences that gave up their blocks", &self.preemptions),
            ("vllm:prompt_tokens", "Prompt tokens computed", &self.prompt_tokens),
            ("vllm:generation_tokens", "Tokens generated", &self.generation_tokens),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("vllm:request_success", "Choices finished, by reason", self.success.clone());
    }

    fn register_times(&self, registry: &mut Registry) {
        let histograms = [
            ("vllm:iteration_tokens_total", "Tokens computed in a step", &self.iteration_tokens),
            ("vllm:time_to_first_token_seconds", "From arrival to the first token", &self.first_token),
            ("vllm:inter_token_latency_seconds", "Between two tokens", &self.next_token),
            ("vllm:e2e_request_latency_seconds", "From arrival to the last token", &self.end_to_end),
            ("vllm:request_queue_time_seconds", "From arrival to admission", &self.queue),
            ("vllm:request_prefill_time_seconds", "From admission to the first token", &self.prefill),
            ("vllm:request_decode_time_seconds", "From the first token to the last", &self.decode),
            ("vllm:request_inference_time_seconds", "From admission to the last token", &self.inference),
            ("vllm:request_prompt_tokens", "Prompt tokens of a request", &self.request_prompt_tokens),
            (
                "vllm:request_generation_tokens",
                "Tokens generated for a choice",
                &self.request_generation_tokens,
            ),
            ("vllm:request_params_n", "Choices asked for", &self.params_n),
            ("vllm:request_params_max_tokens", "Most tokens asked for", &self.params_max_tokens),
        ];
        for (name, help, histogram) in histograms {
            registry.register(name, help, histogram.clone());
        }
    }

    pub(super) fn started(&self, sizes: Sizes) {
        let labels = CacheLabels {
            block_size: sizes.block_size,
            num_cpu_blocks: sizes.blocks,
            enable_prefix_caching: "True",
        };
        self.cache_config.get_or_create(&labels).set(1);
    }

    pub(super) fn arrived(&self, request: &Request) {
        self.request_prompt_tokens.observe(request.prompt.len() as f64);
        self.params_n.observe(request.choices as f64);
        self.params_max_tokens.observe(request.max_tokens as f64);
    }

    /// After each step: gauges, and what the counters grew by since `before`.
    pub(super) fn state(&self, before: &Stats, now: &Stats) {
        self.running.set(now.running as i64);
        self.waiting.set(now.waiting as i64);
        self.cache_usage.set(now.used_blocks as f64 / now.total_blocks.max(1) as f64);
        self.prefix_queries.inc_by(now.prefix_queries - before.prefix_queries);
        self.prefix_hits.inc_by(now.prefix_hits - before.prefix_hits);
        self.preemptions.inc_by(now.preemptions - before.preemptions);
    }

    pub(super) fn stepped(&self, prompt_tokens: usize, tokens: usize) {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.iteration_tokens.observe(tokens as f64);
    }

    pub(super) fn first_token(&self, since_arrival: Duration) {
        self.generation_tokens.inc();
        self.first_token.observe(since_arrival.as_secs_f64());
    }

    pub(super) fn next_token(&self, since_last: Duration) {
        self.generation_tokens.inc();
        self.next_token.observe(since_last.as_secs_f64());
    }

    pub(super) fn finished(&self, finish: &Finish) {
        let finished_reason = if finish.reason == FinishReason::Length { "length" } else { "stop" };
        self.success.get_or_create(&FinishedLabels { finished_reason }).inc();
        let times = finish.timings;
        self.queue.observe(times.queue.as_secs_f64());
        self.prefill.observe(times.prefill.as_secs_f64());
        self.decode.observe(times.decode.as_secs_f64());
        self.inference.observe((times.prefill + times.decode).as_secs_f64());
        self.end_to_end.observe((times.queue + times.prefill + times.decode).as_secs_f64());
        self.request_generation_tokens.observe(finish.completion_tokens as f64);
    }

    pub(super) fn embedded(&self, since_arrival: Duration) {
        self.success.get_or_create(&FinishedLabels { finished_reason: "stop" }).inc();
        self.end_to_end.observe(since_arrival.as_secs_f64());
    }

    /// A choice that its client left or that failed.
    pub(super) fn aborted(&self) {
        self.success.get_or_create(&FinishedLabels { finished_reason: "abort" }).inc();
    }

    /// Sequences computing and KV blocks in use, as last reported.
    pub fn load(&self) -> (i64, i64, f64) {
        (self.running.get(), self.waiting.get(), self.cache_usage.get())
    }
}
