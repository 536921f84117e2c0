//! Chat templates: a conversation becomes the text that the model was trained to continue.
//!
//! Templates are Jinja2 written for Python, so the environment here is Hugging Face's: `trim_blocks` and
//! `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now`, its own `tojson`, Python's string and dict
//! methods, and values printed as Python prints them (`True`, `None`, `['a']`). `{% generation %}` marks, which only
//! training reads, are passed over. Golden files made with `transformers` hold the two equal.

mod python;
mod strftime;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use serde_json::{Map, Value as Json};

/// Appended to a message that the model shall continue, to find its end in the rendered text.
const CONTINUE_MARK: &str = "<|CONTINUE-THIS-MESSAGE|> ";

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is no valid Jinja.
    #[error("the model's chat template cannot be parsed: {reason}")]
    Parse {
        /// What the parser said.
        reason: String,
    },
    /// The template refused the conversation by `raise_exception`.
    #[error("{message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template failed on this conversation.
    #[error("the model's chat template failed on these messages: {reason}")]
    Render {
        /// What the renderer said.
        reason: String,
    },
    /// The last message was to be continued and is not in the rendered text.
    #[error("continue_final_message: the last message has no text that the model's chat template shows")]
    NothingToContinue,
}

/// What goes into a template beside the messages.
#[derive(Debug, Clone)]
pub struct RenderOptions {
    /// End with the beginning of an assistant's reply.
    pub add_generation_prompt: bool,
    /// Leave the last message open, for the model to continue it.
    pub continue_final_message: bool,
    /// `chat_template_kwargs`: further variables.
    pub extra: Map<String, Json>,
    /// What `strftime_now` shows, in UTC.
    pub now: SystemTime,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            continue_final_message: false,
            extra: Map::new(),
            now: SystemTime::now(),
        }
    }
}

/// A model's chat template, parsed.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Parses `source`; `bos` and `eos` are the spellings of the model's special tokens, empty when it has none.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| ChatError::Parse { reason: error.to_string() })?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| python::print(out, value));
        environment.add_filter("tojson", tojson);
        environment.add_filter("string", |value: &Value| python::string(value));
        environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, python::string(message)).with_source(Raised))
        });
        environment
            .add_template_owned("chat", without_generation_marks(source))
            .map_err(|error| ChatError::Parse { reason: error.to_string() })?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Renders a conversation: OpenAI's message objects in order.
    pub fn render(&self, messages: &[Json], options: &RenderOptions) -> Result<String, ChatError> {
        let mut messages = messages.to_vec();
        if options.continue_final_message {
            mark_final_message(&mut messages)?;
        }
        let now = options.now;
        let strftime_now =
            Value::from_function(move |format: &str| -> String { strftime::strftime(format, now) });
        let own = context! {
            strftime_now => strftime_now,
            messages => messages.iter().map(from_json).collect::<Vec<_>>(),
            tools => Value::from(()),
            documents => Value::from(()),
            bos_token => &self.bos,
            eos_token => &self.eos,
            add_generation_prompt => options.add_generation_prompt,
        };
        let extra =
            Value::from_pairs(options.extra.iter().map(|(key, value)| (key.as_str(), from_json(value))));
        let context = context! { ..own, ..extra };
        let template = self.environment.get_template("chat").expect("added when this was built");
        let text = template.render(context).map_err(|error| render_error(&error))?;
        if options.continue_final_message { cut_at_mark(&text) } else { Ok(text) }
    }
}

fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (_, Some(integer)) => Value::from(integer),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(pairs) => {
            Value::from_pairs(pairs.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// Marks errors that the template raised on purpose.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

fn render_error(error: &Error) -> ChatError {
    let raised = std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<Raised>);
    if raised {
        ChatError::Refused { message: error.detail().unwrap_or_default().to_owned() }
    } else {
        ChatError::Render { reason: error.to_string() }
    }
}

#[allow(clippy::needless_pass_by_value)] // the template engine hands them over
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let style = python::JsonStyle {
        indent: options.get::<Option<usize>>("indent")?,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: options.get::<Option<Vec<String>>>("separators")?,
    };
    options.assert_all_used()?;
    python::json(value, &style)
}

/// `{% generation %}` and its end become blocks that do nothing, with the same effect on white space.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, block) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = block.find("%}") else { break };
        let (block, after) = block.split_at(end + 2);
        let word = block[2..end].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        match word {
            "generation" => out.push_str(&block.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&block.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(block),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn mark_final_message(messages: &mut [Json]) -> Result<(), ChatError> {
    let content =
        messages.last_mut().and_then(|m| m.get_mut("content")).ok_or(ChatError::NothingToContinue)?;
    let text = match content {
        Json::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        text => Some(text),
    };
    match text {
        Some(Json::String(text)) => text.push_str(CONTINUE_MARK),
        _ => return Err(ChatError::NothingToContinue),
    }
    Ok(())
}

fn cut_at_mark(text: &str) -> Result<String, ChatError> {
    let at = text.rfind(CONTINUE_MARK.trim_end()).ok_or(ChatError::NothingToContinue)?;
    // A template that trims messages has trimmed the mark's own space, and then the message's end is trimmed too.
    let kept = text[at..].starts_with(CONTINUE_MARK);
    Ok(if kept { text[..at].to_owned() } else { text[..at].trim_end().to_owned() })
}
