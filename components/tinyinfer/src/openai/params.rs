//! The parameters that completions and chat share: OpenAI's, and vLLM's additions.

use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, token, wrong_type, wrong_value};
use crate::engine::{Request, StopRules};
use crate::sampling::SamplingParams;
use crate::served::{Generator, RequestLimits};

/// Most alternatives reported beside a token.
pub const MOST_LOGPROBS: usize = 20;
/// Most stop strings of a request, and bytes of one.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 1024;

/// What completions and chat share, checked.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Choices for each prompt.
    pub choices: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// What ends a reply.
    pub stop: StopRules,
    /// Most tokens, when given.
    pub max_tokens: Option<usize>,
    /// Whether special tokens are left out of the text.
    pub skip_special: bool,
    /// Whether the reply streams.
    pub stream: bool,
    /// Whether a stream ends with the token counts.
    pub include_usage: bool,
    /// See [`Request::salt`].
    pub salt: u64,
    /// Alternatives beside each prompt token.
    pub prompt_logprobs: Option<usize>,
    limits: RequestLimits,
}

impl Generation {
    /// Reads them. `least_tokens` is the smallest `max_tokens` that makes sense.
    pub fn read(
        fields: &Fields,
        generator: &Generator,
        limits: RequestLimits,
        least_tokens: usize,
    ) -> Result<Self, ApiError> {
        refuse_unsupported(fields)?;
        let limit =
            ["max_completion_tokens", "max_tokens"].into_iter().find(|name| fields.given(name).is_some());
        let max_tokens =
            limit.map(|name| fields.count(name, least_tokens, u32::MAX as usize)).transpose()?.flatten();
        let stream = fields.flag("stream", false)?;
        let stream_options = fields.object("stream_options")?;
        if stream_options.is_some() && !stream {
            return Err(wrong_value("stream_options", "it is only allowed when 'stream' is true"));
        }
        let include_usage = match &stream_options {
            Some(options) => {
                options.flag("include_usage", false).map_err(|e| e.about("stream_options.include_usage"))?
            }
            None => false,
        };
        // More than there are places for would be told to come back for ever.
        let choices = fields.count("n", 1, limits.max_choices.min(generator.engine.places()))?.unwrap_or(1);
        if fields.count("best_of", 1, usize::MAX)?.is_some_and(|best_of| best_of != choices) {
            return Err(ApiError::unsupported(
                "best_of",
                "best_of other than n is not supported by this server.",
            ));
        }
        let stop = stop_rules(fields)?;
        let sampling = sampling(fields, generator, &stop)?;
        Ok(Self {
            choices,
            sampling,
            stop,
            max_tokens,
            skip_special: fields.flag("skip_special_tokens", true)?,
            stream,
            include_usage,
            salt: fields.text("cache_salt")?.map_or(0, |salt| xxhash_rust::xxh3::xxh3_64(salt.as_bytes())),
            prompt_logprobs: fields.count("prompt_logprobs", 0, MOST_LOGPROBS)?,
            limits,
        })
    }

    /// A request for the engine.
    pub fn request(&self, prompt: Vec<u32>, max_tokens: usize) -> Request {
        Request {
            prompt,
            max_tokens,
            choices: self.choices,
            sampling: self.sampling.clone(),
            stop: self.stop.clone(),
            prompt_logprobs: self.prompt_logprobs,
            skip_special: self.skip_special,
            salt: self.salt,
            deadline: self.limits.deadline(),
        }
    }
}

/// What this server does not do is said, not ignored: the reply would not be what was asked for.
fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    let grammar = "Structured output is not supported by this server yet.";
    for name in ["guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"] {
        fields.refuse(name, grammar)?;
    }
    if let Some(format) = fields.object("response_format")?
        && format.text("type")?.is_some_and(|kind| kind != "text")
    {
        return Err(ApiError::unsupported("response_format", grammar));
    }
    fields.refuse("use_beam_search", "Beam search is not supported by this server.")?;
    fields.refuse("prompt_embeds", "Prompt embeddings are not supported by this server.")?;
    fields.refuse("bad_words", "bad_words is not supported by this server; use logit_bias.")?;
    fields.refuse("allowed_token_ids", "allowed_token_ids is not supported by this server; use logit_bias.")
}

fn sampling(fields: &Fields, generator: &Generator, stop: &StopRules) -> Result<SamplingParams, ApiError> {
    let number = |name: &str, range, default: f32| {
        fields.number(name, range).map(|given| given.map_or(default, |given| given as f32))
    };
    let top_p = number("top_p", 0.0..=1.0, 1.0)?;
    // vLLM's way to say "all" is -1.
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?.unwrap_or(0).max(0) as usize;
    let repetition_penalty = number("repetition_penalty", 0.0..=10.0, 1.0)?;
    if repetition_penalty <= 0.0 {
        return Err(wrong_value("repetition_penalty", "it must be greater than 0"));
    }
    let seed = fields.integer("seed", i64::MIN..=i64::MAX)?.map_or_else(rand::random, |seed| seed as u64);
    let mut ending_tokens = stop.tokens.clone();
    ending_tokens.extend(&generator.engine.model().eos);
    Ok(SamplingParams {
        temperature: number("temperature", 0.0..=2.0, 1.0)?,
        top_k,
        top_p,
        min_p: number("min_p", 0.0..=1.0, 0.0)?,
        presence_penalty: number("presence_penalty", -2.0..=2.0, 0.0)?,
        frequency_penalty: number("frequency_penalty", -2.0..=2.0, 0.0)?,
        repetition_penalty,
        seed,
        logit_bias: logit_bias(fields, generator.engine.model().vocab)?,
        logprobs: None,
        ending_tokens,
        min_tokens: fields.count("min_tokens", 0, u32::MAX as usize)?.unwrap_or(0),
    })
}

fn logit_bias(fields: &Fields, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let mut read = Vec::new();
    for (key, value) in biases.into_map() {
        let name = format!("logit_bias.{key}");
        let token: u32 =
            key.parse().map_err(|_| wrong_value("logit_bias", &format!("the key '{key}' is no token id")))?;
        if token as usize >= vocab {
            return Err(wrong_value(&name, &format!("the vocabulary has {vocab} tokens")));
        }
        let bias = value.as_f64().ok_or_else(|| wrong_type(&name, "a number", &value))?;
        if !(-100.0..=100.0).contains(&bias) {
            return Err(wrong_value(&name, &format!("{bias} is not between -100 and 100")));
        }
        read.push((token, bias as f32));
    }
    Ok(read)
}

fn stop_rules(fields: &Fields) -> Result<StopRules, ApiError> {
    let strings = match fields.given("stop") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(items)) => {
            let text = |(at, item): (usize, &Value)| {
                let text = item.as_str().map(str::to_owned);
                text.ok_or_else(|| wrong_type(&format!("stop[{at}]"), "a string", item))
            };
            items.iter().enumerate().map(text).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", other)),
    };
    if strings.len() > MOST_STOPS {
        return Err(wrong_value(
            "stop",
            &format!("{} strings, at most {MOST_STOPS} are allowed", strings.len()),
        ));
    }
    if strings.iter().any(|stop| stop.is_empty() || stop.len() > LONGEST_STOP) {
        return Err(wrong_value("stop", &format!("each string has between 1 and {LONGEST_STOP} bytes")));
    }
    let tokens = fields.array("stop_token_ids")?.unwrap_or_default();
    let tokens = tokens.iter().enumerate().map(|(at, item)| token(&format!("stop_token_ids[{at}]"), item));
    Ok(StopRules {
        strings,
        tokens: tokens.collect::<Result<_, _>>()?,
        ignore_eos: fields.flag("ignore_eos", false)?,
        keep: fields.flag("include_stop_str_in_output", false)?,
    })
}
