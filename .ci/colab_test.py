"""Run chapters as a reader does in Colab: copied alone, beside packages that are already there.

    .venv/bin/python .ci/colab_test.py [CHAPTER ...]         (make colab-test)

Makes an environment in _build/colab with Colab's versions (.ci/colab-versions.txt) and Python
(3.13: $COLAB_PYTHON, else python3.13 or pyenv's, else the Python that runs this). Then each chapter
gets an empty folder with nothing but a copy of its notebook at smoke size. Its first cell has to
install ganlib, from an archive of the last commit in place of the one on the book's release page
($GANLIB_SOURCE). Afterwards no package that was there may have another version, and nothing but
ganlib may be new. While a chapter runs, programs that heed the environment's proxy (urllib,
requests and pip do) reach no host but the package index. Last, a run of the command line is kept
in a folder and resumed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import papermill
import yaml

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "_build" / "colab"
VERSIONS = ROOT / ".ci" / "colab-versions.txt"
PYTHON = HOME / "bin" / "python"
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


def python_like_colabs() -> str:
    """The first of the candidates that runs."""
    pyenv = sorted(map(str, Path.home().glob(".pyenv/versions/3.13*/bin/python")))
    candidates = [os.environ.get("COLAB_PYTHON"), shutil.which("python3.13"), *pyenv]
    runs = (
        p
        for p in candidates
        if p and not subprocess.run([p, "-c", ""], stderr=subprocess.DEVNULL).returncode
    )
    return next(runs, sys.executable)


def make_environment() -> None:
    if (HOME / "ready").exists() and (HOME / "ready").read_text() == VERSIONS.read_text():
        return
    shutil.rmtree(HOME, ignore_errors=True)
    python = python_like_colabs()
    found = run(python, "--version").strip()
    print(f"making Colab's environment (there Python 3.13) with {found}", flush=True)
    run(python, "-m", "venv", HOME)
    run(PYTHON, "-m", "pip", "install", "--quiet", "-r", VERSIONS)
    run(PYTHON, "-m", "ipykernel", "install", "--prefix", HOME, "--name", "python3")
    (HOME / "ready").write_text(VERSIONS.read_text())


def installed() -> set[str]:
    listed = run(PYTHON, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    return set(listed.splitlines())


def main() -> None:
    make_environment()
    sizes = yaml.safe_load((ROOT / "book" / "presets.yml").read_text())["smoke"]
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "gans.zip"
        run("git", "archive", "--format=zip", "--prefix=gans/", "-o", archive, "HEAD", cwd=ROOT)
        for chapter in sys.argv[1:] or CHAPTERS:
            folder = Path(temporary) / chapter
            folder.mkdir()
            notebook = folder / f"{chapter}.ipynb"
            papermill.execute_notebook(
                ROOT / "book" / notebook.name, notebook, sizes[chapter], prepare_only=True,
                progress_bar=False,
            )  # fmt: skip
            run(PYTHON, "-m", "pip", "uninstall", "--quiet", "--yes", "ganlib")
            before = installed()
            secrets = ("PYTHONPATH", "GANLIB_DATA")
            environment = {k: v for k, v in os.environ.items() if k not in secrets}
            environment |= {"GANLIB_SOURCE": str(archive), "OMP_WAIT_POLICY": "passive"}
            environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
            environment["no_proxy"] = "pypi.org,files.pythonhosted.org"
            environment["PATH"] = f"{PYTHON.parent}{os.pathsep}{environment['PATH']}"
            run(PYTHON, "-m", "jupyter", "execute", notebook, cwd=folder, env=environment)
            new = installed() ^ before
            if {line.split("==")[0].split(" @")[0] for line in new} != {"ganlib"}:
                sys.exit(f"{chapter}: only ganlib should have been installed, found {sorted(new)}")
            print(f"{chapter}: runs alone, and installed ganlib only", flush=True)
        long_run = [PYTHON.parent / "ganlib", "train", "conv", "--out", Path(temporary) / "drive"]
        run(*long_run, "--steps", 2)
        run(*long_run, "--steps", 4, "--resume")
        print("a run of the command line goes on from its folder", flush=True)


if __name__ == "__main__":
    main()
