"""Run chapters as a reader does in Colab: copied alone, beside packages that are already there.

    .venv/bin/python .ci/colab_test.py [CHAPTER ...]         (make colab-test)

Twice: with the oldest and with the newest of Colab's versions (.ci/colab-versions-*.txt; the first
line names their Python). Each has an environment in _build/colab, made with $COLAB_PYTHON,
pythonX.Y, pyenv's Python or the one that runs this, whichever is first of the right version; where
none is, that set is skipped, and without any set the test fails. Then each chapter gets an empty
folder with nothing but a copy of its notebook at smoke size. Its first cell has to install ganlib,
from an archive of the last commit in place of the one on the book's release page ($GANLIB_SOURCE).
Afterwards no package that was there may have another version, and nothing but ganlib may be new.
While a chapter runs, programs that heed the environment's proxy (urllib, requests and pip do) reach
no host but the package index. Last, a run of the command line is kept in a folder and resumed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import papermill
import yaml

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "_build" / "colab"
SETS = ("oldest", "newest")
CHAPTERS = ("01_adversarial_game", "04_jensen_shannon", "07_mlp_gan", "09_evaluation")


def run(*command: object, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def versions(name: str) -> tuple[Path, str]:
    """The file of one of the SETS, and the Python that its first line names, as 3.13."""
    path = ROOT / ".ci" / f"colab-versions-{name}.txt"
    first = path.read_text(encoding="utf-8").splitlines()[0]
    if found := re.search(r"Python (\d+\.\d+)", first):
        return path, found[1]
    sys.exit(f"{path}: a first line with Python X.Y expected, got {first!r}")


def interpreter(version: str) -> str | None:
    """The first of the candidates that is of this version of Python and runs."""
    pyenv = sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    named = os.environ.get("COLAB_PYTHON"), shutil.which(f"python{version}")
    is_it = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    for candidate in (*named, *pyenv, sys.executable):
        if candidate and Path(candidate).exists():
            tried = subprocess.run([candidate, "-c", is_it], stderr=subprocess.DEVNULL)
            if tried.returncode == 0:
                return candidate
    return None


def make_environment(name: str, listed: Path, python: str) -> Path:
    """The Python of an environment with the versions listed, made unless it is there."""
    home = HOME / name
    inside, ready = home / "bin" / "python", home / "ready"
    if not ready.exists() or ready.read_text() != listed.read_text():
        shutil.rmtree(home, ignore_errors=True)
        print(f"making Colab's {name} environment with {run(python, '--version').strip()}")
        run(python, "-m", "venv", home)
        run(inside, "-m", "pip", "install", "--quiet", "-r", listed)
        run(inside, "-m", "ipykernel", "install", "--prefix", home, "--name", "python3")
        ready.write_text(listed.read_text())
    return inside


def installed(python: Path) -> set[str]:
    listed = run(python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    return set(listed.splitlines())


def try_chapter(chapter: str, python: Path, archive: Path, folder: Path) -> None:
    """Run one chapter alone in an empty folder; exit if it fails or changes other packages."""
    folder.mkdir(parents=True)
    notebook = folder / f"{chapter}.ipynb"
    sizes = yaml.safe_load((ROOT / "book" / "presets.yml").read_text())["smoke"]
    papermill.execute_notebook(
        ROOT / "book" / notebook.name, notebook, sizes[chapter], prepare_only=True,
        progress_bar=False,
    )  # fmt: skip
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "ganlib")
    before = installed(python)
    secrets = ("PYTHONPATH", "GANLIB_DATA")
    environment = {k: v for k, v in os.environ.items() if k not in secrets}
    environment |= {"GANLIB_SOURCE": str(archive), "OMP_WAIT_POLICY": "passive"}
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment["no_proxy"] = "pypi.org,files.pythonhosted.org"
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    run(python, "-m", "jupyter", "execute", notebook, cwd=folder, env=environment)
    new = installed(python) ^ before
    if {line.split("==")[0].split(" @")[0] for line in new} != {"ganlib"}:
        sys.exit(f"{chapter}: only ganlib should have been installed, found {sorted(new)}")
    print(f"{chapter}: runs alone, and installed ganlib only", flush=True)


def try_set(name: str, chapters: list[str]) -> bool:
    """Run the chapters with one set of versions; False, and why, if its Python is not here."""
    listed, version = versions(name)
    python = interpreter(version)
    if python is None:
        print(f"skipped Colab's {name} versions: no Python {version} on this machine", flush=True)
        return False
    inside = make_environment(name, listed, python)
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "gans.zip"
        run("git", "archive", "--format=zip", "--prefix=gans/", "-o", archive, "HEAD", cwd=ROOT)
        for chapter in chapters:
            try_chapter(chapter, inside, archive, Path(temporary) / chapter)
        long_run = [inside.parent / "ganlib", "train", "conv", "--out", Path(temporary) / "drive"]
        run(*long_run, "--steps", 2)
        run(*long_run, "--steps", 4, "--resume")
    print(f"{name} versions: a run of the command line goes on from its folder", flush=True)
    return True


def main() -> None:
    chapters = sys.argv[1:] or list(CHAPTERS)
    tried = [name for name in SETS if try_set(name, chapters)]
    if not tried:
        sys.exit("no set of Colab's versions was tried: give $COLAB_PYTHON a Python that one needs")


if __name__ == "__main__":
    main()
