"""Finds cuBLASLt where the dynamic linker does not: in a toolkit, or in the wheels that PyTorch brings."""

import os
import pathlib
import subprocess
import sys

# Named without a version by a toolkit alone; a wheel has the versioned name. The programs are built for CUDA 13.
NAMES = ["libcublasLt.so.13", "libcublasLt.so"]


def loads(path):
    """Whether a process can load the library. In a child: a broken one may end the process."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True).returncode == 0


def folders():
    """Where toolkits and wheels keep it, with what each place is."""
    toolkits = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    toolkits += ["/usr/local/cuda", *sorted(map(str, pathlib.Path("/usr/local").glob("cuda-*")), reverse=True)]
    for toolkit in toolkits:
        for part in ("lib64", "lib", "targets/x86_64-linux/lib"):
            yield "toolkit", pathlib.Path(toolkit) / part
    for place in sys.path:
        for part in ("nvidia/cu13/lib", "nvidia/cublas/lib"):
            yield "Python wheel", pathlib.Path(place or ".") / part


def find(links):
    """(what was found, folders for LD_LIBRARY_PATH). `links` gets links by the names that are asked for."""
    for name in NAMES:
        if loads(name):
            return f"{name}, found by the system", []
    tried = []
    for kind, folder in folders():
        for name in NAMES:
            path = folder / name
            if not path.exists():
                continue
            tried.append(str(path))
            if loads(path):
                links.mkdir(parents=True, exist_ok=True)
                for link in NAMES:
                    (links / link).unlink(missing_ok=True)
                    (links / link).symlink_to(path.resolve())
                return f"{path} ({kind})", [str(links), str(folder)]
    found = f"present but not loadable: {', '.join(tried)}" if tried else "not found"
    return f"{found}; looked on the library path, in toolkits and in the wheels of {sys.executable}", []
