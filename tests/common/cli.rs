//! A folder with a tiny model and rows to train it on, and the binary to run in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use patarm::data::synthetic::{self, Counts, Suite, SuiteConfig};
use patarm::model::parameters::random_weights;
use patarm::model::{Qwen3Config, directory};
use patarm::tensor::DType;
use patarm::tokenizer::{CHAT_TEMPLATE, Tokenizer};

pub struct CliFixture {
    folder: tempfile::TempDir,
}

/// A command that runs. It is killed when this is dropped.
pub struct Process {
    child: Child,
    stderr: PathBuf,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(sent.unwrap().success(), "SIG{name} can be sent");
    }

    /// Waits for the end; the exit code (`None`: it died of a signal), and what it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        wait_until("the end of the process", || self.child.try_wait().unwrap().is_some());
        let code = self.child.wait().unwrap().code();
        (code, std::fs::read_to_string(&self.stderr).unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something that another process does. The limit is not a measurement: only a test that fails reaches it.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(300), "{what}: waited in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The command with the signals that end it as they usually are: whoever runs the tests in the background may ignore some, and
/// what is ignored stays so.
pub fn with_default_signals(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    let reset = || {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: `signal` may be called between fork and exec, and takes two plain numbers.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(reset) }
}

/// What a command printed, and how it ended.
pub struct Outcome {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

pub fn tokenizer() -> Tokenizer {
    let inner = synthetic::tokenizer().unwrap();
    Tokenizer::from_parts(inner, CHAT_TEMPLATE.into(), synthetic::EOS_TOKEN, synthetic::PAD_TOKEN).unwrap()
}

pub fn config(vocab: usize) -> Qwen3Config {
    let mut config = Qwen3Config::named("nano").unwrap();
    (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.intermediate_size) = (vocab, 32, 2, 48);
    config
}

impl CliFixture {
    /// `model/` with a tokenizer, `rubrics.toml`, and `sft.jsonl`, `train_pairs.jsonl`, `test_pairs.jsonl`.
    pub fn new() -> Self {
        let fixture = Self { folder: tempfile::tempdir().unwrap() };
        let tokenizer = tokenizer();
        let config = config(tokenizer.vocab_size().next_multiple_of(16));
        directory::save(&fixture.path("model"), &config, &random_weights(&config, 1), DType::F32).unwrap();
        tokenizer.save(&fixture.path("model")).unwrap();
        fixture.write("rubrics.toml", synthetic::RUBRICS);
        let suite = Suite::new(SuiteConfig::default());
        let counts = Counts { sft: 20, train: 12, test: 4 };
        let message = |example: &synthetic::Example| format!("{}\n{}", example.prompt, example.response);
        synthetic::write_jsonl(&suite, &fixture.path(""), counts, message).unwrap();
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Starts the binary in the folder, and goes on. Its stderr is kept in the file `stderr`.
    pub fn start(&self, args: &[&str]) -> Process {
        self.start_by(Command::new(env!("CARGO_BIN_EXE_patarm-train")).args(args))
    }

    /// The same with a command that ends in the binary.
    pub fn start_by(&self, command: &mut Command) -> Process {
        let stderr = self.path("stderr");
        let child = with_default_signals(command)
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&stderr).unwrap())
            .spawn()
            .expect("the command starts");
        Process { child, stderr }
    }

    /// Waits until the file of that name has `count` lines.
    #[track_caller]
    pub fn wait_for_lines(&self, name: &str, count: usize) {
        wait_until(name, || std::fs::read_to_string(self.path(name)).is_ok_and(|text| text.lines().count() >= count));
    }

    /// Runs the binary in the folder.
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.run_with(args, &[])
    }

    /// The same with environment variables.
    pub fn run_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let output = Command::new(env!("CARGO_BIN_EXE_patarm-train"))
            .args(args)
            .envs(variables.iter().copied())
            .current_dir(self.folder.path())
            .output()
            .expect("the binary starts");
        Outcome {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn succeed(&self, args: &[&str]) -> Outcome {
        let outcome = self.run(args);
        assert!(outcome.ok, "{args:?}: {}", outcome.err);
        outcome
    }

    /// The command must fail and say all of `words` in one message.
    #[track_caller]
    pub fn fail(&self, args: &[&str], words: &[&str]) {
        let outcome = self.run(args);
        assert!(!outcome.ok, "{args:?} must fail");
        assert!(!outcome.err.contains("panicked"), "{}", outcome.err);
        for word in words {
            assert!(outcome.err.contains(word), "{args:?}: {word:?} is missing in: {}", outcome.err);
        }
    }
}

/// Public data sets that may lie beside the repository.
pub fn shared_data() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !folder.is_dir() {
        eprintln!("skipped: there is no {}", folder.display());
        return None;
    }
    Some(folder)
}
