"""The steps of a check, in the order of their worth, and the loop that runs them."""

import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from . import blas, libtest, predictions, process
from .results import Results, exit_code

GROUPS = ["doctor", "smoke", "tests", "device-tests", "kernels", "bench", "torch", "8b", "profile", "ncu", "sanitize"]
# These take a flag: they are long, and of use once the rest is known.
ON_REQUEST = ["ncu", "sanitize"]
# Kept back for writing the results.
RESERVE_S = 6
# A step with less time than this is not begun.
LEAST_S = 5

# Device tests of each binary: what their names contain.
FILTERS = {"ops": ["cuda", "gpu_only"], "parity": ["cuda"], "cuda": []}

# What a decoding or RL bench measures; the names are those of benches/predictions.toml.
TRAIN = {"train 0.6b 8x1024": "train --batch 8 --length 1024 --micro-batch-tokens 8192"}
DECODE = {
    "decode 0.6b 1x320": "decode --batch 1 --prompt 256 --new 128",
    "decode 0.6b 64x320": "decode --batch 64 --prompt 256 --new 128",
    "decode 0.6b 128x1800 shared": "decode --batch 128 --batch-shared 8 --prompt 1500 --new 300",
}
RL = {"rl 0.6b": "rl --prompts 64 --generations 8 --prompt 1500 --new 300 --micro-batch-tokens 16384"}
DECODE_8B = {"decode 8b 128x1800 shared": "decode --batch 128 --batch-shared 8 --prompt 1500 --new 300"}
TINY = {
    "train nano 1x64": "train --batch 1 --length 64",
    "decode nano 4x24": "decode --batch 4 --prompt 16 --new 8",
    "rl nano 2x2x8": "rl --prompts 2 --generations 2 --prompt 16 --new 8",
}


def chosen(arguments):
    """The groups to run. Raises ValueError for a name that is none."""
    named = [name.strip() for name in (arguments.only or "").split(",") if name.strip()]
    unknown = [name for name in named if name not in GROUPS]
    if unknown:
        raise ValueError(f"--only {','.join(unknown)}: the steps are {', '.join(GROUPS)}")
    flagged = [name for name in ("profile", "ncu", "sanitize") if getattr(arguments, name)]
    if "ncu" in named and not arguments.ncu:
        raise ValueError("--only ncu: name a kernel with --ncu KERNEL; benches/kernels.txt lists them")
    if arguments.emulated and "ncu" in named + flagged + (["sanitize"] if "sanitize" in named + flagged else []):
        raise ValueError("--ncu and --sanitize need a GPU: the emulator checks memory and races itself")
    wanted = set(named) | set(flagged)
    return [name for name in GROUPS if name in wanted] if wanted else [name for name in GROUPS if name not in ON_REQUEST]


class Check:
    """One run over a folder that `pack` has filled."""

    def __init__(self, folder, arguments, logs):
        self.folder, self.emulated, self.logs = folder, arguments.emulated, logs
        self.minutes = arguments.minutes or (30 if arguments.emulated else 9.5)
        self.end = time.monotonic() + 60 * self.minutes
        self.kernel = arguments.ncu
        self.device = ["--device", "emulated" if self.emulated else "cuda"]
        self.predictions = predictions.load(folder / "benches/predictions.toml")
        self.environment = os.environ | {"PATARM_ROOT": str(folder), "RUST_BACKTRACE": "0"}
        if not self.emulated:
            self.environment["PATARM_TEST_DEVICE"] = "gpu"
        self.blas = "emulated"
        if not self.emulated:
            self.blas, paths = blas.find(logs / "libraries")
            paths += [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path]
            self.environment["LD_LIBRARY_PATH"] = ":".join(paths)
        header = {"date": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()), "emulated": self.emulated,
                  "minutes": self.minutes, "cublaslt": self.blas, "card": self.card(),
                  "machine": f"{platform.platform()}, {os.cpu_count()} cores",
                  "pack": json.loads((folder / "manifest.json").read_text())}  # fmt: skip
        self.results = Results(arguments.out.resolve(), logs, header)

    def card(self):
        """What nvidia-smi says of the card, clocks and temperature included."""
        fields = "name,driver_version,memory.total,clocks.sm,clocks.mem,temperature.gpu,power.draw"
        if self.emulated or not shutil.which("nvidia-smi"):
            return None
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            return subprocess.run(command, text=True, capture_output=True, timeout=20).stdout.strip() or None
        except (OSError, subprocess.TimeoutExpired):
            return None

    def limit(self, limit_s):
        return min(limit_s, self.end - time.monotonic() - RESERVE_S)

    def log(self, name):
        number = len(self.results.summary["steps"])
        return self.logs / f"{number:02}-{re.sub(r'[^A-Za-z0-9.]+', '-', name)}"

    def step(self, group, name, limit_s, command, work):
        """Runs a step unless its time is up. `work(limit, log, step)` answers how it ended and what is worth a line."""
        limit = self.limit(limit_s)
        if limit < LEAST_S:
            self.results.left_out(group, name, f"the {self.minutes:g} minutes are up")
            print(f"-- {name}: left out, the time is up", flush=True)
            return None
        step = self.results.begin(group, name, command, limit)
        print(f"-- {name} (at most {limit:.0f} s)", flush=True)
        start = time.monotonic()
        end, found = work(limit, self.log(name), step)
        step |= {"end": end, "seconds": round(time.monotonic() - start, 1), "found": found}
        print(f"   {end}, {step['seconds']} s{': ' if found else ''}{found}", flush=True)
        self.results.write()
        self.results.bundle()
        return step

    def command(self, group, name, limit_s, command, read=lambda outcome, step: ""):
        """A step that is one command; `read` makes a line of what it printed."""

        def work(limit, log, step):
            done = process.run(command, cwd=self.folder, env=self.environment, log=log, limit_s=limit)
            if done.end != "ok":
                last = (done.err.strip() or done.out.strip()).splitlines()[-1:]
                return done.end, f"{done.reason if done.end == 'failed' else ''} {' '.join(last)[:200]}".strip()
            try:
                return "ok", read(done, step)
            except (ValueError, KeyError, TypeError) as error:
                return "failed", f"its output cannot be read: {error!r}"

        return self.step(group, name, limit_s, command, work)

    def tests(self, group, binary, filters, limit_s, ignored_only=False):
        path = self.folder / binary

        def work(limit, log, step):
            report = libtest.run(path, filters, ignored_only=ignored_only, cwd=self.folder, env=self.environment, log=log,
                                 limit_s=limit)  # fmt: skip
            step["tests"] = report.as_dict()
            for name in report.failed:
                print(f"   FAILED {binary} {name}", flush=True)
            if report.failed or report.broken:
                return "failed", report.words()
            return ("cut short" if report.left_out else "ok"), report.words()

        name = f"{group} {binary}" if group != "smoke" else "smoke"
        return self.step(group, name, limit_s, [path, *filters, *(["--ignored"] if ignored_only else [])], work)

    def bench(self, group, name, arguments, shape, limit_s, extra=()):
        """`patarm-train bench`, held to its prediction."""
        runs = ["--runs", "1" if self.emulated or arguments.startswith("rl") else "3"]
        program = [self.folder / "patarm-train", "bench", *arguments.split(), "--shape", shape]
        command = [*program, *runs, *self.device, "--json", *extra]

        def read(done, step):
            step["result"] = result = json.loads(done.out.strip().splitlines()[-1])
            words = f"{result['tokens_per_s']:.0f} tokens/s"
            if self.emulated:
                return f"{words} (emulated: no speed)"
            words += f", {result['percent_of_gemm_peak']:.0f} % of GEMM peak"
            told = self.predictions.of(name, result)
            step["prediction"] = told.as_dict() if told else None
            return words + (f"; {told.words()}" if told else "")

        return self.command(group, name, limit_s, command, read)

    # ------------------------------------------------------------------------------------------------------------------
    # The groups.

    def doctor(self):
        print(f"cuBLASLt: {self.blas}", flush=True)
        emulated = ["--emulated"] if self.emulated else []
        self.command("doctor", "doctor", 30, [self.folder / "patarm-train", "doctor", *emulated],
                     lambda done, step: "; ".join(
                         line[2:] for line in done.out.splitlines() if line.startswith("✗")))  # fmt: skip
        if not self.emulated and shutil.which("nvidia-smi"):
            self.command("doctor", "nvidia-smi", 20, ["nvidia-smi"])

    def smoke(self):
        self.tests("smoke", "ops", ["smoke"], 60)

    def device_path(self):
        for binary, filters in FILTERS.items():
            self.tests("tests", binary, filters, 150 if not self.emulated else 600)

    def device_only(self):
        for binary in ("cuda", "ops"):
            if self.emulated:
                self.results.summary["steps"].append({
                    "group": "device-tests", "name": f"device-tests {binary}", "end": "left out", "seconds": 0.0, "meant": True,
                    "why": "only a device can run them: see needs_a_gpu of the tests above"})  # fmt: skip
            else:
                self.tests("device-tests", binary, ["gpu_only"], 120, ignored_only=True)

    def kernels(self, group, shape):
        name = "kernels tiny" if self.emulated else f"kernels {shape}"
        lines = self.logs / f"kernels-{shape}.jsonl"
        size = ["--emulated", "--tokens", "16"] if self.emulated else ["--shape", shape]

        def read(done, step):
            step["rows"] = rows = [json.loads(line) for line in lines.read_text().splitlines()]
            rows = [row for row in rows if "op" in row]
            off = [f"{row['op']} {row['sizes']}" for row in rows if row.get("off")]
            print(done.out, flush=True)
            return f"{len(rows)} rows" + (f", off their prediction by more than 1.5 ×: {', '.join(off)}" if off else "")

        self.command(group, name, 120, [self.folder / "kernels", "--bench", *size, "--json", lines], read)

    def speed(self):
        if self.emulated:
            for name, arguments in TINY.items():
                self.bench("bench", name, arguments, "nano", 120)
            return
        for name, arguments in (TRAIN | DECODE | RL).items():
            self.bench("bench", name, arguments, "0.6b", 90)

    def torch(self):
        """PyTorch on the same device; what it compiles comes last, because compiling takes long and may fail."""
        code = "import torch, transformers; assert torch.cuda.is_available()"
        missing = self.emulated or subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
        if missing:
            why = "emulated" if self.emulated else f"{sys.executable} has no torch with a GPU and transformers"
            self.results.summary["steps"].append({
                "group": "torch", "name": "torch", "end": "left out", "seconds": 0.0, "meant": True, "why": why})  # fmt: skip
            return
        script = self.folder / "gpu_check/torch_peer.py"

        def read(ours):
            def line(done, step):
                step["result"] = result = json.loads(done.out.strip().splitlines()[-1])
                mine = next((s["result"] for s in self.results.summary["steps"] if s["name"] == ours and "result" in s), None)
                ratio = f"; ours ÷ theirs {mine['tokens_per_s'] / result['tokens_per_s']:.2f}" if mine else ""
                return f"{result['tokens_per_s']:.0f} tokens/s{ratio}"

            return line

        for name, what, ours in [
            ("torch train 8x1024", "train --batch 8 --length 1024", "train 0.6b 8x1024"),
            ("torch decode 64x320", "decode --batch 64 --prompt 256 --new 128", "decode 0.6b 64x320"),
            ("torch rl", "rl --prompts 64 --generations 8 --prompt 1500 --new 300", "rl 0.6b"),
            ("torch train 8x1024 compiled", "train --batch 8 --length 1024 --compile", "train 0.6b 8x1024"),
        ]:
            self.command("torch", name, 90, [sys.executable, script, *what.split()], read(ours))

    def eight(self):
        if self.emulated:
            return
        self.kernels("8b", "8b")
        for name, arguments in DECODE_8B.items():
            self.bench("8b", name, arguments, "8b", 120)

    def profiles(self):
        if self.emulated:
            cases = {f"profile {name}": (arguments, "nano") for name, arguments in TINY.items()}
        else:
            cases = {f"profile {name}": (arguments, "0.6b") for name, arguments in (TRAIN | DECODE | RL).items()}
        for name, (arguments, shape) in cases.items():
            step = self.bench("profile", name, arguments, shape, 120, extra=["--profile"])
            rows = ((step or {}).get("result") or {}).get("profile", [])
            for row in sorted(rows, key=lambda row: -row["device_ms"])[:12]:
                words = f"{100 * row['share']:5.1f} %  {row['device_ms']:9.3f} ms  {row['calls']:6} ×  {row['op']}"
                print(f"     {words}  ({row['phase']})", flush=True)

    def counters(self):
        self.command("ncu", f"ncu {self.kernel}", 240, ["bash", self.folder / "profile.sh", "ncu", self.kernel],
                     lambda done, step: print(done.out) or "see the table above")  # fmt: skip

    def sanitize(self):
        minutes = max(1, int(self.limit(600) / 60))
        self.command("sanitize", "compute-sanitizer", 600, ["bash", self.folder / "sanitize.sh", "--minutes", str(minutes)],
                     lambda done, step: print(done.out[-4000:]) or "nothing found")  # fmt: skip

    def run(self, groups):
        work = {"doctor": self.doctor, "smoke": self.smoke, "tests": self.device_path, "device-tests": self.device_only,
                "kernels": lambda: self.kernels("kernels", "0.6b"), "bench": self.speed, "torch": self.torch, "8b": self.eight,
                "profile": self.profiles, "ncu": self.counters, "sanitize": self.sanitize}  # fmt: skip
        for group in groups:
            work[group]()


def glibc_fault(manifest):
    """Why this machine's C library cannot run the programs; empty when it can."""
    try:
        have = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
    except (ValueError, AttributeError, IndexError, OSError):
        return "this system's C library is not glibc"
    numbers = [tuple(map(int, text.split(".")[:2])) for text in (have, manifest["glibc"])]
    if numbers[0] >= numbers[1]:
        return ""
    return f"glibc {have} is too old: the programs need {manifest['glibc']}; pack on an older system"


def run(folder, arguments):
    """Runs the chosen steps over a packed folder; returns the exit code."""
    fault = glibc_fault(json.loads((folder / "manifest.json").read_text()))
    if fault:
        print(f"gpu-check: {fault}", file=sys.stderr)
        return 1
    logs = pathlib.Path(tempfile.mkdtemp(prefix="patarm-gpu-check-logs-"))
    check = Check(folder, arguments, logs)

    def interrupted(number, _):
        process.end_all()
        check.results.finish("interrupted")
        print("\n".join(["", *check.results.table(), "", f"interrupted; so far in {check.results.out}"]), flush=True)
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    check.run(chosen(arguments))
    check.results.summary["card_after"] = check.card()
    check.results.finish("complete")
    shutil.rmtree(logs, ignore_errors=True)
    code = exit_code(check.results.summary["steps"])
    verdict = ["all steps ended well", "SOMETHING FAILED: see above", "nothing failed, but not everything was run"][code]
    print("\n".join(["", *check.results.table(), "", f"{verdict}; {check.results.out}: summary.json, results.tar.gz"]))
    return code
