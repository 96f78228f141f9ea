//! `eval --endpoint` against a server on loopback that misbehaves by a plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::cli::{CliFixture, Outcome, Process, wait_until};

const KEY: &str = "sk-secret-0123456789";
const ROWS: usize = 12;
const VOTES: usize = 3;
const CALLS: usize = ROWS * 2 * VOTES;

/// What the server does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
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
const TROUBLES: [Act; 12] = [
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
type Vote = (String, u64);

/// What to do with a request: for which vote, how many other votes were asked for before, and how often this one was.
trait Plan: Fn(&Vote, usize, usize) -> Act + Send + Sync {}
impl<F: Fn(&Vote, usize, usize) -> Act + Send + Sync> Plan for F {}

#[derive(Default)]
struct Seen {
    /// The votes, each with its number and how often it was asked for.
    asked: HashMap<Vote, (usize, usize)>,
    answered: HashMap<Vote, usize>,
    acts: BTreeSet<Act>,
    keys: BTreeSet<String>,
    bodies: Vec<Value>,
}

#[derive(Clone)]
struct Server {
    address: String,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    fn start(plan: impl Plan + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let server = Self { address, seen: Arc::default() };
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

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn forget(&self) {
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
        let right = completion(vote, key).to_string();
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

fn number_of(vote: &Vote) -> u64 {
    let mut hasher = DefaultHasher::new();
    vote.hash(&mut hasher);
    hasher.finish()
}

/// The right answer for a vote. It repeats the key.
fn completion(vote: &Vote, key: &str) -> Value {
    let (verdict, score) = verdict(vote);
    let text = format!("<rubrics>\nIs it so?\n</rubrics>\n<eval>It is, {key}.</eval>\n<answer>{score}</answer>");
    let (text, reason) = match verdict {
        "malformed" => ("It is a good response.", "stop"),
        "truncated" => (&text[..text.len() - 12], "length"),
        _ => (&text[..], "stop"),
    };
    let message = json!({"role": "assistant", "content": text});
    json!({"choices": [{"message": message, "finish_reason": reason}], "usage": {"completion_tokens": 5}})
}

/// What a vote's right answer is worth.
fn verdict(vote: &Vote) -> (&'static str, u64) {
    let number = number_of(vote);
    let verdict = match number % 10 {
        0 => "malformed",
        1 => "truncated",
        _ => "score",
    };
    (verdict, 1 + number / 10 % 10)
}

fn args<'a>(server: &'a Server, more: &[&'a str]) -> Vec<&'a str> {
    let common = "--endpoint-model judge-1 --data train_pairs.jsonl --rubrics rubrics.toml --votes 3 --seed 5 --texts \
                  --temperature 0.7 --max-new-tokens 300";
    ["eval", "--endpoint", &server.address].into_iter().chain(common.split(' ')).chain(more.iter().copied()).collect()
}

const VARIABLES: [(&str, &str); 2] = [("OPENAI_API_KEY", KEY), ("NO_PROXY", "127.0.0.1")];

fn run(fixture: &CliFixture, args: &[&str]) -> Outcome {
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
fn succeed(fixture: &CliFixture, args: &[&str]) -> Outcome {
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

fn start(fixture: &CliFixture, args: &[&str]) -> Process {
    fixture.start_by(Command::new(env!("CARGO_BIN_EXE_patarm-train")).args(args).envs(VARIABLES))
}

/// The votes of a file by verdict and score.
fn votes(file: &str) -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for line in file.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        for vote in row["votes"].as_array().unwrap().iter().flat_map(|of| of.as_array().unwrap()) {
            let key = (vote["verdict"].as_str().unwrap().to_string(), vote["score"].to_string());
            *found.entry(key).or_default() += 1;
        }
    }
    found
}

/// The rows that a server without faults leads to.
fn whole(fixture: &CliFixture) -> String {
    let server = Server::start(|_: &_, _, _| Act::Answer);
    succeed(fixture, &args(&server, &["--output", "whole.jsonl"]));
    fixture.read("whole.jsonl")
}

#[test]
fn a_server_that_misbehaves_leads_to_the_rows_of_one_that_does_not() {
    let fixture = CliFixture::new();
    let good = Server::start(|_: &_, _, _| Act::Answer);
    let table = succeed(&fixture, &args(&good, &["--output", "whole.jsonl", "--json", "whole.json"])).out;
    let rows = fixture.read("whole.jsonl");
    assert_eq!(rows.lines().count(), ROWS);
    {
        let seen = good.seen();
        assert_eq!((seen.asked.len(), seen.bodies.len()), (CALLS, CALLS), "a request a vote");
        let mut expected = BTreeMap::new();
        for vote in seen.asked.keys() {
            let (verdict, score) = verdict(vote);
            let score = if verdict == "score" { format!("{score}.0") } else { "null".into() };
            *expected.entry((verdict.to_string(), score)).or_default() += 1;
        }
        assert!(expected.keys().any(|(verdict, _)| verdict == "truncated"), "{expected:?}");
        assert_eq!(votes(&rows), expected);
        assert_eq!(seen.keys.iter().collect::<Vec<_>>(), [&format!("Bearer {KEY}")]);
        let body = &seen.bodies[0];
        assert_eq!((&body["model"], &body["max_tokens"]), (&json!("judge-1"), &json!(300)));
        assert_eq!((body["temperature"].to_string(), &body["messages"][0]["role"]), ("0.7".into(), &json!("user")));
    }
    let judging = &serde_json::from_str::<Value>(&fixture.read("whole.json")).unwrap()["judging"];
    assert_eq!((&judging["calls"], &judging["tokens"]), (&json!(CALLS), &json!(5 * CALLS)));
    assert!(rows.contains("It is, Bearer [key]."), "{rows}");

    let bad = Server::start(|_: &_, number, times| match times {
        0 => TROUBLES[number % TROUBLES.len()],
        1 if number % 5 == 0 => Act::Status(502, "X-Nothing: 0"),
        _ => Act::Answer,
    });
    let limits = ["--concurrency", "12", "--request-seconds", "2", "--output", "bad.jsonl"];
    let outcome = succeed(&fixture, &args(&bad, &limits));
    assert_eq!(outcome.out, table, "{}", outcome.err);
    assert_eq!(fixture.read("bad.jsonl"), rows);
    let seen = bad.seen();
    assert!(TROUBLES.iter().all(|act| seen.acts.contains(act)), "{:?}", seen.acts);
    assert_eq!((seen.asked.len(), seen.answered.len()), (CALLS, CALLS));
}

#[test]
fn a_vote_whose_last_attempt_fails_is_a_failure_and_no_number() {
    let fixture = CliFixture::new();
    let rows = whole(&fixture);
    let is_dead = |vote: &Vote| number_of(vote).is_multiple_of(7);
    let server = Server::start(|vote: &_, _, _| match number_of(vote) % 7 {
        0 => Act::Status(500, "Retry-After: 0"),
        _ => Act::Answer,
    });
    let limits = ["--attempts", "3", "--output", "down.jsonl", "--json", "down.json"];
    let outcome = succeed(&fixture, &args(&server, &limits));
    let seen = server.seen();
    let dead = seen.asked.keys().filter(|vote| is_dead(vote)).count();
    assert!(dead > 3 && seen.asked.iter().all(|(vote, (_, times))| *times == if is_dead(vote) { 2 } else { 0 }));
    for part in [&format!("{dead} unavailable"), "HTTP 500: no\\u{1b}[31m, Bearer [key], and so on"] {
        let said = format!("{}{}", outcome.out, outcome.err);
        assert!(said.contains(part), "{part} is missing in: {said}");
    }
    let judging = &serde_json::from_str::<Value>(&fixture.read("down.json")).unwrap()["judging"];
    assert_eq!((&judging["calls"], &judging["failed"]["unavailable"]), (&json!(CALLS), &json!(dead)));
    // Every other vote is what it was.
    let mut found = 0;
    for (down, whole) in fixture.read("down.jsonl").lines().zip(rows.lines()) {
        let [down, whole] = [down, whole].map(|line| serde_json::from_str::<Value>(line).unwrap());
        for (response, votes) in down["votes"].as_array().unwrap().iter().enumerate() {
            for (number, vote) in votes.as_array().unwrap().iter().enumerate() {
                if vote["verdict"] == "unavailable" {
                    assert_eq!(*vote, json!({"verdict": "unavailable", "score": null}));
                    found += 1;
                } else {
                    assert_eq!(*vote, whole["votes"][response][number]);
                }
            }
        }
    }
    assert_eq!(found, dead);

    // Nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Server { address: format!("http://{nobody}/v1"), seen: Arc::default() };
    let outcome = run(&fixture, &args(&nobody, &["--attempts", "1"]));
    assert!(!outcome.ok && outcome.err.contains("answered no request"), "{}", outcome.err);
}

#[test]
fn a_killed_evaluation_is_gone_on_with_and_ctrl_c_does_not_wait_for_answers() {
    let fixture = CliFixture::new();
    let server = Server::start(|_: &_, _, _| Act::Late);
    succeed(&fixture, &args(&server, &["--output", "whole.jsonl", "--concurrency", "1"]));
    let rows = fixture.read("whole.jsonl");
    // One after the other, votes are asked for in the order of the rows.
    let places: HashMap<Vote, usize> =
        server.seen().asked.iter().map(|(vote, (number, _))| (vote.clone(), *number)).collect();
    let part = args(&server, &["--output", "part.jsonl", "--concurrency", "2"]);
    let process = start(&fixture, &part);
    fixture.wait_for_lines("part.jsonl", 3);
    drop(process);
    let kept = fixture.read("part.jsonl");
    assert!(kept.lines().count() < ROWS && rows.starts_with(&kept[..=kept.rfind('\n').unwrap()]), "{kept}");
    server.forget();
    succeed(&fixture, &[&part[..], &["--resume"]].concat());
    assert_eq!(fixture.read("part.jsonl"), rows);
    assert!(server.seen().bodies.len() <= CALLS - 3 * 2 * VOTES, "rows that are there are not asked again");

    // The second half of the rows has no answer, once.
    let is_late = move |vote: &Vote| places[vote] >= CALLS / 2;
    let plan = move |vote: &Vote, _, times| if is_late(vote) && times == 0 { Act::Hang } else { Act::Answer };
    let stuck = Server::start(plan);
    let long = args(&stuck, &["--output", "stuck.jsonl", "--request-seconds", "600"]);
    let process = start(&fixture, &long);
    wait_until("a request without an answer", || stuck.seen().acts.contains(&Act::Hang));
    fixture.wait_for_lines("stuck.jsonl", ROWS / 2);
    let asked = Instant::now();
    process.signal("INT");
    let (code, said) = process.end();
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("kept in stuck.jsonl") && said.contains("--resume"), "{said}");
    let limit = ["--resume", "--request-seconds", "3"];
    let again: Vec<&str> = long.iter().take(long.len() - 2).copied().chain(limit).collect();
    succeed(&fixture, &again);
    assert_eq!(fixture.read("stuck.jsonl"), rows);
    // Another model's rows do not belong there.
    let other: Vec<&str> = again.iter().map(|arg| if *arg == "judge-1" { "judge-2" } else { arg }).collect();
    let outcome = run(&fixture, &other);
    assert!(!outcome.ok && outcome.err.contains("--resume cannot go on with it"), "{}", outcome.err);
}

#[test]
fn what_would_fail_for_every_request_ends_the_command_at_once() {
    let fixture = CliFixture::new();
    for status in [400, 401, 403, 404, 422] {
        let server = Server::start(move |_: &_, _, _| Act::Status(status, "X-Nothing: 0"));
        let outcome = run(&fixture, &args(&server, &["--concurrency", "2"]));
        assert!(!outcome.ok && outcome.out.is_empty(), "{}", outcome.out);
        let said =
            format!("{}/chat/completions: HTTP {status}: no\\u{{1b}}[31m, Bearer [key], and so on", server.address);
        assert!(outcome.err.contains(&said), "{said} is missing in: {}", outcome.err);
        let names_the_key = outcome.err.contains("the key was that in OPENAI_API_KEY");
        assert_eq!(names_the_key, [401, 403].contains(&status), "{}", outcome.err);
        assert!(outcome.err.len() < 1200, "what the server says is cut: {}", outcome.err);
        assert!(server.seen().bodies.len() <= 2, "{}", server.seen().bodies.len());
    }
    // Without a key, none is sent, and the error says which variable is empty.
    let server = Server::start(|_: &_, _, _| Act::Status(401, "X-Nothing: 0"));
    let outcome = fixture.run_with(&args(&server, &[]), &[("OPENAI_API_KEY", ""), ("NO_PROXY", "127.0.0.1")]);
    assert!(!outcome.ok && outcome.err.contains("there was no key: set OPENAI_API_KEY"), "{}", outcome.err);
    assert_eq!(server.seen().keys.iter().collect::<Vec<_>>(), [""]);

    let address = Server { address: "http://me:pass-word@localhost/v1".into(), seen: Arc::default() };
    let outcome = run(&fixture, &args(&address, &[]));
    assert!(!outcome.ok && outcome.err.contains("--endpoint") && !outcome.err.contains("pass-word"), "{}", outcome.err);
    fixture.fail(&args(&server, &["--endpoint-key-env", "PATARM_NO_SUCH_KEY"]), &["PATARM_NO_SUCH_KEY", "not set"]);
    fixture.fail(&args(&server, &["--model", "model"]), &["cannot be used with"]);
    fixture.fail(&args(&server, &["--thinking"]), &["cannot be used with"]);
    fixture.fail(&args(&server, &["--request-seconds", "0"]), &["--request-seconds"]);
    fixture.fail(&["eval", "--endpoint", "http://localhost/v1", "--data", "train_pairs.jsonl"], &["--endpoint-model"]);
    fixture.fail(&["eval", "--from-scores", "x", "--attempts", "2"], &["--endpoint"]);
}

/// Neither the key nor a prompt gets to another server.
#[test]
fn a_redirect_is_not_followed() {
    let fixture = CliFixture::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let place = format!("http://localhost:{}/v1/chat/completions", other.local_addr().unwrap().port());
    let header: &'static str = format!("Location: {place}").leak();
    for status in [301, 302, 303, 307, 308] {
        let server = Server::start(move |_: &_, _, _| Act::Status(status, header));
        let outcome = run(&fixture, &args(&server, &["--attempts", "1", "--request-seconds", "5"]));
        let said = format!("it sends on to {place}, which is not followed");
        assert!(!outcome.ok && outcome.err.contains(&said), "{}", outcome.err);
        assert_eq!(other.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{status} was followed");
    }
}
