"""What a run leaves behind: summary.json, whole after every step, and results.tar.gz with the output of every step."""

import io
import json
import os
import tarfile

# A log keeps its beginning and its end; a file that comes back is 16 MiB at most.
LOG_BYTES = 1 << 20


class Results:
    def __init__(self, out, logs, header):
        self.out, self.logs = out, logs
        self.summary = {**header, "state": "running", "steps": []}
        out.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self):
        """Writes the summary aside and renames it, so that a reader finds valid JSON at any moment."""
        path = self.out / "summary.json"
        half = path.with_name("summary.json.new")
        half.write_text(json.dumps(self.summary, indent=1, ensure_ascii=False) + "\n")
        os.replace(half, path)

    def begin(self, group, name, command, limit_s):
        step = {"group": group, "name": name, "command": " ".join(map(str, command)), "end": "running", "limit_s": round(limit_s)}
        self.summary["steps"].append(step)
        self.write()
        return step

    def left_out(self, group, name, why):
        self.summary["steps"].append({"group": group, "name": name, "end": "left out", "why": why, "seconds": 0.0})
        self.write()

    def finish(self, state):
        for step in self.summary["steps"]:
            if step["end"] == "running":
                step["end"] = state
        self.summary["state"] = state
        self.write()
        self.bundle()

    def bundle(self):
        """All logs, the middle of the long ones left out."""
        path = self.out / "results.tar.gz"
        half = path.with_name("results.tar.gz.new")
        with tarfile.open(half, "w:gz") as tar:
            for log in sorted(path for path in self.logs.rglob("*") if path.is_file() and not path.is_symlink()):
                data = shortened(log)
                info = tarfile.TarInfo(f"results/{log.relative_to(self.logs)}")
                info.size, info.mtime = len(data), int(log.stat().st_mtime)
                tar.addfile(info, io.BytesIO(data))
            tar.add(self.out / "summary.json", "results/summary.json")
        os.replace(half, path)

    def table(self):
        """Lines for people: every step with how it ended and what it found."""
        steps = self.summary["steps"]
        width = max((len(step["name"]) for step in steps), default=0)
        lines = []
        for step in steps:
            found = step.get("found", step.get("why", ""))
            line = f"{step['name']:{width}}  {step['end']:12} {step.get('seconds', 0):7.1f} s  {found}"
            lines.append(line.rstrip())
        return lines


def shortened(path):
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= 2 * LOG_BYTES:
            return file.read()
        head = file.read(LOG_BYTES)
        file.seek(size - LOG_BYTES)
        return head + f"\n… {size - 2 * LOG_BYTES} bytes left out …\n".encode() + file.read()


def exit_code(steps):
    ends = {step["end"] for step in steps}
    if ends - {"ok", "cut short", "left out"}:
        return 1
    return 2 if any(step["end"] != "ok" and not step.get("meant") for step in steps) else 0
