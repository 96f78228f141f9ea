//! Where output goes: full, closed and impossible places, what is not a plain file, and long jobs that are ended on the way.
#![cfg(unix)]

use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use patarm::model::directory;
use patarm::model::parameters::random_weights;
use patarm::model::{ParameterTable, Qwen3Config};
use patarm::tensor::DType;
use patarm::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::common::cli::{CliFixture, config, tokenizer, with_default_signals};
use crate::common::server::{Act, Server};

/// A few rows of either command, quickly done.
const JUDGE: &str =
    "judge --model model --input rows.jsonl --max-new-tokens 6 --max-prompt-tokens 200 --rubrics rubrics.toml";
const GENERATE: &str = "generate --model model --input rows.jsonl --max-new-tokens 6 --temperature 1";
const ANNOTATE: &str = "annotate --model model --data train_pairs.jsonl --max-new-tokens 6 --max-prompt-tokens 200 \
                        --rubrics rubrics.toml";
const ONE: &str = "generate --model model --prompt repeat --max-new-tokens 4";

struct Ended {
    /// As a shell shows it: 128 and the number of the signal that ended the program.
    code: i32,
    out: String,
    err: String,
}

/// Runs a line of shell in the fixture's folder, `P` being the program.
fn shell(fixture: &CliFixture, line: &str) -> Ended {
    let output = command(fixture, line).output().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn command(fixture: &CliFixture, line: &str) -> Command {
    let mut command = Command::new("bash");
    let line = format!("P() {{ '{}' \"$@\"; }}\n{line}", env!("CARGO_BIN_EXE_patarm-train"));
    command.args(["-c", &line]).current_dir(fixture.path("")).stdin(Stdio::null()).env("NO_PROXY", "127.0.0.1");
    command
}

/// Runs the program into a pipe that nobody reads any more; with `both`, its standard error too.
fn without_reader(fixture: &CliFixture, args: &str, both: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let stderr = if both { Stdio::from(writer.try_clone().unwrap()) } else { Stdio::piped() };
    let mut command = Command::new(env!("CARGO_BIN_EXE_patarm-train"));
    command.args(args.split_whitespace()).env("NO_PROXY", "127.0.0.1");
    command.current_dir(fixture.path("")).stdin(Stdio::null()).stdout(writer).stderr(stderr);
    command.spawn().unwrap().wait_with_output().unwrap()
}

/// A model whose judgements have different lengths, and `rows` prompts with responses.
fn fixture(rows: usize) -> CliFixture {
    let fixture = CliFixture::new();
    let row = |i: usize| {
        let (prompt, response) = (format!("prompt {i}"), "word ".repeat(1 + i % 7));
        json!({"prompt": prompt, "response": response, "id": 3 * i}).to_string() + "\n"
    };
    fixture.write("rows.jsonl", &(0..rows).map(row).collect::<String>());
    fixture
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// Every command with its results on standard output, but for `annotate`, which needs a teacher that writes verdicts.
const COMMANDS: [&str; 12] = [
    "--help",
    "judge --help",
    "--version",
    "doctor",
    "doctor --json",
    "sft --print-config",
    "rl --print-config",
    "report run",
    "demo --quick --set sft.steps=1 --set sft.examples_per_step=2 --set sft.warmup=0 --set rl.steps=1 --set rl.warmup=0 \
     --set rl.pairs_per_step=2 --set rl.rollouts=2 --set eval.pairs=2 --out demo",
    "bench decode --shape nano --batch 1 --prompt 2 --new 2 --runs 1",
    ONE,
    "judge --model model --input rows.jsonl --max-new-tokens 6 --max-prompt-tokens 200 --rubrics rubrics.toml",
];

const SFT: &str = "sft --model model --data sft.jsonl --set sft.steps=1 --set sft.examples_per_step=1 --out";

#[test]
fn no_command_panics_or_succeeds_where_its_result_is_lost() {
    let fixture = fixture(3);
    assert_eq!(shell(&fixture, &format!("P {SFT} run")).code, 0);
    let training = format!("{SFT} again");
    let teacher = Server::start(|_: &_, _, _| Act::Answer);
    let annotate = format!(
        "annotate --endpoint {} --endpoint-model teacher --data train_pairs.jsonl --rubrics rubrics.toml --min-gap 0 \
         --output judgements.jsonl --sft learnt.jsonl --overwrite",
        teacher.address
    );
    let commands = COMMANDS.iter().copied().chain([GENERATE, training.as_str(), annotate.as_str()]);
    for command in commands {
        let fresh = || drop(std::fs::remove_dir_all(fixture.path("again")));
        for (place, words) in
            [(">/dev/full", "No space left"), (">&-", "Bad file descriptor"), ("1</dev/null", "Bad file")]
        {
            fresh();
            let ended = shell(&fixture, &format!("P {command} {place}"));
            assert!(!ended.err.contains("panicked"), "{command} {place}: {}", ended.err);
            assert_eq!(ended.code, 1, "{command} {place}: {}", ended.err);
            for words in ["standard output cannot be written", words] {
                assert!(ended.err.contains(words), "{command} {place}: {words:?} is missing in {}", ended.err);
            }
        }
        // Quietly, as the system ends a program whose reader has gone.
        fresh();
        let ended = without_reader(&fixture, command, false);
        assert_eq!(ended.status.signal(), Some(libc::SIGPIPE), "{command}: {:?}", ended.status);
        let err = String::from_utf8_lossy(&ended.stderr);
        assert!(!err.contains("panicked") && !err.contains("error:"), "{command}: {err}");
        // Standard error is no result: losing it changes nothing.
        for place in ["2>&-", "2>/dev/full"] {
            fresh();
            let ended = shell(&fixture, &format!("P {command} {place}"));
            assert_eq!(ended.code, 0, "{command} {place}");
            assert!(!ended.out.is_empty(), "{command} {place}");
        }
        // Neither is a mistake said to nobody a success. (Help is given whatever else is asked.)
        for place in ["2>&-", "2>/dev/full"] {
            let code = shell(&fixture, &format!("P {command} --no-such-flag {place}")).code;
            assert!(code == 2 || command.contains("--help") || command == "--version", "{command} {place}: {code}");
        }
    }
}

#[test]
fn a_training_run_goes_on_and_saves_when_its_terminal_is_gone() {
    let fixture = fixture(1);
    let ended = without_reader(&fixture, &format!("{SFT} run"), true);
    assert_eq!(ended.status.signal(), Some(libc::SIGPIPE), "the last line has no reader");
    for file in ["run/model/model.safetensors", "run/summary.json", "run/report.html"] {
        assert!(fixture.path(file).exists(), "{file}");
    }
}

#[test]
fn outputs_that_cannot_be_written_are_named_before_the_model_is_loaded() {
    let fixture = fixture(3);
    fixture.write("file", "mine\n");
    symlink("loop", fixture.path("loop")).unwrap();
    symlink("missing/out", fixture.path("dangling")).unwrap();
    std::fs::create_dir(fixture.path("folder")).unwrap();
    for (output, words) in [
        ("folder", "is a directory"),
        ("file/below", "Not a directory"),
        ("/proc/no/such", "/proc"),
        ("loop", "symbolic links"),
        ("dangling", "No such file"),
        ("file", "--overwrite"),
        ("new/", "not the name of a file"),
        ("''", "not the name of a file"),
    ] {
        let annotate = format!("{ANNOTATE} --sft learnt.jsonl");
        for command in [JUDGE, GENERATE, &annotate] {
            // A model that is not there is not even looked for.
            let nowhere = command.replace("--model model", "--model nowhere");
            let ended = shell(&fixture, &format!("P {nowhere} --output {output}"));
            let name = output.trim_matches('\'');
            assert_eq!(ended.code, 1, "{command} {output}: {}", ended.err);
            assert!(ended.err.contains(words) && ended.err.contains(name), "{command} {output}: {}", ended.err);
            assert!(!ended.err.contains("nowhere") && !ended.err.contains(".writing"), "{output}: {}", ended.err);
        }
        assert!(!fixture.path("missing").exists());
        if output != "''" {
            let ended = shell(&fixture, &format!("P {ONE} --logits {output}"));
            assert!(ended.code == 1 && ended.err.contains(words), "--logits {output}: {}", ended.err);
            let ended = shell(&fixture, &format!("P {ANNOTATE} --output judgements.jsonl --sft {output}"));
            assert!(ended.code == 1 && ended.err.contains(words), "--sft {output}: {}", ended.err);
        }
    }
    assert_eq!(fixture.read("file"), "mine\n");
    // The record beside an output is tried as well.
    std::fs::create_dir(fixture.path("out.resume")).unwrap();
    let ended = shell(&fixture, &format!("P {JUDGE} --output out"));
    assert!(ended.code == 1 && ended.err.contains("out.resume"), "{}", ended.err);
    assert!(!fixture.path("out").exists());
    // A full disk shows only on writing.
    for command in [JUDGE, GENERATE, &format!("{ANNOTATE} --sft learnt.jsonl")] {
        let ended = shell(&fixture, &format!("P {command} --output /dev/full"));
        assert!(ended.code == 1 && ended.err.contains("/dev/full: cannot be written: No space left"), "{}", ended.err);
        assert!(std::fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    }
    // For a run's folder: below a plain file, and where nothing can be made.
    for out in ["file/run", "/proc/run", "/dev/full", "file"] {
        let ended = shell(&fixture, &format!("P {SFT} {out}"));
        assert!(ended.code == 1 && ended.err.contains(out), "{out}: {}", ended.err);
        assert!(!ended.err.contains("panicked"), "{out}: {}", ended.err);
    }
    assert_eq!(fixture.read("file"), "mine\n");
}

#[test]
fn an_io_error_is_said_once() {
    let fixture = fixture(1);
    for line in [
        "P judge --model model --input missing.jsonl",
        "P judge --model model --input rows.jsonl --rubrics missing.toml",
        "P generate --model model --prompt-file missing.txt",
        "P sft --model model --data missing.jsonl --out run",
        "P judge --model model --input rows.jsonl --output rows.jsonl/x",
        "P report /dev/null/x",
    ] {
        let ended = shell(&fixture, line);
        assert_eq!(ended.code, 1, "{line}");
        assert!(ended.err.matches("os error").count() <= 1, "{line}: {}", ended.err);
    }
}

#[test]
fn devices_pipes_and_links_stay_what_they_are() {
    let fixture = fixture(3);
    let plain = shell(&fixture, &format!("P {JUDGE}")).out;
    assert_eq!(rows(&plain).len(), 3);
    let null = std::fs::metadata("/dev/null").unwrap().rdev();
    for command in [JUDGE, GENERATE] {
        assert_eq!(shell(&fixture, &format!("P {command} --output /dev/null")).code, 0);
    }
    assert_eq!(std::fs::metadata("/dev/null").unwrap().rdev(), null);
    assert_eq!(shell(&fixture, &format!("P {ONE} --logits /dev/null")).code, 0);
    for output in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"] {
        assert_eq!(shell(&fixture, &format!("P {JUDGE} --output {output}")).out, plain, "{output}");
        // What a redirection has written before stays.
        let line = format!("echo before > log; P {JUDGE} --output {output} >> log; cat log");
        assert_eq!(shell(&fixture, &line).out, format!("before\n{plain}"), "{output}");
    }
    let line = format!("mkfifo fifo; cat fifo & P {JUDGE} --output fifo; wait");
    assert_eq!(shell(&fixture, &line).out, plain);
    assert!(std::fs::metadata(fixture.path("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(shell(&fixture, &format!("P {JUDGE} --output >(cat); wait $!")).out, plain);

    symlink("real", fixture.path("link")).unwrap();
    symlink("link", fixture.path("chain")).unwrap();
    assert_eq!(shell(&fixture, &format!("umask 027; P {JUDGE} --output chain")).code, 0);
    assert!(fixture.path("chain").is_symlink() && fixture.path("link").is_symlink());
    assert_eq!(fixture.read("real"), plain);
    assert_eq!(std::fs::metadata(fixture.path("real")).unwrap().mode() & 0o777, 0o640);
    let line = format!("chmod 600 real; P {JUDGE} --output link --overwrite");
    assert_eq!(shell(&fixture, &line).code, 0);
    assert_eq!(std::fs::metadata(fixture.path("real")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fixture.read("real"), plain);

    // A run's files too: the report behind a link, and the mode of a file that was made private.
    assert_eq!(shell(&fixture, &format!("P {SFT} run")).code, 0);
    let line = "mv run/report.html page.html; chmod 600 page.html; : > page.html; ln -s ../page.html run/report.html; \
                P report run";
    assert_eq!(shell(&fixture, line).code, 0);
    assert!(fixture.path("run/report.html").is_symlink() && fixture.read("page.html").contains("<html"));
    assert_eq!(std::fs::metadata(fixture.path("page.html")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn an_input_is_never_an_output() {
    let fixture = fixture(3);
    let before = fixture.read("rows.jsonl");
    std::fs::hard_link(fixture.path("rows.jsonl"), fixture.path("hard")).unwrap();
    symlink("rows.jsonl", fixture.path("soft")).unwrap();
    std::fs::write(fixture.path("prompt.txt"), "repeat").unwrap();
    let from_stdin = JUDGE.replace("rows.jsonl", "/dev/stdin");
    for line in [
        format!("P {JUDGE} --overwrite --output rows.jsonl"),
        format!("P {JUDGE} --overwrite --output hard"),
        format!("P {JUDGE} --overwrite --output soft"),
        format!("P {JUDGE} --overwrite --output ./model/../rows.jsonl"),
        format!("P {JUDGE} --overwrite --output /dev/stdout >> rows.jsonl"),
        format!("P {JUDGE} >> soft"),
        format!("P {JUDGE} --overwrite --output rubrics.toml"),
        format!("P {JUDGE} --overwrite --output model/config.json"),
        format!("P {from_stdin} --overwrite --output rows.jsonl < soft"),
        format!("P {from_stdin} 0<> hard >&0"),
        format!("P {GENERATE} --overwrite --output hard"),
        format!("P {GENERATE} --overwrite --output model/model.safetensors"),
        "P generate --model model --prompt-file prompt.txt --overwrite --output prompt.txt".to_string(),
        "P generate --model model --prompt-file prompt.txt --logits prompt.txt".to_string(),
        "P generate --model model --prompt x --logits both --output both".to_string(),
        "P generate --model model --prompt x --logits both --output ./both".to_string(),
        "P generate --model model --prompt x --logits new/q.resume --output new/q".to_string(),
        "P generate --model model --prompt x --logits model/model.safetensors --overwrite".to_string(),
    ] {
        let ended = shell(&fixture, &line);
        assert!(ended.code == 1 && ended.err.contains("is an input"), "{line}: {}", ended.err);
    }
    assert_eq!(fixture.read("rows.jsonl"), before);
    assert_eq!(fixture.read("prompt.txt"), "repeat");
    let ended = shell(&fixture, &format!("P {from_stdin} < rows.jsonl"));
    assert_eq!(rows(&ended.out).len(), 3, "{}", ended.err);
}

/// Waits until a file has so many lines.
fn wait_for(fixture: &CliFixture, name: &str, lines: usize, child: &mut Child) {
    let start = Instant::now();
    let count = || std::fs::read_to_string(fixture.path(name)).unwrap_or_default().lines().count();
    while count() < lines && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(300), "{name} never has {lines} lines");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_job_that_is_ended_anywhere_goes_on_and_ends_with_the_same_bytes() {
    let fixture = fixture(100);
    let judge = JUDGE.replace("--max-new-tokens 6", "--max-new-tokens 48") + " --votes 2 --texts --max-running 4";
    let generate = GENERATE.replace("--max-new-tokens 6", "--max-new-tokens 48") + " --samples 2 --max-running 4";
    for (command, lines) in [(judge, 100), (generate, 200)] {
        let mut ended_by_signals = 0;
        assert_eq!(shell(&fixture, &format!("P {command} --threads 1 --output whole")).code, 0);
        let whole = fixture.read("whole");
        assert_eq!(rows(&whole).len(), lines);
        for (signal, after) in [("KILL", 1), ("INT", lines / 4), ("KILL", lines / 2)] {
            let mut child = command_alone(&fixture, &format!("{command} --threads 2 --output part"));
            wait_for(&fixture, "part", after, &mut child);
            let kill = ["-s", signal, &child.id().to_string()].map(str::to_string);
            assert!(Command::new("kill").args(kill).status().unwrap().success());
            let ended = child.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&ended.stderr).into_owned();
            let part = fixture.read("part");
            // A fast machine may be done before the signal comes.
            if part == whole {
                std::fs::remove_file(fixture.path("part")).unwrap();
                continue;
            }
            ended_by_signals += 1;
            assert!(!ended.status.success(), "{signal}: it was not ended");
            assert!(
                part.len() < whole.len() && part.lines().count() >= after,
                "{signal} after {after}: {}",
                part.len()
            );
            if signal == "INT" {
                assert!(err.contains("--resume") && err.contains("part"), "{err}");
                assert!(whole.starts_with(&part) && part.ends_with('\n'), "only whole rows");
            }
            let again = shell(&fixture, &format!("P {command} --output part"));
            assert!(
                again.code == 1 && again.err.contains("--resume") && again.err.contains("--overwrite"),
                "{}",
                again.err
            );
            let resumed = command.replace("--max-running 4", "--max-running 7");
            let resumed = shell(&fixture, &format!("P {resumed} --threads 3 --output part --resume"));
            assert_eq!(resumed.code, 0, "{}", resumed.err);
            assert_eq!(fixture.read("part"), whole, "{signal} after {after}");
            std::fs::remove_file(fixture.path("part")).unwrap();
        }
        assert!(ended_by_signals > 0, "{command}: no signal came in time");
        for file in ["whole", "whole.resume"] {
            std::fs::remove_file(fixture.path(file)).unwrap();
        }
    }
}

#[test]
fn a_file_that_can_grow_no_further_is_an_error_and_the_job_goes_on_elsewhere() {
    let fixture = fixture(40);
    // One response at a time, so that no rows wait in the record beside the output.
    let judge = format!("P {JUDGE} --texts --votes 4 --max-running 4");
    let whole = shell(&fixture, &judge).out;
    assert!(whole.len() > 10_000, "{} bytes", whole.len());
    // Blocks of 1024 bytes; the record takes a few of its own.
    let ended = shell(&fixture, &format!("ulimit -f 8; {judge} --output out"));
    assert!(ended.code == 1 && ended.err.contains("out: cannot be written: File too large"), "{}", ended.err);
    assert!(ended.err.contains("of 40 rows; the same command") && ended.err.contains("--resume"), "{}", ended.err);
    let part = fixture.read("out");
    assert!(part.len() == 8192 && whole.starts_with(&part), "{} bytes", part.len());
    assert_eq!(shell(&fixture, &format!("{judge} --output out --resume")).code, 0);
    assert_eq!(fixture.read("out"), whole);
    let ended = shell(&fixture, &format!("ulimit -f 1; P {ONE} --logits logits.json"));
    assert!(ended.code == 1 && ended.err.contains("logits.json: cannot be written: File too large"), "{}", ended.err);
    assert!(!fixture.path("logits.json").exists(), "no half of a file");
}

/// The program itself, so that a signal meets it and not a shell.
fn command_alone(fixture: &CliFixture, args: &str) -> Child {
    with_default_signals(Command::new(env!("CARGO_BIN_EXE_patarm-train")).args(args.split(' ')))
        .current_dir(fixture.path(""))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_resumed_job_must_be_the_same_job() {
    let fixture = fixture(4);
    let other = config(tokenizer().vocab_size().next_multiple_of(16));
    directory::save(&fixture.path("other"), &other, &random_weights(&other, 2), DType::F32).unwrap();
    tokenizer().save(&fixture.path("other")).unwrap();
    fixture.write("more.jsonl", "{\"prompt\": \"p\", \"response\": \"r\", \"id\": 99}\n");
    let begun = format!("P {JUDGE} --seed 1 --votes 1 --temperature 1 --set verdict.max=9 --output out");
    assert_eq!(shell(&fixture, &begun).code, 0);
    let whole = fixture.read("out");
    let finished = shell(&fixture, &format!("{begun} --resume --threads 1 --max-running 2"));
    assert!(finished.code == 0 && finished.err.contains("4 responses"), "{}", finished.err);
    for (was, is, words) in [
        ("--seed 1", "--seed 2", "seed was 1, is now 2"),
        ("--votes 1", "--votes 2", "votes was 1, is now 2"),
        ("--temperature 1", "--temperature 0.5", "temperature was 1.0, is now 0.5"),
        ("--max-new-tokens 6", "--max-new-tokens 7", "max_new_tokens was 6, is now 7"),
        ("--votes 1", "--votes 1 --texts", "texts was false, is now true"),
        ("verdict.max=9", "verdict.max=5", "judge.verdict.max was 9.0, is now 5.0"),
        ("--model model", "--model other", "model was"),
        ("rows.jsonl", "rows.jsonl more.jsonl", "input was"),
    ] {
        let ended = shell(&fixture, &format!("{} --resume", begun.replace(was, is)));
        assert!(ended.code == 1 && ended.err.contains(words) && ended.err.contains("out:"), "{is}: {}", ended.err);
        assert_eq!(fixture.read("out"), whole, "{is}");
    }
    let files = "cp rows.jsonl all; head -1 all > rows.jsonl; tail -n +2 all > rest";
    assert_eq!(shell(&fixture, files).code, 0);
    let ended = shell(&fixture, &format!("{} --resume", begun.replace("rows.jsonl", "rows.jsonl rest")));
    assert!(ended.code == 1 && ended.err.contains("files was null"), "{}", ended.err);
    assert_eq!(shell(&fixture, "mv all rows.jsonl").code, 0);
    let both = shell(&fixture, &format!("{begun} --resume --overwrite"));
    assert_eq!(both.code, 2, "{}", both.err);
    let nowhere = shell(&fixture, &format!("P {JUDGE} --resume"));
    assert!(nowhere.code == 1 && nowhere.err.contains("needs a file"), "{}", nowhere.err);
    let overwritten = shell(&fixture, &format!("{} --overwrite", begun.replace("--votes 1", "--votes 2")));
    assert_eq!(overwritten.code, 0, "{}", overwritten.err);
    assert!(rows(&fixture.read("out")).iter().all(|row| row["votes"].as_array().unwrap().len() == 2));
}

/// The fixture's model, its embeddings of one character's token being no numbers.
fn damage(fixture: &CliFixture, character: &str) {
    let mut shape: Qwen3Config = config(tokenizer().vocab_size().next_multiple_of(16));
    shape.tie_word_embeddings = false;
    let mut weights = random_weights(&shape, 1);
    let table = ParameterTable::new(&shape);
    let embedding = table.parameters().iter().find(|p| p.name == "model.embed_tokens.weight").unwrap().range();
    for id in tokenizer().encode(character).unwrap() {
        weights[embedding.clone()][id as usize * shape.hidden_size..][..shape.hidden_size].fill(f32::NAN);
    }
    directory::save(&fixture.path("model"), &shape, &weights, DType::F32).unwrap();
}

#[test]
fn a_row_for_which_the_model_cannot_compute_fails_alone() {
    let fixture = fixture(0);
    damage(&fixture, "~");
    let row = |id: usize, text: &str| json!({"prompt": "p", "response": text, "id": id}).to_string() + "\n";
    fixture.write("rows.jsonl", &[row(0, "good"), row(1, "bad ~"), row(2, "good")].concat());
    let judged = shell(&fixture, &format!("P {JUDGE} --votes 4 --temperature 0"));
    assert_eq!(judged.code, 0, "{}", judged.err);
    let judged_rows = rows(&judged.out);
    let verdicts =
        |row: &Value| row["votes"].as_array().unwrap().iter().filter(|v| v["verdict"] == "not_finite").count();
    assert_eq!(judged_rows.iter().map(verdicts).collect::<Vec<_>>(), [0, 4, 0], "{}", judged.out);
    assert_eq!(judged_rows[1]["failed"], json!({"not_finite": 4}));
    assert_eq!((&judged_rows[1]["failed_share"], &judged_rows[1]["score"]), (&json!(1.0), &Value::Null));
    assert!(judged.err.contains("4 not_finite") && judged.err.contains("% failed"), "{}", judged.err);
    assert!(!judged.err.contains("-0.00") && !judged.err.contains("mean"), "no score has no mean: {}", judged.err);

    fixture.write("rows.jsonl", "{\"prompt\": \"good\", \"id\": 7}\n{\"prompt\": \"bad ~\"}\n");
    let generated =
        shell(&fixture, &GENERATE.replace("generate", "P generate").replace("--temperature 1", "--samples 2"));
    assert_eq!(generated.code, 0, "{}", generated.err);
    let reasons: Vec<Value> =
        rows(&generated.out).iter().map(|row| row["finish_reason"] == "not_finite").map(Value::from).collect();
    assert_eq!(reasons, [json!(false), json!(false), json!(true), json!(true)], "{}", generated.out);
    // Where there is nothing but failures, the model is to blame.
    fixture.write("rows.jsonl", &row(0, "~"));
    for command in [JUDGE, &GENERATE.replace("rows.jsonl", "bad.jsonl"), "generate --model model --prompt '~'"] {
        fixture.write("bad.jsonl", "{\"prompt\": \"~\"}\n");
        let ended = shell(&fixture, &format!("P {command}"));
        assert!(ended.code == 1 && ended.err.contains("not finite"), "{command}: {}", ended.err);
    }
}

#[test]
fn generate_completes_a_file_of_prompts() {
    let fixture = fixture(0);
    let chat = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "word"}]);
    let prompts = [
        json!({"prompt": "repeat these", "id": 4}),
        json!({"prompt": chat, "id": 9}),
        json!({"prompt": "long ".repeat(300), "id": 5}),
    ];
    fixture.write("rows.jsonl", &prompts.clone().map(|row| row.to_string() + "\n").concat());
    let command = format!("P {GENERATE} --samples 3 --max-prompt-tokens 60");
    let ended = shell(&fixture, &command);
    let all = rows(&ended.out);
    let shown: Vec<(u64, u64)> =
        all.iter().map(|r| (r["id"].as_u64().unwrap(), r["sample"].as_u64().unwrap())).collect();
    assert_eq!(shown, [(4, 0), (4, 1), (4, 2), (9, 0), (9, 1), (9, 2), (5, 0), (5, 1), (5, 2)]);
    for row in &all[..6] {
        let tokens = row["token_ids"].as_array().unwrap().len();
        assert!((1..=6).contains(&tokens) && row["logprobs"].as_array().unwrap().len() == tokens, "{row}");
        assert!(row["skipped"].is_null() && row["finish_reason"].is_string(), "{row}");
    }
    assert!(all[6]["finish_reason"].is_null() && all[6]["skipped"].as_str().unwrap().contains("more than 60"));
    assert!(ended.err.contains("kept out: 1 row of more than 60 tokens"), "{}", ended.err);
    // A prompt's completions do not depend on the prompts around it.
    fixture.write("rows.jsonl", &(prompts[0].to_string() + "\n"));
    assert_eq!(rows(&shell(&fixture, &command).out), all[..3]);

    fixture.write("rows.jsonl", "{\"prompt\": \"\"}\n{\"text\": 3}\n{\"prompt\": \"fine\"}\n");
    let refused = shell(&fixture, &command);
    assert!(refused.code == 1 && refused.err.contains("rows.jsonl: line 1"), "{}", refused.err);
    let skipped = shell(&fixture, &format!("{command} --skip-bad"));
    assert!(rows(&skipped.out).len() == 3 && skipped.err.contains("2 bad rows"), "{}", skipped.err);
    for (line, words) in [
        ("P generate --model model", "--input"),
        ("P generate --model model --prompt a --input rows.jsonl", "cannot be used with"),
        ("P generate --model model --prompt a --prompt-file rows.jsonl", "cannot be used with"),
        ("P generate --model model --input rows.jsonl --logits x", "cannot be used with"),
        ("P generate --model model --prompt a --resume --output x", "--input"),
        ("P generate --model model --prompt a --thinking", "--chat"),
        ("P generate --model model --prompt a --max-running 0", "--max-running"),
    ] {
        let ended = shell(&fixture, line);
        assert!(ended.code != 0 && ended.err.contains(words), "{line}: {}", ended.err);
    }
}

#[test]
fn an_assistants_turn_is_continued_only_where_that_is_asked_for() {
    let fixture = fixture(0);
    let row = |prompt: Value| json!({ "prompt": prompt }).to_string() + "\n";
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let [user, begun] = [turn("user", "Why?"), turn("assistant", "Because")];
    fixture.write("rows.jsonl", &row(json!([user, begun])));
    let refused = shell(&fixture, &format!("P {GENERATE}"));
    assert!(refused.code == 1 && refused.err.contains("--continue-final-message"), "{}", refused.err);
    let continued = shell(&fixture, &format!("P {GENERATE} --continue-final-message"));
    assert_eq!(continued.code, 0, "{}", continued.err);
    let ids: Vec<u32> = serde_json::from_value(rows(&continued.out)[0]["prompt_ids"].clone()).unwrap();
    let prompt = Tokenizer::from_dir(&fixture.path("model")).unwrap().decode(&ids, false);
    assert!(prompt.contains("Why?") && prompt.ends_with("Because"), "{prompt}");
    fixture.write("rows.jsonl", &row(json!([user])));
    let refused = shell(&fixture, &format!("P {GENERATE} --continue-final-message"));
    assert!(refused.code == 1 && refused.err.contains("the last turn is of user"), "{}", refused.err);
    let alone = shell(&fixture, "P generate --model model --prompt a --continue-final-message");
    assert!(alone.code == 1 && alone.err.contains("--input"), "{}", alone.err);
}
