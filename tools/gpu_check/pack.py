"""Builds what the machine with the GPU needs into one folder or archive: programs, tests, goldens, scripts."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

TESTS = ["ops", "parity", "cuda"]
NAME = "patarm-gpu-check"
LIMIT_BYTES = 30_000_000


def built(root, arguments):
    """Executables that cargo says it built, by target name."""
    command = ["cargo", *arguments, "--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=root, text=True, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"gpu-check: `{' '.join(command)}` failed; see above")
    found = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            found[message["target"]["name"]] = pathlib.Path(message["executable"])
    return found


def glibc_floor(path):
    """The newest symbol version of the C library that a program asks for, such as (2, 34): what the other machine must have."""
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?\0", path.read_bytes())
    return max((tuple(map(int, version)) for version in versions), default=(0, 0))


def stripped(source, target):
    """Copies a program without its symbol table, which travels for nothing; whole where there is no `strip`."""
    shutil.copy2(source, target)
    if shutil.which("strip"):
        subprocess.run(["strip", str(target)], check=True)


def fill(root, folder):
    """Puts everything into a folder; returns its manifest."""
    tests = built(root, ["test", "--release", "--no-run", *[part for name in TESTS for part in ("--test", name)]])
    program = built(root, ["build", "--release"])
    bench = built(root, ["bench", "--bench", "kernels", "--no-run"])
    wanted = {name: tests[name] for name in TESTS} | {"patarm-train": program["patarm-train"], "kernels": bench["kernels"]}
    for name, path in wanted.items():
        stripped(path, folder / name)
    # The emulator, for --emulated: its libraries are looked for beside the program.
    libraries = sorted(wanted["patarm-train"].parent.glob("deps/libcuda_emulator*.so"))
    for library in libraries:
        stripped(library, folder / library.name)
    for name in ("tests/goldens", "benches"):
        shutil.copytree(root / name, folder / name)
    for script in ("profile.sh", "sanitize.sh"):
        shutil.copy2(root / "tools" / script, folder / script)
    shutil.copytree(root / "tools/gpu_check", folder / "gpu_check", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(root / "tools/gpu-check", folder / "run")
    os.chmod(folder / "run", 0o755)
    programs = [folder / name for name in wanted] + [folder / library.name for library in libraries]
    git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=root, text=True, capture_output=True)
    manifest = {
        "commit": git.stdout.strip() or None,
        "packed": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        "glibc": "{}.{}".format(*max(map(glibc_floor, programs))),
        "architectures": os.environ.get("PATARM_CUDA_ARCH", "80,90a"),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    (folder / "README").write_text(
        f"patarm-train {manifest['commit']}, checked on a GPU. Needs Linux on x86-64 with glibc {manifest['glibc']} or newer, "
        "python3 (3.9 or newer) and an NVIDIA driver for CUDA 13; no Rust and no network.\n\n"
        "    ./run --out DIR        ten minutes; DIR gets summary.json and results.tar.gz\n"
        "    ./run --emulated       the same without a GPU, on the emulator\n"
        "    ./run --help           what it does, and how to do a part of it\n"
    )
    return manifest


def archive(root, file):
    """Builds and writes the archive, aside and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="patarm-pack-", dir=file.parent) as place:
        folder = pathlib.Path(place) / NAME
        folder.mkdir()
        manifest = fill(root, folder)
        half = pathlib.Path(place) / "archive"
        with tarfile.open(half, "w:gz", compresslevel=9) as tar:
            tar.add(folder, NAME)
        size = half.stat().st_size
        os.replace(half, file)
    print(f"{file}: {size / 1e6:.1f} MB, commit {manifest['commit']}, needs glibc {manifest['glibc']} or newer")
    print(f"on the machine with the GPU: tar xzf {file.name} && {NAME}/run --out results")
    if size > LIMIT_BYTES:
        limit = f"{LIMIT_BYTES / 1e6:.0f} MB"
        sys.exit(f"gpu-check: the archive is larger than {limit}; PATARM_CUDA_ARCH=90a packs one architecture alone")
