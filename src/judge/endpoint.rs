//! A judge behind an HTTP endpoint: the same prompts and the same rules for a verdict as a judge of ours, without its tokens.
//!
//! Text from outside cannot write the frame of the prompt. Control tokens of the model are its server's affair: without the
//! model's tokenizer nobody here knows them.

use serde::Serialize;
use serde_json::Value;

use super::form::CutCount;
use super::server::{ChatServer, EndpointError};
use super::{Cuts, JudgePrompt, JudgePromptError, JudgeSampling, JudgeSettings, Verdict, framed};
use crate::data::Message;
use crate::random::Stream;
use crate::setting::Valid;

/// A model behind an endpoint, and how it judges.
pub struct EndpointJudge {
    settings: Valid<JudgeSettings>,
    prompt: JudgePrompt,
    server: ChatServer,
    model: String,
    cut: CutCount,
}

/// A judgement that came from a server.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteJudgement {
    pub text: String,
    pub verdict: Verdict,
    /// Tokens that the judge wrote; 0 if the server does not count them.
    pub tokens: u64,
    /// Tokens of the prompt that it read; 0 if the server does not count them.
    pub prompt_tokens: u64,
}

/// The body of a request.
#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: &'a [Message],
    temperature: f32,
    max_tokens: usize,
    seed: u32,
}

impl EndpointJudge {
    /// An error if the prompt of the settings cannot be rendered. `model`: its name on the server.
    pub fn new(settings: Valid<JudgeSettings>, server: ChatServer, model: &str) -> Result<Self, JudgePromptError> {
        Ok(Self {
            prompt: JudgePrompt::new(&settings.prompt, &settings.form())?,
            settings,
            server,
            model: model.to_string(),
            cut: CutCount::default(),
        })
    }

    /// How it judges.
    pub fn settings(&self) -> &Valid<JudgeSettings> {
        &self.settings
    }

    /// Whether a task has no rubrics and is judged by those of the default task.
    pub fn falls_to_default(&self, task: &str) -> bool {
        self.prompt.falls_to_default(task)
    }

    /// How many of its prompts so far show a text that was cut.
    pub fn cuts(&self) -> Cuts {
        self.cut.get()
    }

    /// The judge's prompt for a response, or for two that are compared: its system message, if the settings have one, and a user
    /// message.
    pub fn messages(
        &self,
        task: &str,
        prompt: &[Message],
        responses: &[&str],
    ) -> Result<Vec<Message>, JudgePromptError> {
        let asking = framed(&self.prompt, task, prompt, responses, str::to_string)?;
        self.cut.add(asking.cut);
        Ok(asking.messages)
    }

    /// Asks for one judgement. `stream`: the random numbers of this vote, which give the request's seed.
    pub fn judge(
        &self,
        messages: &[Message],
        how: &JudgeSampling,
        stream: Stream,
    ) -> Result<RemoteJudgement, EndpointError> {
        let request = ChatRequest {
            model: &self.model,
            messages,
            temperature: how.sampling.temperature,
            max_tokens: how.max_new_tokens,
            // Some servers hold a seed in 32 bits with a sign.
            seed: stream.block(0, 0)[0] >> 1,
        };
        let body = serde_json::to_string(&request).expect("texts and numbers are JSON");
        let Answer { text, finished, tokens, prompt_tokens } = self.server.post(&body, stream, read)?;
        let verdict = Verdict::parse(&text, finished, &self.settings.judgement_format());
        Ok(RemoteJudgement { text: self.server.without_key(&text), verdict, tokens, prompt_tokens })
    }

    /// The server that is asked.
    pub fn server(&self) -> &ChatServer {
        &self.server
    }
}

/// A completion: its text, whether it ended by itself, and the tokens of the text and of the prompt.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    finished: bool,
    tokens: u64,
    prompt_tokens: u64,
}

/// An error if the body is no completion.
fn read(body: &[u8]) -> Result<Answer, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| format!("its answer is no JSON: {error}"))?;
    let choice = &answer["choices"][0];
    let message = choice["message"].as_object().ok_or("its answer has no choices[0].message")?;
    let text = match message.get("content") {
        // Thoughts that used up all tokens leave no text.
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(_) => return Err("its answer's choices[0].message.content is no text".into()),
    };
    // Whatever else ends a text early (a filter, a server that says nothing) is not the limit's doing.
    let finished = choice["finish_reason"] != "length";
    let counted = |name: &str| answer["usage"][name].as_u64().unwrap_or(0).min(u64::from(u32::MAX));
    let (tokens, prompt_tokens) = (counted("completion_tokens"), counted("prompt_tokens"));
    Ok(Answer { text: text.to_string(), finished, tokens, prompt_tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_read_and_what_is_none_is_refused() {
        let read = |text: &str| read(text.as_bytes());
        let whole = r#"{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}],
            "usage": {"completion_tokens": 7, "prompt_tokens": 30}}"#;
        let answer = |text: &str, finished, tokens| Answer { text: text.into(), finished, tokens, prompt_tokens: 30 };
        assert_eq!(read(whole), Ok(answer("a", true, 7)));
        assert_eq!(read(&whole.replace("stop", "length").replace(": 7", ": -7")), Ok(answer("a", false, 0)));
        assert_eq!(read(&whole.replace("\"a\"", "null")), Ok(answer("", true, 7)));
        assert_eq!(read(&whole.replace("prompt_", "")), Ok(Answer { prompt_tokens: 0, ..answer("a", true, 7) }));
        let deep = "[".repeat(100_000);
        for bad in ["", "{", "null", "[]", "{}", r#"{"choices": []}"#, &whole.replace("\"a\"", "[1]"), &deep] {
            assert!(read(bad).is_err(), "{bad:.80}");
        }
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
    }
}
