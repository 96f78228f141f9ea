//! The chat template: Jinja as transformers runs it (trimmed blocks, Python's string methods), over our messages.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, context};

use super::TokenizerError;
use crate::data::Message;

/// The template for tokenizers that we train. It renders system, user and assistant turns as Qwen3's template does, but does
/// not support tools.
pub const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// Options of a rendering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenderOptions {
    /// Appends the header of an assistant turn, for the model to continue.
    pub add_generation_prompt: bool,
    /// `None` leaves the variable undefined, as transformers does when it is not given. Qwen3 with `Some(false)` puts
    /// an empty think block into the generation prompt.
    pub enable_thinking: Option<bool>,
}

/// A parsed chat template.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    pub source: String,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a Jinja template with the filters and methods that Hugging Face's templates use. An error if its syntax is wrong.
    pub fn new(source: String) -> Result<Self, TokenizerError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TokenizerError::Template(error.to_string()))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |reason: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment.template_from_str(&source).map_err(|error| TokenizerError::Template(format!("{error:#}")))?;
        Ok(Self { source, environment })
    }

    /// Renders the conversation. `eos_token` and `pad_token` are visible to the template, as in transformers.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        eos_token: &str,
        pad_token: &str,
    ) -> Result<String, TokenizerError> {
        let turns: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        let variables = context! {
            messages => Value::from(turns),
            add_generation_prompt => options.add_generation_prompt,
            enable_thinking => options.enable_thinking.map_or(Value::UNDEFINED, Value::from),
            eos_token => eos_token,
            pad_token => pad_token,
        };
        self.environment
            .template_from_str(&self.source)
            .and_then(|template| template.render(variables))
            .map_err(|error| TokenizerError::Template(format!("{error:#}")))
    }
}

/// `tojson` as transformers defines it: Python's `json.dumps` with `ensure_ascii=False`. Jinja's own filter escapes
/// `<`, `>` and `&` for HTML, which would change what the model reads.
fn to_json(value: Value) -> Result<String, Error> {
    let mut out = String::new();
    write_json(&value, &mut out)?;
    Ok(out)
}

fn write_json(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => write_json_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_json(&item, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_json_string(&key.to_string(), out);
                out.push_str(": ");
                write_json(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        kind => return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} has no JSON form"))),
    }
    Ok(())
}

fn write_json_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, TokenizerError> {
        ChatTemplate::new(source.to_string())?.render(messages, &RenderOptions::default(), "E", "P")
    }

    #[test]
    fn python_isms_work() {
        let source = "{%- set ns = namespace(n=0) -%}\
            {%- for m in messages[::-1] -%}{%- set ns.n = ns.n + loop.index0 -%}{{ m.content }}{{ ',' }}{%- endfor -%}\
            {{ ns.n }} {{ messages[0].content.split('b')[-1] }} {{ 'xx\n\n'.rstrip('\n') }} \
            {{ messages[0].content.startswith('ab') }} {{ messages[0].content is string }} \
            {{ messages[0].tool_calls is defined }} {{ messages[0].nothing is string }} {{ '--a-'.strip('-') }}";
        let text = render(source, &[Message::user("abc"), Message::user("d")]).unwrap();
        assert_eq!(text.to_lowercase(), "d,abc,1 c xx true true false false a");
    }

    #[test]
    fn lines_of_blocks_leave_nothing() {
        let source = "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}";
        assert_eq!(render(source, &[Message::user("a"), Message::user("b")]).unwrap(), "a\nb\n");
    }

    #[test]
    fn tojson_is_pythons() {
        let source = r#"{{ {"a": [1, 2.5, true, none], "b": "<é\"\n>"} | tojson }}"#;
        assert_eq!(render(source, &[]).unwrap(), r#"{"a": [1, 2.5, true, null], "b": "<é\"\n>"}"#);
    }

    #[test]
    fn faults_are_errors() {
        assert!(matches!(ChatTemplate::new("{% if %}".into()), Err(TokenizerError::Template(_))));
        let raised = render("{{ raise_exception('no tools here') }}", &[]).unwrap_err().to_string();
        assert!(raised.contains("no tools here"), "{raised}");
    }
}
