//! The chat template: Jinja as transformers runs it (trimmed blocks, Python's methods and ways of writing values), over our
//! messages. A template comes with a model and is not trusted: what it may compute is bounded.

use std::cell::Cell;
use std::sync::Once;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use serde_json::Map;

use super::TokenizerError;
use super::cost::{is_lazy, items_of};
use super::jinja::{BOUNDED, CONCATENATION, CONTAINED, ITEMS, PRODUCT, REMAINDER, translate};
use super::methods;
use super::objects::Generator;
use super::operators::{concatenation, product, remainder};
use super::python::{DEPTH_MAX, JsonStyle, dumps, str_of, too_large};
use crate::data::{Message, TemplateArguments};

/// The template for tokenizers that we train. It renders system, user and assistant turns as Qwen3's template does, but does
/// not support tools.
pub const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// The longest template, in bytes.
const SOURCE_MAX: usize = 1 << 20;

/// What one rendering may cost, in minijinja's units (an instruction, or 64 bytes that are made), besides the size of what it
/// renders. The longest templates in use take some thousand units a turn.
const FUEL: u64 = 10_000_000;

/// Marks the end of the content that is to be continued, as in transformers. The space shows whether the template trims it.
const CONTINUED: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Options of a rendering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenderOptions {
    /// Appends the header of an assistant turn, for the model to continue.
    pub add_generation_prompt: bool,
    /// `None` leaves the variable undefined, as transformers does when it is not given. Qwen3 with `Some(false)` puts
    /// an empty think block into the generation prompt. A row's own `enable_thinking` takes precedence.
    pub enable_thinking: Option<bool>,
    /// Ends the rendering after the last turn's content, for the model to go on with it. Not together with
    /// `add_generation_prompt`.
    pub continue_final_message: bool,
}

/// A compiled chat template.
#[derive(Clone, Debug)]
pub(super) struct ChatTemplate {
    /// The source as minijinja reads it.
    translated: String,
    environment: Environment<'static>,
    /// Whether it reads a message's reasoning under any of its names.
    pub reads_reasoning: bool,
    /// Whether it reads a message's content by its name.
    reads_content: bool,
}

impl ChatTemplate {
    /// Compiles a Jinja template with what Hugging Face's templates use. An error if its syntax is wrong.
    pub fn new(source: &str) -> Result<Self, TokenizerError> {
        if source.len() > SOURCE_MAX {
            return Err(TokenizerError::Template(format!("it has {} bytes, more than {SOURCE_MAX}", source.len())));
        }
        let translated = translate(source)?;
        let environment = environment().map_err(|error| template_error(&error))?;
        guarded(|| environment.template_from_str(&translated).map(|_| ()))?.map_err(|error| template_error(&error))?;
        let reads_reasoning = ["reasoning_content", "thinking", "reasoning"].iter().any(|name| reads(source, name));
        let reads_content = source.contains("content");
        Ok(Self { translated, environment, reads_reasoning, reads_content })
    }

    /// Renders the conversation. `special_tokens` (`bos_token`, `eos_token`, …) and the row's arguments are visible to the
    /// template, as in transformers.
    pub fn render(
        &self,
        messages: &[Message],
        arguments: &TemplateArguments,
        options: &RenderOptions,
        special_tokens: &Map<String, serde_json::Value>,
    ) -> Result<String, TokenizerError> {
        let mut turns: Vec<serde_json::Value> = messages.iter().map(turn).collect();
        if options.continue_final_message {
            let last = self.check_continued(messages, options)?;
            turns[messages.len() - 1]["content"] = format!("{}{CONTINUED}", last.content).into();
        }
        let rendered = self.run(turns.clone(), arguments, options, special_tokens);
        let rendered = rendered.or_else(|error| match parse_arguments(turns) {
            // Templates that walk through a call's arguments cannot take them as JSON text.
            Some(turns) => self.run(turns, arguments, options, special_tokens).map_err(|_| error),
            None => Err(error),
        })?;
        match messages.last() {
            Some(last) if options.continue_final_message => cut(rendered, &last.content),
            _ => Ok(rendered),
        }
    }

    /// The turn that is to be continued.
    fn check_continued<'a>(
        &self,
        messages: &'a [Message],
        options: &RenderOptions,
    ) -> Result<&'a Message, TokenizerError> {
        let fault = |reason: &str| Err(TokenizerError::Template(format!("continue_final_message: {reason}")));
        if options.add_generation_prompt {
            return fault("cannot go with add_generation_prompt: a turn is either continued or begun");
        }
        if !self.reads_content {
            return fault("the template does not read the content of messages");
        }
        messages.last().map_or_else(|| fault("there is no message to continue"), Ok)
    }

    fn run(
        &self,
        turns: Vec<serde_json::Value>,
        arguments: &TemplateArguments,
        options: &RenderOptions,
        special_tokens: &Map<String, serde_json::Value>,
    ) -> Result<String, TokenizerError> {
        let mut variables = special_tokens.clone();
        variables.insert("tools".to_string(), serde_json::Value::Null);
        variables.insert("documents".to_string(), serde_json::Value::Null);
        if let Some(thinking) = options.enable_thinking {
            variables.insert("enable_thinking".to_string(), thinking.into());
        }
        variables.extend(arguments.clone());
        variables.insert("messages".to_string(), turns.into());
        variables.insert("add_generation_prompt".to_string(), options.add_generation_prompt.into());
        let variables = serde_json::Value::Object(variables);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + size(&variables) as u64));
        let rendered = guarded(|| {
            let template = environment.template_from_str(&self.translated)?;
            template.render(Value::from(Serde(&variables)))
        })?;
        rendered.map_err(|error| template_error(&error))
    }
}

thread_local! {
    /// Whether a panic on this thread is a template's fault.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic on a template that is wrong: minijinja does. Such a panic is an error, and is printed nowhere.
fn guarded<T>(task: impl FnOnce() -> T) -> Result<T, TokenizerError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    GUARDED.set(true);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
    GUARDED.set(false);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        TokenizerError::Template(format!(
            "it cannot be run: {}",
            text.unwrap_or("it is wrong in a way that has no message")
        ))
    })
}

/// The rendering up to the end of the last turn's content. White space there that the template has trimmed is left out.
fn cut(mut rendered: String, content: &str) -> Result<String, TokenizerError> {
    let tag = CONTINUED.trim_end();
    match rendered.rfind(tag).filter(|_| rendered.contains(content.trim())) {
        Some(end) => {
            let kept = rendered[end..].starts_with(CONTINUED);
            rendered.truncate(if kept { end } else { rendered[..end].trim_end().len() });
            Ok(rendered)
        }
        None => Err(TokenizerError::Template(
            "continue_final_message: the content of the last message does not appear in what the template renders (it drops or \
             rewrites parts of it), so where to go on is unknown"
                .to_string(),
        )),
    }
}

/// A message as transformers gives it to a template.
fn turn(message: &Message) -> serde_json::Value {
    let mut turn = Map::new();
    turn.insert("role".to_string(), message.role.as_str().into());
    turn.insert("content".to_string(), message.content.as_str().into());
    turn.extend(message.fields.clone());
    if let Some(reasoning) = &message.reasoning {
        for name in ["reasoning_content", "reasoning", "thinking"] {
            turn.insert(name.to_string(), reasoning.as_str().into());
        }
    }
    if !message.tool_calls.is_empty() {
        turn.insert("tool_calls".to_string(), message.tool_calls.clone().into());
    }
    turn.into()
}

fn template_error(error: &Error) -> TokenizerError {
    TokenizerError::Template(error.to_string())
}

/// Whether a template reads a field of this name (`message.NAME`, `message['NAME']`, `'NAME' in message`).
fn reads(source: &str, name: &str) -> bool {
    [format!(".{name}"), format!("'{name}'"), format!("\"{name}\"")].iter().any(|text| source.contains(text.as_str()))
}

/// The turns with the JSON text of every call's arguments parsed; `None` if there is no such text.
fn parse_arguments(mut turns: Vec<serde_json::Value>) -> Option<Vec<serde_json::Value>> {
    let mut parsed = false;
    let calls = turns.iter_mut().filter_map(|turn| turn.get_mut("tool_calls")?.as_array_mut()).flatten();
    for call in calls {
        let function = if call.get("function").is_some() { &mut call["function"] } else { call };
        let arguments = function.get("arguments").and_then(serde_json::Value::as_str);
        if let Some(object) = arguments.and_then(|text| serde_json::from_str::<Map<_, _>>(text).ok()) {
            function["arguments"] = object.into();
            parsed = true;
        }
    }
    parsed.then_some(turns)
}

/// Roughly the bytes of a value.
fn size(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len(),
        serde_json::Value::Array(items) => items.iter().map(|item| 16 + size(item)).sum(),
        serde_json::Value::Object(fields) => fields.iter().map(|(key, value)| 16 + key.len() + size(value)).sum(),
        _ => 8,
    }
}

/// Jinja as transformers configures it.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_formatter(|out, state, value| {
        let text = str_of(state, value)?;
        out.write_str(&text).map_err(Error::from)
    });
    environment.set_unknown_method_callback(methods::call);
    methods::add(&mut environment);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |state: &State, reason: Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, str_of(state, &reason)?))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_function(REMAINDER, remainder);
    environment.add_function(PRODUCT, product);
    environment.add_function(CONCATENATION, concatenation);
    environment.add_function(BOUNDED, bounded);
    environment.add_function(ITEMS, items);
    environment.add_function(CONTAINED, methods::is_in);
    Ok(environment)
}

/// `tojson` as transformers defines it: Python's `json.dumps` with `ensure_ascii=False`. Jinja's own filter escapes
/// `<`, `>` and `&` for HTML, which would change what the model reads.
fn to_json(state: &State, value: Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if positional.len() > NAMES.len() {
        return Err(Error::new(ErrorKind::TooManyArguments, "tojson takes 4 arguments"));
    }
    let argument = |index: usize| -> Result<Option<Value>, Error> {
        let named: Option<Value> = named.get(NAMES[index])?;
        Ok(positional.get(index).cloned().or(named).filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let indent = argument(1)?.map(|value| match (value.kind(), value.as_str()) {
        (_, Some(text)) => Ok(text.to_string()),
        (ValueKind::Bool, _) => Ok(" ".repeat(usize::from(value.is_true()))),
        _ => i64::try_from(value).map(|spaces| " ".repeat(spaces.clamp(0, 64) as usize)),
    });
    let separators = match argument(2)? {
        Some(value) => {
            let texts: Vec<Value> = value.try_iter()?.collect();
            match texts.iter().map(Value::as_str).collect::<Vec<_>>()[..] {
                [Some(item), Some(key)] => Some((item.to_string(), key.to_string())),
                _ => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two texts")),
            }
        }
        None => None,
    };
    let style = JsonStyle {
        ensure_ascii: argument(0)?.is_some_and(|value| value.is_true()),
        indent: indent.transpose()?,
        separators,
        sort_keys: argument(3)?.is_some_and(|value| value.is_true()),
    };
    named.assert_all_used()?;
    dumps(state, &value, &style)
}

/// What a variable is set to, if it is not nested too deeply. What minijinja has not made yet becomes a list: one over the
/// other, they would nest as well.
fn bounded(state: &State, value: Value) -> Result<Value, Error> {
    let value = if is_lazy(&value) { Value::from(items_of(state, &value)?) } else { value };
    check_depth(state, &value, 0)?;
    Ok(value)
}

/// What a loop goes over. minijinja knows the number of items of lists alone, and takes none for an empty one.
fn items(state: &State, value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::String | ValueKind::Iterable => items_of(state, &value).map(Value::from),
        _ => Ok(value),
    }
}

fn check_depth(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(too_large());
    }
    state.consume_fuel(1)?;
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return generator.peek().iter().try_for_each(|item| check_depth(state, item, depth + 1));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.try_for_each(|item| check_depth(state, &item, depth + 1))
        }
        ValueKind::Map => value
            .try_iter()?
            .try_for_each(|key| value.get_item(&key).and_then(|item| check_depth(state, &item, depth + 1))),
        _ => Ok(()),
    }
}

/// The local time, as C's `strftime` writes it.
fn strftime_now(pattern: String) -> Result<String, Error> {
    let unusable = || Error::new(ErrorKind::InvalidOperation, format!("strftime_now: cannot write {pattern:?}"));
    if pattern.is_empty() {
        return Ok(String::new());
    }
    let text = std::ffi::CString::new(pattern.as_str()).map_err(|_| unusable())?;
    let mut out = vec![0_u8; 64 * pattern.len().min(1 << 10) + 64];
    // SAFETY: `time` takes a null pointer; `localtime_r` writes a `tm`, for which zeros are a value; `strftime` reads `text`,
    // which ends with a zero, and writes at most `out.len()` bytes.
    let written = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut parts).is_null() {
            return Err(unusable());
        }
        libc::strftime(out.as_mut_ptr().cast(), out.len(), text.as_ptr(), &parts)
    };
    out.truncate(written);
    String::from_utf8(out).map_err(|_| unusable())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, TokenizerError> {
        let tokens = json!({"eos_token": "E", "bos_token": "B"}).as_object().unwrap().clone();
        ChatTemplate::new(source)?.render(messages, &TemplateArguments::new(), &RenderOptions::default(), &tokens)
    }

    #[test]
    fn python_isms_work() {
        let source = "{%- set ns = namespace(n=0) -%}\
            {%- for m in messages[::-1] -%}{%- set ns.n = ns.n + loop.index0 -%}{{ m.content }}{{ ',' }}{%- endfor -%}\
            {{ ns.n }} {{ messages[0].content.split('b')[-1] }} {{ 'xx\n\n'.rstrip('\n') }} \
            {{ messages[0].content.startswith('ab') }} {{ messages[0].content is string }} \
            {{ messages[0].tool_calls is defined }} {{ messages[0].nothing is string }} {{ '--a-'.strip('-') }}";
        let text = render(source, &[Message::user("abc"), Message::user("d")]).unwrap();
        assert_eq!(text, "d,abc,1 c xx True True False False a");
    }

    #[test]
    fn lines_of_blocks_leave_nothing() {
        let source = "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}";
        assert_eq!(render(source, &[Message::user("a"), Message::user("b")]).unwrap(), "a\nb\n");
    }

    #[test]
    fn the_date_is_todays() {
        let year: i32 = render("{{ strftime_now('%Y') }}", &[]).unwrap().parse().unwrap();
        assert!((2024..3000).contains(&year));
        assert_eq!(render("{{ strftime_now('') }}{{ strftime_now('%% é') }}", &[]).unwrap(), "% é");
    }

    #[test]
    fn faults_are_errors() {
        assert!(matches!(ChatTemplate::new("{% if %}"), Err(TokenizerError::Template(_))));
        let raised = render("{{ raise_exception('no tools here') }}", &[]).unwrap_err().to_string();
        assert!(raised.contains("no tools here"), "{raised}");
        for source in [
            "{{ nothing.at_all }}",
            "{{ 1 % 0 }}",
            "{{ [] % 2 }}",
            "{{ 1|tojson(separators=3) }}",
            "{% for x in none %}{% endfor %}",
            "{{ 1 in 'a1' }}",
        ] {
            assert!(render(source, &[]).is_err(), "{source}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let looped = |body: &str| format!("{{% for x in [1, 2] %}}{body}{{% endfor %}}");
        for (source, name) in [
            (looped("{% with %}{% break %}{% endwith %}"), "{% break %} in a block of with"),
            (looped("{% generation %}{% if x %}{%- continue %}{% endif %}{% endgeneration %}"), "block of generation"),
            (looped("{% set y %}{% break %}{% endset %}"), "block of set"),
            (looped("{% filter upper %}{% break %}{% endfilter %}"), "block of filter"),
            (looped("{{ loop.cycle() }}"), "cannot be run"),
            ("{{ 'a' | wordwrap }}".to_string(), "wordwrap"),
            ("{{ 1 | filesizeformat }}".to_string(), "filesizeformat"),
            ("{{ [1] | random }}".to_string(), "random"),
            ("{{ 1 is odder }}".to_string(), "odder"),
            ("{{ 'a'.encode() }}".to_string(), "encode"),
            ("{{ lipsum() }}".to_string(), "lipsum"),
            ("{{ '{!q}'.format(1) }}".to_string(), "!q"),
            ("{{ '\\N{BULLET}' }}".to_string(), "by its name"),
            ("{% autoescape true %}{{ 1 }}{% endautoescape %}".to_string(), "autoescape"),
            ("{% macro m() %}{{ varargs }}{% endmacro %}{{ m() }}".to_string(), "varargs in a macro"),
            ("{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(1) }}".to_string(), "uses a of the same tag"),
            ("{% with a = 1, b = a %}{{ b }}{% endwith %}".to_string(), "uses a of the same tag"),
            ("{% do [].append(1) %}".to_string(), "{% do %}"),
            ("{{ [1] | select }}".to_string(), "put | list after it"),
            ("{{ [1] | select | length }}".to_string(), "put | list before it"),
            ("{{ namespace(a=1) }}".to_string(), "a namespace"),
            ("{{ range }}".to_string(), "a function"),
            ("{{ [1] | zip([2]) }}".to_string(), "zip"),
        ] {
            let error = render(&source, &[]).unwrap_err().to_string();
            assert!(error.contains(name), "{source}: {error}");
        }
        let left = "{% for x in [1, 2] %}{% with %}{% for y in [1, 2] %}{% break %}{% endfor %}{% endwith %}{% set z = 1 %}\
                    {% set q %}{% endset %}{% break %}{% endfor %}.";
        assert_eq!(render(left, &[]).unwrap(), ".");
        assert_eq!(
            render("{% raw %}{% with %}{% endraw %}{% for x in [1] %}{% break %}{% endfor %}", &[]).unwrap(),
            "{% with %}"
        );
    }

    #[test]
    fn what_a_template_may_compute_is_bounded() {
        let nest = "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}";
        for source in [
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_string(),
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_string(),
            "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}".to_string(),
            "{{ 'a' * 99999999999 }}".to_string(),
            "{{ '%999999999999d' % 1 }}".to_string(),
            "{{ '%*d' % (999999999999, 1) }}".to_string(),
            "{{ '%.999999999999f' % 1 }}".to_string(),
            "{{ '%999999999999d' | format(1) }}".to_string(),
            "{{ '{:>999999999999}'.format(1) }}".to_string(),
            "{{ '{:{}}'.format(1, 999999999999) }}".to_string(),
            "{{ 'a'.center(999999999999) }}".to_string(),
            "{{ 'a' | indent(999999999999) }}".to_string(),
            "{{ [1] * 999999999999 }}".to_string(),
            "{{ 10 ** 10 ** 10 }}".to_string(),
            "{% set a = 'a' * 60000 %}{{ a.replace('a', 'b' * 60000) }}".to_string(),
            "{% set a = 'a' * 60000 %}{{ a | replace('a', 'b' * 60000) }}".to_string(),
            "{{ ('b' * 60000).join(['a'] * 60000) }}".to_string(),
            "{{ ['a'] * 60000 | join('b' * 60000) }}".to_string(),
            "{{ [['a' * 60000] * 60000] ~ '' }}".to_string(),
            "{{ [['a' * 60000] * 60000] | upper }}".to_string(),
            "{{ [['a' * 60000] * 60000] | tojson }}".to_string(),
            "{{ '%s' % [['a' * 60000] * 60000] }}".to_string(),
            "{{ ('{0}' * 60000).format('a' * 60000) }}".to_string(),
            "{{ ('%(a)s' * 60000) % {'a': 'a' * 60000} }}".to_string(),
            "{{ ('{:9999}' * 60000).format(1) }}".to_string(),
            "{{ ('\n' * 60000) | indent(60000, blank=true) }}".to_string(),
            "{{ ('\t' * 60000).expandtabs(60000) }}".to_string(),
            "{{ ('a,' * 60000000).split(',') | length }}".to_string(),
            "{{ (1,) * 999999999999 }}".to_string(),
            "{{ [1] | slice(999999999) | list }}".to_string(),
            "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}".to_string(),
            "{% set n = namespace(x=1) %}{% for i in range(9999) %}{% set n.x = [n.x] | select %}{% endfor %}"
                .to_string(),
            nest.to_string(),
            "{% set x = [] %}".to_string() + &"{% set x = [x, x] %}".repeat(60) + "{{ x }}",
            format!("{nest}{{{{ n.x }}}}"),
            format!("{nest}{{{{ n.x|tojson }}}}"),
            "a".repeat(SOURCE_MAX + 1),
        ] {
            assert!(render(&source, &[]).is_err(), "{}", &source[..source.len().min(90)]);
        }
        // One iterator over the other would nest; each is a list before the next.
        let mapped = "{% set n = namespace(x=[1]) %}\
            {% for i in range(9999) %}{% set n.x = n.x | map('upper') %}{% endfor %}{{ n.x | list }}";
        assert_eq!(render(mapped, &[]).unwrap(), "['1']");
    }
}
