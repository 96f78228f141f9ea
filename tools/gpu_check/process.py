"""Runs one command within a limit of time, its output going to files, and ends all that it started."""

import dataclasses
import os
import signal
import subprocess
import threading
import time

_running = set()
_lock = threading.Lock()


@dataclasses.dataclass
class Outcome:
    # "ok", "failed", "cut short" (ran into its limit) or "cannot start"
    end: str
    # The exit code; negative for a signal.
    code: int
    seconds: float
    out: str
    err: str

    @property
    def reason(self):
        if self.end == "failed" and self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        return {"ok": "ok", "failed": f"failed ({self.code})"}.get(self.end, self.end)


def end_group(child, patience_s=3.0):
    """Ends a process and all that it started: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        try:
            child.wait(patience_s)
            # The leader is gone; whatever it left behind goes too.
            os.killpg(child.pid, signal.SIGKILL)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def end_all():
    """Ends whatever is running: for a signal handler."""
    for child in list(_running):
        end_group(child, 0.5)


def run(command, *, cwd, env, log, limit_s):
    """Runs a command; `log` (a path without ending) gets `.out` and `.err`, also of what a killed command had printed."""
    start = time.monotonic()
    command = [str(part) for part in command]
    out_path, err_path = log.with_name(log.name + ".out"), log.with_name(log.name + ".err")
    with open(out_path, "wb") as out, open(err_path, "wb") as err:
        try:
            child = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                     start_new_session=True)  # fmt: skip
        except OSError as error:
            err.write(str(error).encode())
            return Outcome("cannot start", 127, 0.0, "", str(error))
        with _lock:
            _running.add(child)
        try:
            code = child.wait(limit_s)
            end = "ok" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            end_group(child)
            code, end = -signal.SIGKILL, "cut short"
        finally:
            with _lock:
                _running.discard(child)
    text = [path.read_text(errors="replace") for path in (out_path, err_path)]
    return Outcome(end, code, round(time.monotonic() - start, 1), *text)
