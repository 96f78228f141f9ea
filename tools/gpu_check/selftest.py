"""Tests of gpu-check itself, over a pack whose programs are small scripts: `python3 tools/gpu_check/selftest.py`."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.dont_write_bytecode = True

from gpu_check import blas, libtest, predictions, process, results  # noqa: E402

# Speaks like a Rust test binary. A test is "name: what it does": passes, fails, faults (all later ones of the process fail),
# aborts (the process dies), hangs, or ignored.
FAKE_TESTS = """\
#!{python}
import os, sys, time
tests = {tests!r}
flags = [a for a in sys.argv[1:] if a.startswith("-")]
names = [a for a in sys.argv[1:] if not a.startswith("-")]
keep = (lambda n: n in names) if "--exact" in flags else (lambda n: not names or any(f in n for f in names))
tests = {{n: w for n, w in tests.items() if keep(n)}}
if "--list" in flags:
    for n, w in tests.items():
        if "--ignored" not in flags or w == "ignored":
            print(n + ": test")
    sys.exit()
broken, failed = False, []
for n, w in tests.items():
    if (w == "ignored") != ("--ignored" in flags):
        if w == "ignored":
            print(f"test {{n}} ... ignored, needs a GPU: because", flush=True)
        continue
    if w == "hangs":
        time.sleep(600)
    if w == "aborts":
        os.abort()
    broken |= w == "faults"
    bad = broken or w == "fails"
    failed += [n] if bad else []
    print(f"test {{n}} ... {{'FAILED' if bad else 'ok'}}", flush=True)
if failed:
    print("\\nfailures:\\n")
    for n in failed:
        print(f"---- {{n}} stdout ----\\nillegal address in {{n}}\\n")
    print("failures:")
sys.exit(101 if failed else 0)
"""

# Speaks like patarm-train and like the kernels' bench.
FAKE_PROGRAM = """\
#!{python}
import json, sys, time
time.sleep({sleep})
if "--json" in sys.argv and "--bench" in sys.argv:
    rows = [dict(op="rmsnorm forward", sizes="8 × 4", off=False), dict(op="adamw", sizes="9", off=True)]
    open(sys.argv[sys.argv.index("--json") + 1], "w").write("".join(json.dumps(r) + "\\n" for r in rows))
elif "bench" in sys.argv:
    profile = [dict(phase="forward", op="rmsnorm", calls=2, device_ms=1.5, share=0.6)]
    print(json.dumps(dict(tokens_per_s=100.0, percent_of_gemm_peak=10.0, step_ms=4.0, run_ms=9.0, profile=profile)))
else:
    print("✓ fine  yes")
"""


def script(path, template, **values):
    path.write_text(template.format(python=sys.executable, **values))
    path.chmod(0o755)
    return path


class Folder(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory(prefix="patarm-selftest-")
        self.addCleanup(place.cleanup)
        self.folder = pathlib.Path(place.name)

    def suite(self, limit_s=30, ignored_only=False, **tests):
        binary = script(self.folder / "ops", FAKE_TESTS, tests={name.replace("__", "::"): what for name, what in tests.items()})
        return libtest.run(binary, ["cuda"], ignored_only=ignored_only, cwd=self.folder, env=dict(os.environ),
                           log=self.folder / "log", limit_s=limit_s)  # fmt: skip

    def pack(self, sleep=0.0, ops=None, glibc="2.1"):
        folder = self.folder / "patarm-gpu-check"
        (folder / "benches").mkdir(parents=True)
        shutil.copytree(HERE, folder / "gpu_check", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(HERE.parent / "gpu-check", folder / "run")
        (folder / "manifest.json").write_text(json.dumps({"commit": "abc", "glibc": glibc}))
        tests = {"cuda::one": "passes", "smoke::all": "passes", "gpu_only::big_cuda": "ignored"}
        script(folder / "ops", FAKE_TESTS, tests=ops or tests)
        for name in ("parity", "cuda"):
            script(folder / name, FAKE_TESTS, tests=tests)
        for name in ("patarm-train", "kernels"):
            script(folder / name, FAKE_PROGRAM, sleep=sleep)
        return folder

    def start(self, folder, *arguments):
        # A session of its own, so that what it leaves running can be looked for.
        return subprocess.Popen([sys.executable, folder / "run", "--out", self.folder / "out", *arguments], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def summary(self):
        return json.loads((self.folder / "out/summary.json").read_text())


class Libtest(Folder):
    def test_a_fault_is_isolated_and_its_victims_pass_alone(self):
        report = self.suite(cuda__a="passes", cuda__b="faults", cuda__c="passes", cuda__d="passes", other="fails")
        self.assertEqual(report.passed, ["cuda::a"])
        self.assertEqual(sorted(report.victims), ["cuda::c", "cuda::d"])
        self.assertEqual(list(report.failed), ["cuda::b"])
        self.assertIn("illegal address in cuda::b", report.failed["cuda::b"])

    def test_a_process_that_dies_takes_nothing_with_it(self):
        report = self.suite(cuda__a="passes", cuda__b="aborts", cuda__c="passes")
        self.assertEqual((report.passed, report.victims, list(report.failed)), (["cuda::a"], ["cuda::c"], ["cuda::b"]))
        self.assertIn("SIGABRT", report.failed["cuda::b"])

    def test_a_test_that_hangs_is_cut_and_named(self):
        report = self.suite(limit_s=8, cuda__a="passes", cuda__b="hangs", cuda__c="passes")
        self.assertEqual((report.passed, report.victims), (["cuda::a"], ["cuda::c"]))
        self.assertEqual(report.left_out + list(report.failed), ["cuda::b"])

    def test_tests_that_need_a_device_are_listed_with_their_reason_and_run_when_asked_for(self):
        report = self.suite(cuda__a="passes", cuda__big="ignored")
        self.assertEqual((report.passed, report.ignored), (["cuda::a"], {"cuda::big": "needs a GPU: because"}))
        self.assertEqual(self.suite(ignored_only=True, cuda__a="passes", cuda__big="ignored").passed, ["cuda::big"])

    def test_no_test_at_all_is_a_failure(self):
        self.assertEqual(self.suite(other="passes").broken, "no test matches")

    def test_a_binary_that_cannot_start_is_a_failure(self):
        report = libtest.run(self.folder / "missing", [], cwd=self.folder, env={}, log=self.folder / "log", limit_s=5)
        self.assertIn("cannot start", report.broken)


class Processes(Folder):
    def test_a_limit_ends_everything_that_was_started_and_keeps_what_was_printed(self):
        mark = f"patarm-selftest-{os.getpid()}"
        command = ["sh", "-c", f"echo begun; sh -c 'sleep 600 # {mark}' & wait"]
        done = process.run(command, cwd=self.folder, env=dict(os.environ), log=self.folder / "log", limit_s=0.5)
        self.assertEqual((done.end, done.out), ("cut short", "begun\n"))
        time.sleep(0.1)
        left = [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if mark in read(p) and "selftest.py" not in read(p)]
        self.assertEqual(left, [])


def read(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class Runs(Folder):
    def test_an_emulated_run_ends_well_in_two_files(self):
        child = self.start(self.pack(), "--emulated")
        said = child.communicate(timeout=120)[0]
        self.assertEqual(child.returncode, 0, said)
        self.assertEqual(sorted(p.name for p in (self.folder / "out").iterdir()), ["results.tar.gz", "summary.json"])
        summary = self.summary()
        self.assertEqual(summary["state"], "complete")
        self.assertEqual({s["end"] for s in summary["steps"] if not s.get("meant")}, {"ok"})
        self.assertEqual({s["group"] for s in summary["steps"]},
                         {"doctor", "smoke", "tests", "device-tests", "kernels", "bench", "torch", "profile"})  # fmt: skip
        with tarfile.open(self.folder / "out/results.tar.gz") as tar:
            self.assertIn("results/summary.json", tar.getnames())
        self.assertIn("all steps ended well", said.splitlines()[-1])

    def test_a_planted_fault_fails_the_run_and_the_others_still_report(self):
        ops = {"cuda::a": "faults", "cuda::b": "passes", "smoke::all": "passes"}
        child = self.start(self.pack(ops=ops), "--emulated")
        said = child.communicate(timeout=120)[0]
        self.assertEqual(child.returncode, 1, said)
        steps = {step["name"]: step for step in self.summary()["steps"]}
        self.assertEqual(steps["tests ops"]["tests"]["passed_alone"], ["cuda::b"])
        self.assertEqual(list(steps["tests ops"]["tests"]["failed"]), ["cuda::a"])
        names = ("tests parity", "tests cuda", "kernels tiny", "train nano 1x64")
        self.assertTrue(all(steps[name]["end"] == "ok" for name in names))

    def test_time_that_is_up_is_said_and_is_no_success(self):
        child = self.start(self.pack(sleep=30), "--emulated", "--minutes", "0.2", "--only", "doctor,kernels")
        said = child.communicate(timeout=60)[0]
        self.assertEqual(child.returncode, 2, said)
        self.assertEqual([step["end"] for step in self.summary()["steps"]], ["cut short", "left out"])

    def test_a_kill_at_any_moment_leaves_a_valid_summary(self):
        for number, state in [(signal.SIGKILL, "running"), (signal.SIGTERM, "interrupted"), (signal.SIGINT, "interrupted")]:
            with self.subTest(number):
                shutil.rmtree(self.folder / "patarm-gpu-check", ignore_errors=True)
                shutil.rmtree(self.folder / "out", ignore_errors=True)
                child = self.start(self.pack(sleep=20), "--emulated", "--only", "smoke,kernels")
                wait_for(lambda: (self.folder / "out/summary.json").is_file()
                         and any(s["name"].startswith("kernels") for s in self.summary()["steps"]))  # fmt: skip
                child.send_signal(number)
                child.communicate(timeout=20)
                self.assertEqual(self.summary()["state"], state)
                self.assertEqual(self.summary()["steps"][0]["end"], "ok")
                self.assertEqual(child.returncode, -number if number == signal.SIGKILL else 128 + number)
                subprocess.run(["pkill", "-f", str(self.folder / "patarm-gpu-check/kernels")])

    def test_an_old_c_library_and_a_misspelt_step_are_refused_before_anything_runs(self):
        child = self.start(self.pack(glibc="9.99"), "--emulated")
        self.assertIn("is too old: the programs need 9.99", child.communicate(timeout=20)[0])
        self.assertEqual(child.returncode, 1)
        child = self.start(self.folder / "patarm-gpu-check", "--only", "smoke,kernel")
        self.assertIn("--only kernel: the steps are doctor", child.communicate(timeout=20)[0])
        self.assertEqual(child.returncode, 2)


def wait_for(condition, limit_s=20):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


class Findings(Folder):
    def test_cublaslt_is_found_in_a_wheel(self):
        wheel = self.folder / "site/nvidia/cu13/lib"
        wheel.mkdir(parents=True)
        some = next(p for p in pathlib.Path("/usr/lib").rglob("libm.so.6"))
        shutil.copy2(some, wheel / "libcublasLt.so.13")
        code = textwrap.dedent(f"""
            import pathlib, sys
            sys.path.insert(0, {str(HERE.parent)!r})
            sys.path.append({str(self.folder / "site")!r})
            from gpu_check import blas
            blas.loads = lambda path, real=blas.loads: "/" in str(path) and real(path)
            print(*blas.find(pathlib.Path({str(self.folder / "links")!r})), sep="|")
        """)
        said = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout.strip()
        found, paths = said.split("|")
        if "toolkit" not in found:
            self.assertIn("cu13/lib/libcublasLt.so.13 (Python wheel)", found)
            self.assertIn(str(wheel), paths)
            self.assertTrue((self.folder / "links/libcublasLt.so").exists())

    def test_a_library_that_does_not_load_is_said(self):
        self.assertFalse(blas.loads("libdoesnotexist.so.99"))

    def test_predictions_say_when_they_are_off(self):
        step = dict(name="decode x", key="step_ms", unit="ms", low=7.0, high=9.5, floor=1.9)
        told = predictions.Predictions([step])
        self.assertFalse(told.of("decode x", {"step_ms": 9.0}).off)
        self.assertTrue(told.of("decode x", {"step_ms": 15.0}).off)
        self.assertTrue(told.of("decode x", {"step_ms": 4.0}).off)
        self.assertIsNone(told.of("something else", {"step_ms": 4.0}))

    def test_long_logs_keep_both_ends(self):
        path = self.folder / "long.out"
        path.write_bytes(b"begin" + bytes(5 << 20) + b"end")
        short = results.shortened(path)
        self.assertTrue(short.startswith(b"begin") and short.endswith(b"end") and len(short) < 3 << 20)

    def test_exit_codes(self):
        ends = lambda *ends: results.exit_code([{"end": end} for end in ends])  # noqa: E731
        self.assertEqual([ends("ok"), ends("ok", "cut short"), ends("cut short", "failed"), ends("cannot start")], [0, 2, 1, 1])
        self.assertEqual(results.exit_code([{"end": "left out", "meant": True}]), 0)


if __name__ == "__main__":
    unittest.main()
