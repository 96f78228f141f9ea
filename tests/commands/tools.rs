//! `tools/profile.sh` and `tools/sanitize.sh` from a packed folder, with stubs in place of ncu and compute-sanitizer: what they
//! ask of those tools, and what they make of their words. What the real tools say only a GPU can show.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder as `tools/gpu-check pack` makes it, and one of commands that is all of PATH.
struct Pack {
    folder: tempfile::TempDir,
}

struct Ended {
    code: Option<i32>,
    said: String,
    /// The calls of all stubs, a line each.
    calls: Vec<String>,
}

/// What the scripts use of the system.
const SYSTEM: [&str; 15] = [
    "bash", "dirname", "cat", "sed", "grep", "awk", "date", "mkdir", "tail", "head", "tr", "timeout", "sleep", "env",
    "touch",
];

const NCU: &str = r#"
case " $* " in
    *" --import "*) cat "$STUBS/raw.csv"; exit 0 ;;
esac
export_to=""
previous=""
for word in "$@"; do
    [ "$previous" != --export ] || export_to=$word
    previous=$word
done
case "$STUB_MODE: $*" in
    refused:*)
        echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters"
        exit 1
        ;;
    unknown:*--metrics*) echo '==ERROR== Failed to find metric sm__inst_executed_pipe_tensor_op_hmma.avg'; exit 1 ;;
    nothing:*) echo '==WARNING== No kernels were profiled.'; exit 0 ;;
esac
touch "$export_to.ncu-rep"
# As after --kill.
exit 9
"#;

/// As `ncu --page raw --csv` writes it: names, units, a line for each launch; notes may stand before.
const RAW: &str = concat!(
    "==PROF== Connected to process 42\n",
    r#""ID","Process ID","Process Name","Host Name","Kernel Name","dram__bytes_read.sum","#,
    r#""dram__throughput.avg.pct_of_peak_sustained_elapsed","l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum","#,
    r#""launch__registers_per_thread","smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio","#,
    r#""smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio""#,
    r#"
"","","","","","byte","%","","register/thread","inst","inst"
"0","42","kernels","127.0.0.1","attention_forward_128_bf16","1,048,576","61.50","12","168","4.25","0.50"
"1","42","kernels","127.0.0.1","attention_forward_128_bf16","1,048,832","60.25","12","168","4.75","0.75"
"2","42","kernels","127.0.0.1","attention_forward_128_bf16","1,048,320","59.00","12","168","4.00","0.25"
"#
);

const SANITIZER: &str = r#"
tool=$2
tests=$(printf '%s\n' "$@" | grep -F :: || true)
for test in $tests; do
    printf 'test %s ... ' "$test"
    case "$STUB_MODE: $tool $test" in
        slow:*memcheck*lm_head::*) sleep 60 ;;
        race:*racecheck*lm_head::*)
            printf '========= Error: Race reported between Write access at lm_head_loss and Read access [4096 hazards]\n' ;;
    esac
    echo ok
done
case "$STUB_MODE: $tool" in
    race:*racecheck)
        case "$tests" in
            *lm_head::*) echo '========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)'; exit 3 ;;
        esac
        ;;
    failing:*) echo '========= ERROR SUMMARY: 0 errors'; exit 101 ;;
esac
echo '========= ERROR SUMMARY: 0 errors'
"#;

const OPS: &str = r#"
case " $* " in
    *" --ignored "*) echo 'lm_head::cuda::gpu_only::large: test' ;;
    *) printf '%s: test\n' adamw::cuda::steps attention::cuda_forward::equals attention::equals lm_head::cuda::gpu_only::large \
        lm_head::cuda::loss rmsnorm::cuda::forward swiglu::cuda::backward ;;
esac
"#;

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is not on PATH"))
}

impl Pack {
    fn new(tools: &[&str]) -> Self {
        let pack = Self { folder: tempfile::tempdir().unwrap() };
        let (here, stubs) = (pack.path("pack"), pack.path("stubs"));
        std::fs::create_dir(&here).unwrap();
        std::fs::create_dir(&stubs).unwrap();
        for script in ["profile.sh", "sanitize.sh"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(script);
            std::fs::copy(&from, here.join(script)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        }
        for program in SYSTEM {
            std::os::unix::fs::symlink(on_path(program), stubs.join(program)).unwrap();
        }
        // The interpreter itself: what lies on PATH may be a script that looks around there.
        let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        let python = String::from_utf8(python.stdout).unwrap();
        write_program(
            &stubs.join("python3"),
            &format!("#!{}\nexec '{}' \"$@\"\n", on_path("bash").display(), python.trim()),
        );
        let noted = |name: &str, text: &str| {
            format!("#!/usr/bin/env bash\nset -u\necho \"{name} $*\" >>\"$STUBS/calls\"\n{text}")
        };
        for name in ["patarm-train", "kernels"] {
            write_program(&here.join(name), &noted(name, ""));
        }
        write_program(&here.join("ops"), &format!("#!/usr/bin/env bash\n{OPS}"));
        // Clocks are changed with this, and must not be.
        write_program(&stubs.join("nvidia-smi"), &noted("nvidia-smi", ""));
        for (name, text) in [("ncu", NCU), ("compute-sanitizer", SANITIZER), ("nsys", "")] {
            if tools.contains(&name) {
                write_program(&stubs.join(name), &noted(name, text));
            }
        }
        std::fs::write(stubs.join("raw.csv"), RAW).unwrap();
        pack
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a packed script, from another folder.
    fn run(&self, script: &str, args: &[&str], mode: &str) -> Ended {
        let stubs = self.path("stubs");
        let calls = stubs.join("calls");
        std::fs::write(&calls, "").unwrap();
        let output = Command::new(stubs.join("bash"))
            .arg(self.path("pack").join(script))
            .args(args)
            .env_clear()
            .env("PATH", &stubs)
            .env("STUBS", &stubs)
            .env("STUB_MODE", mode)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        let calls: Vec<String> = std::fs::read_to_string(calls).unwrap().lines().map(String::from).collect();
        assert!(!calls.iter().any(|call| call.starts_with("nvidia-smi")), "{calls:?}");
        Ended { code: output.status.code(), said, calls }
    }
}

impl Ended {
    #[track_caller]
    fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.said.contains(word), "{word:?} is missing in:\n{}\ncalls: {:#?}", self.said, self.calls);
        }
    }

    fn calls_of(&self, program: &str, with: &str) -> Vec<&String> {
        let own = |call: &&String| call.starts_with(&format!("{program} ")) && call.contains(with);
        self.calls.iter().filter(own).collect()
    }
}

/// Nothing in the scripts can change a clock: ncu does unless it is told not to, and nvidia-smi is not named.
#[test]
fn no_script_touches_clocks() {
    for script in ["profile.sh", "sanitize.sh"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(script)).unwrap();
        for word in ["nvidia-smi", "-lgc", "lock-gpu-clocks", "-lmc", "clock-control base"] {
            assert!(!text.contains(word), "{script}: {word}");
        }
    }
}

#[test]
fn a_table_is_a_bench_with_a_profile() {
    let ended = Pack::new(&[]).run("profile.sh", &["table", "decode", "--shape", "0.6b"], "");
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert_eq!(ended.calls, ["patarm-train bench decode --device cuda --profile --shape 0.6b"]);
}

#[test]
fn counters_of_a_kernel_become_a_table() {
    let pack = Pack::new(&["ncu"]);
    let args =
        ["ncu", "attention_forward_128_bf16", "--skip", "5", "--count", "2", "--shape", "0.6b", "--only", "attention"];
    let ended = pack.run("profile.sh", &args, "");
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let [collected] = ended.calls_of("ncu", "--export")[..] else { panic!("{:#?}", ended.calls) };
    for words in [
        "--clock-control none",
        "--kernel-name attention_forward_128_bf16",
        "--launch-skip 5 --launch-count 2",
        "dram__bytes_read.sum,dram__bytes_write.sum,",
        "sm__pipe_tensor_op_hmma_cycles_active",
        "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
        "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
        "/kernels --bench --shape 0.6b --only attention",
    ] {
        assert!(collected.contains(words), "{words:?} is missing in {collected}");
    }
    // The median of three, with the lowest and the highest; what this ncu did not give is named.
    let line = |name: &str| ended.said.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    let words = |line: String| line.split_whitespace().map(String::from).collect::<Vec<_>>().join(" ");
    assert_eq!(
        words(line("dram__bytes_read.sum ")),
        "dram__bytes_read.sum 1,048,576 byte (1,048,320 byte … 1,048,832 byte)"
    );
    assert_eq!(
        words(line("dram__throughput")),
        "dram__throughput.avg.pct_of_peak_sustained_elapsed 60.25 % (59 % … 61.50 %)"
    );
    assert_eq!(words(line("registers_per_thread")), "launch__registers_per_thread 168 register/thread");
    let [first, second] = ["long_scoreboard  ", "barrier  "].map(|name| ended.said.find(name).unwrap());
    assert!(first < second, "the longest wait comes first: {}", ended.said);
    ended.says(&[
        "not collected by this ncu: gpu__time_duration.sum",
        "dram__bytes_write.sum",
        "pack/results/profiles/attention",
    ]);
}

#[test]
fn metrics_that_ncu_does_not_know_cost_detail_and_not_the_result() {
    let ended = Pack::new(&["ncu"]).run("profile.sh", &["ncu", "attention_forward_128_bf16"], "unknown");
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    ended.says(&["does not accept all of these metrics", "Failed to find metric", "full set", "1,048,576 byte"]);
    let collections = ended.calls_of("ncu", "--export");
    assert_eq!(collections.len(), 2, "{collections:#?}");
    assert!(collections.iter().all(|call| call.contains("--clock-control none")), "{collections:#?}");
    assert!(collections[1].contains("--set full"), "{collections:#?}");
}

#[test]
fn what_ncu_refuses_is_said_in_plain_words() {
    let pack = Pack::new(&["ncu"]);
    let refused = pack.run("profile.sh", &["ncu", "adamw_f32"], "refused");
    assert_eq!(refused.code, Some(1), "{}", refused.said);
    refused.says(&["only administrators", "NVreg_RestrictProfilingToAdminUsers=0"]);
    assert_eq!(refused.calls_of("ncu", "").len(), 1, "asking again is of no use");
    let nothing = pack.run("profile.sh", &["ncu", "no_such_kernel"], "nothing");
    assert_eq!(nothing.code, Some(1), "{}", nothing.said);
    nothing.says(&["saw no launch of no_such_kernel", "No kernels were profiled"]);
    assert_eq!(nothing.calls_of("ncu", "--export").len(), 3, "names, the full set, sections: {:#?}", nothing.calls);
}

#[test]
fn a_tool_that_is_missing_is_named() {
    let pack = Pack::new(&[]);
    for (script, args, tool) in [
        ("profile.sh", &["ncu", "adamw_f32"][..], "ncu is missing"),
        ("profile.sh", &["timeline", "train"], "nsys is missing"),
        ("sanitize.sh", &[], "compute-sanitizer is missing"),
    ] {
        let ended = pack.run(script, args, "");
        assert_eq!(ended.code, Some(1), "{script}: {}", ended.said);
        ended.says(&[tool, "CUDA toolkit", "PATH"]);
    }
}

#[test]
fn a_clean_sanitizer_ends_with_0_and_has_seen_every_device_test() {
    let ended = Pack::new(&["compute-sanitizer"]).run("sanitize.sh", &[], "");
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    for tool in ["memcheck", "racecheck", "initcheck", "synccheck"] {
        ended.says(&[&format!("{tool}: 5 of 5 tests, nothing found")]);
        let calls = ended.calls_of("compute-sanitizer", &format!("--tool {tool} "));
        assert_eq!(calls.len(), 4, "{calls:#?}");
        // In order of worth; neither the CPU's tests nor those that are ignored.
        for (call, test) in
            calls.iter().zip(["attention::cuda_forward::equals", "lm_head::cuda::loss", "rmsnorm::", "adamw::"])
        {
            assert!(call.contains(test) && call.contains("--error-exitcode 3") && call.contains("--exact "), "{call}");
            assert!(!call.contains("attention::equals") && !call.contains("gpu_only"), "{call}");
        }
    }
    let filtered = Pack::new(&["compute-sanitizer"]).run("sanitize.sh", &["rmsnorm"], "");
    filtered.says(&["racecheck: 1 of 1 tests, nothing found"]);
}

#[test]
fn what_a_sanitizer_finds_ends_with_1_and_what_a_test_does_not() {
    let pack = Pack::new(&["compute-sanitizer"]);
    let race = pack.run("sanitize.sh", &[], "race");
    assert_eq!(race.code, Some(1), "{}", race.said);
    race.says(&[
        "memcheck: 5 of 5 tests, nothing found",
        "racecheck: 5 of 5 tests, FOUND SOMETHING",
        "Error: Race reported",
    ]);
    race.says(&["synccheck: 5 of 5 tests, nothing found"]);
    let failing = pack.run("sanitize.sh", &[], "failing");
    assert_eq!(failing.code, Some(0), "{}", failing.said);
    failing.says(&["ended with 101, but memcheck found nothing", "nothing found (a program failed for another reason"]);
}

#[test]
fn what_there_was_no_time_for_is_said() {
    let pack = Pack::new(&["compute-sanitizer"]);
    let none = pack.run("sanitize.sh", &["--minutes", "0"], "");
    assert_eq!(none.code, Some(2), "{}", none.said);
    none.says(&["not checked by memcheck", "5 of 5 tests:", "    lm_head::cuda::loss", "nothing was checked"]);
    // One test hangs: the tool's share is over with it, and the others go on.
    let slow = pack.run("sanitize.sh", &["--minutes", "0.2"], "slow");
    assert_eq!(slow.code, Some(0), "{}", slow.said);
    slow.says(&["memcheck: 1 of 5 tests, nothing found", "4 of 5 tests:", "racecheck: 5 of 5 tests, nothing found"]);
}
