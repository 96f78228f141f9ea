//! `eval --endpoint` against a server on loopback that misbehaves by a plan.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::cli::{CliFixture, wait_until};
use crate::common::server::{Act, KEY, Server, TROUBLES, Vote, number_of, run, start, succeed, verdict};

const ROWS: usize = 12;
const VOTES: usize = 3;
const CALLS: usize = ROWS * 2 * VOTES;

fn args<'a>(server: &'a Server, more: &[&'a str]) -> Vec<&'a str> {
    let common = "--endpoint-model judge-1 --data train_pairs.jsonl --rubrics rubrics.toml --votes 3 --seed 5 --texts \
                  --temperature 0.7 --max-new-tokens 300";
    ["eval", "--endpoint", &server.address].into_iter().chain(common.split(' ')).chain(more.iter().copied()).collect()
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
    let nobody = Server::at(format!("http://{nobody}/v1"));
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
    for status in [401, 403, 404] {
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

    let address = Server::at("http://me:pass-word@localhost/v1".into());
    let outcome = run(&fixture, &args(&address, &[]));
    assert!(!outcome.ok && outcome.err.contains("--endpoint") && !outcome.err.contains("pass-word"), "{}", outcome.err);
    fixture.fail(&args(&server, &["--endpoint-key-env", "PATARM_NO_SUCH_KEY"]), &["PATARM_NO_SUCH_KEY", "not set"]);
    fixture.fail(&args(&server, &["--model", "model"]), &["cannot be used with"]);
    fixture.fail(&args(&server, &["--thinking"]), &["cannot be used with"]);
    fixture.fail(&args(&server, &["--request-seconds", "0"]), &["--request-seconds"]);
    fixture.fail(&["eval", "--endpoint", "http://localhost/v1", "--data", "train_pairs.jsonl"], &["--endpoint-model"]);
    fixture.fail(&["eval", "--from-scores", "x", "--attempts", "2"], &["--endpoint"]);
}

#[test]
fn a_request_that_a_server_does_not_take_is_a_failure_unless_it_takes_none() {
    let fixture = CliFixture::new();
    let rows = whole(&fixture);
    let limits = ["--concurrency", "2", "--output", "out.jsonl"];
    for status in [400, 413, 422] {
        // Prompts that are too long for it, the first ones among them.
        let server =
            Server::start(move |vote: &_, number, _| match number < 7 || prompt_number(vote).is_multiple_of(5) {
                true => Act::Status(status, "X-Nothing: 0"),
                false => Act::Answer,
            });
        let outcome = succeed(&fixture, &args(&server, &limits));
        assert!(
            outcome
                .err
                .contains(&format!("a vote is unavailable, and further ones are only counted: {}", server.address))
        );
        let seen = server.seen();
        assert_eq!(seen.bodies.len(), CALLS, "nothing is asked twice");
        let failed = CALLS - seen.answered.len();
        assert!(failed > 7 && outcome.out.contains(&format!("{failed} unavailable")), "{failed}: {}", outcome.out);
        std::fs::remove_file(fixture.path("out.jsonl")).unwrap();

        // No request is taken: the command ends, and no row is written, so that --resume asks for all of them.
        let server = Server::start(move |_: &_, _, _| Act::Status(status, "X-Nothing: 0"));
        let outcome = run(&fixture, &args(&server, &limits));
        let said =
            format!("{}/chat/completions: HTTP {status}: no\\u{{1b}}[31m, Bearer [key], and so on", server.address);
        assert!(!outcome.ok && outcome.out.is_empty(), "{}", outcome.out);
        for part in [&said, "the same for the first 8 responses"] {
            assert!(outcome.err.contains(part), "{part} is missing in: {}", outcome.err);
        }
        assert!(server.seen().bodies.len() <= 8 * VOTES + 2, "{}", server.seen().bodies.len());
        assert_eq!(fixture.read("out.jsonl"), "");
        std::fs::remove_file(fixture.path("out.jsonl")).unwrap();
        std::fs::remove_file(fixture.path("out.jsonl.resume")).unwrap();
    }
    assert_eq!(rows.lines().count(), ROWS);
}

/// A number of the prompt of a vote.
fn prompt_number(vote: &Vote) -> u64 {
    number_of(&(vote.0.clone(), 0))
}

#[test]
fn requests_keep_to_a_rate_and_ctrl_c_does_not_wait_for_it() {
    let fixture = CliFixture::new();
    let server =
        Server::start(|_: &_, _, times| if times == 0 { Act::Status(500, "Retry-After: 0") } else { Act::Answer });
    let rate = ["--requests-per-minute", "2400", "--concurrency", "4", "--output", "out.jsonl"];
    let begun = Instant::now();
    succeed(&fixture, &args(&server, &rate));
    let attempts = server.seen().bodies.len();
    assert_eq!(attempts, 2 * CALLS);
    // Not a measurement: a wait cannot be shorter than it is.
    assert!(begun.elapsed() >= Duration::from_millis(25) * (attempts - 1) as u32, "{:?}", begun.elapsed());

    server.forget();
    let process = start(&fixture, &args(&server, &["--requests-per-minute", "1", "--output", "slow.jsonl"]));
    wait_until("the first request", || !server.seen().bodies.is_empty());
    process.signal("INT");
    let asked = Instant::now();
    let (code, said) = process.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(30) && server.seen().bodies.len() == 1, "{:?}", asked.elapsed());
    fixture.fail(&args(&server, &["--requests-per-minute", "-1"]), &["--requests-per-minute"]);
}

#[test]
fn a_key_that_others_can_read_is_said_once() {
    let fixture = CliFixture::new();
    // A name that leads nowhere (RFC 2606).
    let far = Server::at("http://judge.invalid/v1".into());
    let limits = ["--attempts", "1", "--request-seconds", "5"];
    let outcome = run(&fixture, &args(&far, &limits));
    let said = "note: the key in OPENAI_API_KEY goes to http://judge.invalid/v1 without encryption";
    assert!(!outcome.ok && outcome.err.matches(said).count() == 1, "{}", outcome.err);
    let near = Server::start(|_: &_, _, _| Act::Answer);
    assert!(!succeed(&fixture, &args(&near, &[])).err.contains("without encryption"));
    let outcome = fixture.run_with(&args(&far, &limits), &[("OPENAI_API_KEY", "")]);
    assert!(!outcome.ok && !outcome.err.contains("without encryption"), "{}", outcome.err);
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
