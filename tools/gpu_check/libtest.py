"""Runs a Rust test binary on a device that one bad test can break for all others.

All tests run in one process first, which is fastest. After a kernel's fault the CUDA context of a process answers every call with
the same error, so whatever failed, or never ended because the process died, is run again in a process of its own: what passes
there was a victim, what fails there is a fault of its own.
"""

import concurrent.futures
import dataclasses
import os
import re
import threading
import time

from . import process

LINE = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", re.M)
MESSAGE = re.compile(r"^---- (\S+) stdout ----\n(.*?)(?=^---- \S+ stdout ----$|^failures:$|\Z)", re.M | re.S)
MESSAGE_CHARACTERS = 3000
# A test that hangs is found out by the limit of its own process.
ALONE_LIMIT_S = 60


@dataclasses.dataclass
class Report:
    passed: list = dataclasses.field(default_factory=list)
    # Failed in company, passed in a process of their own.
    victims: list = dataclasses.field(default_factory=list)
    # Name: what it said.
    failed: dict = dataclasses.field(default_factory=dict)
    # Not run, or not to the end, for want of time.
    left_out: list = dataclasses.field(default_factory=list)
    # Name: why it needs a device. Listed, not run.
    ignored: dict = dataclasses.field(default_factory=dict)
    # What the processes said when they could not even list their tests.
    broken: str = ""

    def as_dict(self):
        cut = {name: said[-MESSAGE_CHARACTERS:] for name, said in self.failed.items()}
        return {"passed": len(self.passed), "failed": cut, "passed_alone": self.victims, "left_out": self.left_out,
                "needs_a_gpu": self.ignored, "broken": self.broken}  # fmt: skip

    def words(self):
        parts = [f"{len(self.passed)} passed"]
        parts += [f"{len(self.failed)} FAILED"] if self.failed else []
        parts += [f"{len(self.victims)} passed alone"] if self.victims else []
        parts += [f"{len(self.left_out)} left out"] if self.left_out else []
        parts += [f"{len(self.ignored)} need a GPU"] if self.ignored else []
        parts += [self.broken] if self.broken else []
        return ", ".join(parts)


class Suite:
    def __init__(self, binary, filters, *, ignored_only, cwd, env, log, deadline):
        self.binary, self.filters, self.ignored_only = binary, filters, ignored_only
        self.cwd, self.env, self.log, self.deadline = cwd, env, log, deadline
        self.report = Report()
        self.number, self.lock = 0, threading.Lock()

    def left_s(self):
        return self.deadline - time.monotonic()

    def call(self, arguments, limit_s):
        with self.lock:
            self.number += 1
            log = self.log.with_name(f"{self.log.name}-{self.number:03}")
        return process.run([self.binary, *arguments], cwd=self.cwd, env=self.env, log=log, limit_s=max(1, limit_s))

    def names(self, *flags):
        done = self.call([*self.filters, *flags, "--list"], min(30, self.left_s()))
        if done.end != "ok":
            self.report.broken = f"`{self.binary.name} --list`: {done.reason}: {done.err.strip()[-300:]}"
        return [line.removesuffix(": test") for line in done.out.splitlines() if line.endswith(": test")]

    def run(self):
        """Every test once in company, then what did not pass alone."""
        report = self.report
        ignored = self.names("--ignored")
        wanted = ignored if self.ignored_only else [name for name in self.names() if name not in set(ignored)]
        if not wanted and not report.broken:
            report.broken = "no test matches"
        if report.broken:
            return report
        flags = ["--ignored"] if self.ignored_only else []
        # Leaves a third of the time for what has to be run again.
        done = self.call([*self.filters, *flags], 0.66 * self.left_s())
        said = {name: text.strip() for name, text in MESSAGE.findall(done.out)}
        ends = dict(LINE.findall(done.out))
        if not self.ignored_only:
            # `test a::b ... ignored, needs a GPU: …`
            why = dict(re.findall(r"^test (\S+) \.\.\. ignored, (.*)$", done.out, re.M))
            report.ignored = {name: why.get(name, "") for name in ignored}
        report.passed = [name for name in wanted if ends.get(name) == "ok"]
        self.alone([name for name in wanted if ends.get(name) != "ok"], flags, ends, said, done)
        return report

    def alone(self, names, flags, ends, said, company):
        """Runs tests in processes of their own, some at a time."""

        def one(name):
            left = self.left_s()
            # Half of what is left: one that hangs again must not take the time of those behind it.
            return name, self.call(["--exact", name, *flags], min(ALONE_LIMIT_S, left / 2)) if left > 2 else None

        # Tests that need a GPU may need most of its memory: those run one at a time.
        workers = 1 if self.ignored_only else max(2, min(6, (os.cpu_count() or 2) // 2))
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for name, done in pool.map(one, names):
                if done is None:
                    self.report.left_out.append(name)
                elif done.end == "ok":
                    self.report.victims.append(name)
                else:
                    own = dict(MESSAGE.findall(done.out)).get(name, "").strip()
                    together = said.get(name) or ("" if name in ends else f"in company the process ended: {company.reason}")
                    text = own or f"alone: {done.reason}\n{(done.out + done.err).strip()}"
                    self.report.failed[name] = f"{text}\n{together}".strip()


def run(binary, filters, *, ignored_only=False, cwd, env, log, limit_s):
    """A report of a test binary's tests whose names contain one of `filters`."""
    deadline = time.monotonic() + limit_s
    return Suite(binary, filters, ignored_only=ignored_only, cwd=cwd, env=env, log=log, deadline=deadline).run()
