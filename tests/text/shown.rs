//! What a chat template leaves out of a conversation is found, and is an error by its name.

use patarm::data::Conversation;
use patarm::tokenizer::{RenderOptions, Tokenizer};
use serde_json::{Value, json};

use crate::tiny::{inner, tokenizer};

const TURNS: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn with_template(head: &str, turns: &str) -> Tokenizer {
    Tokenizer::from_parts(inner(), format!("{head}{turns}"), "<|im_end|>", "<|endoftext|>").unwrap()
}

fn conversation(arguments: Value, turns: Value) -> Conversation {
    let row = json!({"id": 1, "messages": turns, "chat_template_kwargs": arguments});
    serde_json::from_value(row).unwrap()
}

/// Supervised rows and prompts of chats say the same of what their template leaves out.
#[track_caller]
fn check(tokenizer: &Tokenizer, arguments: Value, turns: Value, hidden: Option<&str>) {
    let row = conversation(arguments, turns);
    let learnt = tokenizer.encode_conversation(&row, true, usize::MAX).err().map(|error| error.to_string());
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let (_, before) = row.messages.split_last().unwrap();
    let asked = tokenizer.encode_outside(before, &row.arguments, &options).err().map(|error| error.to_string());
    for said in [learnt, asked] {
        match hidden {
            None => assert_eq!(said, None),
            Some(words) => assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{words}: {said:?}"),
        }
    }
}

#[test]
fn what_a_template_leaves_out_is_found_whatever_the_conversation_says() {
    let talk =
        json!([{"role": "user", "content": "find add The sky"}, {"role": "assistant", "content": "find add The sky"}]);
    let tools = json!({"tools": [{"type": "function", "function": {"name": "find"}}, {"name": "add"}]});
    let documents = json!({"documents": [{"title": "t", "text": "The sky"}, {"title": "u", "text": "The sky is"}]});
    let plain = with_template("", TURNS);
    check(&plain, tools.clone(), talk.clone(), Some("does not render them all: tools[0]"));
    check(&plain, documents.clone(), talk.clone(), Some("does not render them all: documents[0]"));
    let first = with_template("{{ tools[0] | tojson if tools }}{{ documents[0].text if documents }}", TURNS);
    check(&first, tools.clone(), talk.clone(), Some("does not render them all: tools[1]"));
    check(&first, documents.clone(), talk.clone(), Some("does not render them all: documents[1]"));
    let titles = with_template("{% for d in documents or [] %}{{ d.title }}{% endfor %}", TURNS);
    check(&titles, documents.clone(), talk.clone(), Some("does not render them all: documents[0]"));
    let all =
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for d in documents or [] %}{{ d.text }}{% endfor %}";
    let all = with_template(all, TURNS);
    for arguments in [tools.clone(), documents, json!({"tools": []}), json!({"documents": []}), json!({})] {
        check(&all, arguments, talk.clone(), None);
    }
    // A call's name stands among the tools, but the call does not.
    let call = json!([{"role": "user", "content": "Q"},
        {"role": "assistant", "content": "I find", "tool_calls": [{"name": "find", "arguments": {}}]},
        {"role": "tool", "content": "4"}, {"role": "assistant", "content": "A"}]);
    check(&all, tools, call, Some("message 1 calls find"));
    // A turn of the system that a template passes over.
    let deaf = with_template("", &TURNS.replacen("%}<|im", "if m.role != 'system' %}<|im", 1));
    let turn = |role: &str| json!({"role": role, "content": "Q"});
    let system = json!([turn("system"), turn("user"), turn("assistant")]);
    check(&deaf, json!({}), system.clone(), Some("message 0 is of system"));
    check(&tokenizer(), json!({}), system, None);
}
