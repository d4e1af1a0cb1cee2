"""Pin every package of .venv, with its hashes, in requirements.lock.

    .venv/bin/python .ci/lock.py         (make lock, on Linux with Python 3.11)

The versions are those that .venv holds: after `make test` they are known to work. uv finds the
hashes of their files, and the few packages that pip does not list. PyTorch's CPU-only builds are
refused: the package index has no such version.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
OPTIONS = [
    *("--python-version", "3.11.5", "--python-platform", "x86_64-manylinux_2_28"),
    *(
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
        "--no-emit-package",
        "ganlib",
        "--quiet",
    ),
]
HEADER = """\
# For Python 3.11, from 3.11.5 on, on Linux (x86-64): exactly what the book was last tested with.
# torch is the build with GPU libraries; it runs without a GPU, too. `make locked` installs all of
# this beside ganlib; `make lock` writes it, with the versions that .venv holds.
"""


def run(*command: object) -> str:
    """What the command prints; exits with its errors if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def versions(frozen: str) -> str:
    """Of pip's list, what is pinned; exits at a version that no package index has, as 2.6+cpu."""
    lines = [line for line in frozen.splitlines() if line and not line.startswith(("#", "-e"))]
    if local := [line for line in lines if "+" in line or "@" in line or "==" not in line]:
        sys.exit(f"packages from the package index expected, .venv holds {', '.join(local)}")
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux":
        found = f"{sys.platform}, Python {sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(f"the lock is for linux, Python 3.11; .venv is for {found}")
    with tempfile.TemporaryDirectory() as temporary:
        known, tools = Path(temporary) / "versions.txt", Path(temporary) / "tools"
        known.write_text(versions(run(sys.executable, "-m", "pip", "freeze")))
        run(sys.executable, "-m", "venv", tools)
        run(tools / "bin/python", "-m", "pip", "install", "--quiet", "uv")
        command = [tools / "bin/uv", "pip", "compile", "requirements.txt", "-c", known, *OPTIONS]
        LOCK.write_text(HEADER + run(*command))


if __name__ == "__main__":
    main()
