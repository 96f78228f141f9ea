//! A server on loopback that speaks the chat completions of OpenAI, and misbehaves by a plan.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cli::{CliFixture, Outcome, Process};

/// The key that the commands are given. No file, no output and no error may hold it.
pub const KEY: &str = "sk-secret-0123456789";

/// What the server does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Answer,
    /// After a while.
    Late,
    /// A status and a header.
    Status(u16, &'static str),
    /// No byte.
    Hang,
    /// A byte now and then, of an answer that would be the right one.
    Drip,
    /// The connection ends in the middle of the answer.
    Cut,
    /// It ends before the answer.
    Drop,
    /// The answer says that it is whole, but its JSON is not.
    CutJson,
    NoJson,
    NoChoices,
    /// A completion with a verdict, in more bytes than anyone should read.
    Huge,
}

/// What it does in turn, each with the first request for another vote.
pub const TROUBLES: [Act; 12] = [
    Act::Answer,
    Act::Status(429, "Retry-After: 0"),
    Act::Status(500, "X-Nothing: 0"),
    Act::Hang,
    Act::Cut,
    Act::CutJson,
    Act::NoJson,
    Act::NoChoices,
    Act::Drip,
    Act::Status(503, "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"),
    Act::Huge,
    Act::Drop,
];

/// A vote, as a server sees it: the messages and the seed.
pub type Vote = (String, u64);

/// What to do with a request: for which vote, how many other votes were asked for before, and how often this one was.
pub trait Plan: Fn(&Vote, usize, usize) -> Act + Send + Sync {}
impl<F: Fn(&Vote, usize, usize) -> Act + Send + Sync> Plan for F {}

/// What it was asked.
#[derive(Default)]
pub struct Seen {
    /// The votes, each with its number and how often it was asked for.
    pub asked: HashMap<Vote, (usize, usize)>,
    pub answered: HashMap<Vote, usize>,
    pub acts: BTreeSet<Act>,
    pub keys: BTreeSet<String>,
    pub bodies: Vec<Value>,
}

/// The right answer for a vote; the other text is the header with the key.
type Answer = dyn Fn(&Vote, &str) -> Value + Send + Sync;

#[derive(Clone)]
pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Seen>>,
    answer: Arc<Answer>,
}

impl Server {
    /// A server whose right answers are [`completion`]s.
    pub fn start(plan: impl Plan + 'static) -> Self {
        Self::answering(plan, completion)
    }

    /// One with other right answers.
    pub fn answering(plan: impl Plan + 'static, answer: impl Fn(&Vote, &str) -> Value + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let server = Self { answer: Arc::new(answer), ..Self::at(address) };
        let (own, plan) = (server.clone(), Arc::new(plan));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (own, plan, stream) = (own.clone(), plan.clone(), stream.unwrap());
                // A client that goes away is no failure of the server.
                std::thread::spawn(move || own.serve(&stream, &*plan).ok());
            }
        });
        server
    }

    /// An address where nobody listens.
    pub fn at(address: String) -> Self {
        Self { address, seen: Arc::default(), answer: Arc::new(completion) }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub fn forget(&self) {
        *self.seen() = Seen::default();
    }

    fn serve(&self, mut stream: &TcpStream, plan: &impl Plan) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                if line == "\r\n" {
                    break;
                }
                lines.push(line.trim_end().to_string());
            }
            let header = |name: &str| {
                let of =
                    |line: &String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_string()));
                lines.iter().filter_map(of).find(|(found, _)| found == name).map(|(_, value)| value).unwrap_or_default()
            };
            assert_eq!(lines[0], "POST /v1/chat/completions HTTP/1.1");
            let mut body = vec![0; header("content-length").parse().unwrap()];
            reader.read_exact(&mut body)?;
            let body: Value = serde_json::from_slice(&body).unwrap();
            let (act, vote) = self.decide(body, header("authorization"), plan);
            if !self.act(act, &vote, stream, &header("authorization"))? {
                return Ok(());
            }
            stream.flush()?;
        }
    }

    fn decide(&self, body: Value, key: String, plan: &impl Plan) -> (Act, Vote) {
        let vote = (body["messages"].to_string(), body["seed"].as_u64().unwrap());
        let mut seen = self.seen();
        let next = seen.asked.len();
        let (number, times) = *seen.asked.entry(vote.clone()).and_modify(|(_, times)| *times += 1).or_insert((next, 0));
        let act = plan(&vote, number, times);
        seen.acts.insert(act);
        seen.keys.insert(key);
        seen.bodies.push(body);
        (act, vote)
    }

    /// Whether the connection stays open.
    fn act(&self, act: Act, vote: &Vote, mut stream: &TcpStream, key: &str) -> std::io::Result<bool> {
        let head = |status: u16, length: usize| format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n");
        let right = (self.answer)(vote, key).to_string();
        let whole = |body: &str| format!("{}\r\n{body}", head(200, body.len()));
        match act {
            Act::Answer | Act::Late => {
                if act == Act::Late {
                    std::thread::sleep(Duration::from_millis(20));
                }
                *self.seen().answered.entry(vote.clone()).or_default() += 1;
                stream.write_all(whole(&right).as_bytes())?;
            }
            Act::Status(status, header) => {
                let message = format!("no\u{1b}[31m, {key}, {}", "and so on ".repeat(1000));
                let body = json!({"error": {"message": message}}).to_string();
                stream.write_all(format!("{}{header}\r\n\r\n{body}", head(status, body.len())).as_bytes())?;
            }
            Act::Hang => {
                let _ = stream.read(&mut [0]);
                return Ok(false);
            }
            Act::Drip => {
                stream.write_all(format!("{}\r\n", head(200, right.len() + 10_000)).as_bytes())?;
                for byte in right.bytes().chain(std::iter::repeat_n(b' ', 10_000)) {
                    stream.write_all(&[byte])?;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Act::Cut => {
                stream.write_all(&whole(&right).as_bytes()[..whole(&right).len() - 9])?;
                return Ok(false);
            }
            Act::Drop => return Ok(false),
            Act::CutJson => stream.write_all(whole(&right[..right.len() / 2]).as_bytes())?,
            Act::NoJson => stream.write_all(whole("<html>All is well.</html>").as_bytes())?,
            Act::NoChoices => stream.write_all(whole("{\"choices\": []}").as_bytes())?,
            Act::Huge => {
                let mut body = completion(&(String::new(), 1), key);
                body["padding"] = json!("x".repeat(17 << 20));
                stream.write_all(whole(&body.to_string()).as_bytes())?;
            }
        }
        Ok(true)
    }
}

pub fn number_of(vote: &Vote) -> u64 {
    let mut hasher = DefaultHasher::new();
    vote.hash(&mut hasher);
    hasher.finish()
}

/// The right answer for a vote. It repeats the key.
pub fn completion(vote: &Vote, key: &str) -> Value {
    let (verdict, score) = verdict(vote);
    let text = format!("<rubrics>\nIs it so?\n</rubrics>\n<eval>It is, {key}.</eval>\n<answer>{score}</answer>");
    let (text, reason) = match verdict {
        "malformed" => ("It is a good response.", "stop"),
        "truncated" => (&text[..text.len() - 12], "length"),
        _ => (&text[..], "stop"),
    };
    let message = json!({"role": "assistant", "content": text});
    json!({"choices": [{"message": message, "finish_reason": reason}], "usage": {"completion_tokens": 5, "prompt_tokens": 11}})
}

/// What a vote's right answer is worth.
pub fn verdict(vote: &Vote) -> (&'static str, u64) {
    let number = number_of(vote);
    let verdict = match number % 10 {
        0 => "malformed",
        1 => "truncated",
        _ => "score",
    };
    (verdict, 1 + number / 10 % 10)
}

/// The environment of a command.
pub const VARIABLES: [(&str, &str); 2] = [("OPENAI_API_KEY", KEY), ("NO_PROXY", "127.0.0.1")];

/// Runs a command, which must keep the key to itself.
pub fn run(fixture: &CliFixture, args: &[&str]) -> Outcome {
    let start = Instant::now();
    let outcome = fixture.run_with(args, &VARIABLES);
    assert!(start.elapsed() < Duration::from_secs(120), "{args:?} took {:?}", start.elapsed());
    for text in [&outcome.out, &outcome.err] {
        assert!(!text.contains(KEY) && !text.contains("panicked"), "{text}");
    }
    assert_no_key(&fixture.path(""));
    outcome
}

#[track_caller]
pub fn succeed(fixture: &CliFixture, args: &[&str]) -> Outcome {
    let outcome = run(fixture, args);
    assert!(outcome.ok, "{args:?}: {}", outcome.err);
    outcome
}

/// No file of the folder holds the key.
fn assert_no_key(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => assert_no_key(&path),
            path => {
                let bytes = std::fs::read(&path).unwrap();
                assert!(
                    !bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes()),
                    "{} holds the key",
                    path.display()
                );
            }
        }
    }
}

/// Starts a command, and goes on.
pub fn start(fixture: &CliFixture, args: &[&str]) -> Process {
    fixture.start_by(Command::new(env!("CARGO_BIN_EXE_patarm-train")).args(args).envs(VARIABLES))
}
