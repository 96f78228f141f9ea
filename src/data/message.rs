//! One turn of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a row gives its model's chat template besides the messages: `tools`, `documents`, and the variables of
/// `chat_template_kwargs`.
pub type TemplateArguments = Map<String, Value>;

/// A turn: the speaker's role (`system`, `user`, `assistant`, `tool`), the text, and what else templates render.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    /// Empty for a turn that only calls tools.
    #[serde(default)]
    pub content: String,
    /// The assistant's reasoning, where the row keeps it apart from the content.
    #[serde(
        rename = "reasoning_content",
        alias = "reasoning",
        alias = "thinking",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub reasoning: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Whether supervised fine-tuning learns this turn of an assistant (rows say `weight`, `train` or `loss`).
    #[serde(skip, default = "learnt")]
    pub learnt: bool,
    /// Other fields of the row's message (`name`, `tool_call_id`, …), which templates may read.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

fn learnt() -> bool {
    true
}

impl Message {
    /// A turn of any role, which is not checked: chat templates decide which roles they know.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            learnt: true,
            fields: Map::new(),
        }
    }

    /// A turn of the `user` role.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A turn of the `assistant` role.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// The whole turn as one text, for a judge to read and for models whose templates know no better: the reasoning in a think
    /// block, the content, and each tool call as Qwen's templates write it.
    pub fn text(&self) -> String {
        let mut text = self.reasoned();
        for call in &self.tool_calls {
            text.push_str(if text.is_empty() { "<tool_call>\n" } else { "\n<tool_call>\n" });
            text.push_str(&call_text(call));
            text.push_str("\n</tool_call>");
        }
        text
    }

    /// The content, after the reasoning in a think block if there is any.
    pub fn reasoned(&self) -> String {
        match &self.reasoning {
            Some(reasoning) if !reasoning.trim().is_empty() => {
                format!("<think>\n{}\n</think>\n\n{}", reasoning.trim_matches('\n'), self.content)
            }
            _ => self.content.clone(),
        }
    }

    /// Whether two turns say the same; fields that no template must render (a row's own numbers, sources) may differ.
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.role, &self.content, &self.reasoning, &self.tool_calls)
            == (&other.role, &other.content, &other.reasoning, &other.tool_calls)
    }
}

/// `{"name": …, "arguments": {…}}` of a tool call, whose arguments may be an object or its JSON text.
fn call_text(call: &Value) -> String {
    let function = call.get("function").unwrap_or(call);
    let name = function.get("name").cloned().unwrap_or_default();
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str())),
        Some(other) => other.clone(),
        None => Value::Object(Map::new()),
    };
    let mut fields = Map::new();
    fields.insert("name".to_string(), name);
    fields.insert("arguments".to_string(), arguments);
    json_text(&Value::Object(fields))
}

/// JSON with a space after `,` and `:`, as Python writes it and models have read it.
pub(super) fn json_text(value: &Value) -> String {
    struct Spaced;
    impl serde_json::ser::Formatter for Spaced {
        fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
            out.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
            out.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
            out.write_all(b": ")
        }
    }
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Spaced);
    value.serialize(&mut serializer).expect("JSON in memory can be written");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// The prompt as a judge reads it: the tools and documents of the row, if there are any, come first, as turns of those names.
pub fn shown_prompt(prompt: &[Message], arguments: &TemplateArguments) -> Vec<Message> {
    let list = |name: &str| {
        let items = arguments.get(name)?.as_array().filter(|items| !items.is_empty())?;
        let lines: Vec<String> = items.iter().map(json_text).collect();
        Some(Message::new(name, lines.join("\n")))
    };
    ["tools", "documents"].into_iter().filter_map(list).chain(prompt.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_turn_as_text_shows_reasoning_and_calls() {
        let mut turn = Message::assistant("Let me look.");
        assert_eq!(turn.text(), "Let me look.");
        turn.reasoning = Some("\nwhere?\n".into());
        turn.tool_calls = vec![
            json!({"type": "function", "function": {"name": "find", "arguments": "{\"z\": [1,2], \"a\": \"é\"}"}}),
            json!({"name": "stop", "arguments": {}}),
        ];
        let calls = "<tool_call>\n{\"name\": \"find\", \"arguments\": {\"z\": [1, 2], \"a\": \"é\"}}\n</tool_call>\n\
                     <tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>";
        assert_eq!(turn.text(), format!("<think>\nwhere?\n</think>\n\nLet me look.\n{calls}"));
        turn.content.clear();
        turn.reasoning = None;
        assert_eq!(turn.text(), calls);
    }

    #[test]
    fn a_judge_sees_the_tools_before_the_turns() {
        let arguments = json!({"tools": [{"name": "f"}, {"name": "g"}], "documents": [], "enable_thinking": true});
        let shown = shown_prompt(&[Message::user("Q")], arguments.as_object().unwrap());
        assert_eq!(shown, [Message::new("tools", "{\"name\": \"f\"}\n{\"name\": \"g\"}"), Message::user("Q")]);
    }
}
