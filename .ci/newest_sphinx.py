"""Build the pages of the last `make book` with the newest Sphinx, theme and extensions.

    .venv/bin/python .ci/newest_sphinx.py [--size smoke|gpu]         (make newest-sphinx)

Jupyter Book 1 holds Sphinx below version 8. It also writes a plain conf.py, with which Sphinx alone
builds the same sources: so one learns what a newer Sphinx would say of them. The environment is
made anew each time, in _build/newest-sphinx; a warning is an error, as in `make book`.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "_build" / "newest-sphinx"
PACKAGES = (
    "sphinx", "sphinx-book-theme", "myst-nb", "sphinx-proof", "sphinx-exercise",
    "sphinxcontrib-bibtex", "sphinx-design", "sphinx-togglebutton", "sphinx-copybutton",
    "sphinx-thebe", "sphinx-external-toc", "sphinx-mathjax-offline", "sphinxext-opengraph",
    "sphinx-comments", "sphinx-multitoc-numbering", "sphinx-jupyterbook-latex",
)  # fmt: skip
# Jupyter Book's own extension asks for its own Sphinx; the pages use nothing of it.
ADDED = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent / "book" / "_ext"))
extensions.remove("jupyter_book")
"""


def run(*command: object) -> str:
    """What the command prints; exits with all it said if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        said = done.stdout[-3000:] + done.stderr[-3000:]
        sys.exit(f"{' '.join(map(str, command))} failed:\n{said}")
    return done.stdout


def configure(source: Path) -> None:
    """Write conf.py beside _config.yml, for a Sphinx without Jupyter Book."""
    write = "from jupyter_book.cli.main import main; main()"
    run(sys.executable, "-c", write, "config", "sphinx", source)
    with (source / "conf.py").open("a", encoding="utf-8") as file:
        file.write(ADDED)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", default="default")
    built = ROOT / "_build" / parser.parse_args().size / "source"
    if not (built / "_config.yml").exists():
        sys.exit(f"{built} expected, with the sources of the pages: make book")
    shutil.rmtree(HOME, ignore_errors=True)
    shutil.copytree(built, HOME / "source")
    configure(HOME / "source")
    run(sys.executable, "-m", "venv", HOME / "env")
    python = HOME / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", *PACKAGES)
    listed = run(python, "-m", "pip", "list", "--format=freeze").lower().replace("_", "-")
    print("with", *(line for line in listed.splitlines() if line.split("==")[0] in PACKAGES))
    options = ("-W", "--keep-going", "-q", "-b", "html")
    run(python, "-m", "sphinx", *options, HOME / "source", HOME / "html")
    print(f"the newest Sphinx builds all pages without a warning: {HOME}/html/index.html")


if __name__ == "__main__":
    main()
