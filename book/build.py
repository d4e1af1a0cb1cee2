"""Build the book: execute the chapters that are stale, in parallel, then make the pages.

    python book/build.py [--size smoke|gpu]     pages in _build/html, or _build/SIZE/_build/html

A chapter is stale when its code, its parameters, a module of ganlib that it imports (directly or
through another), its files in results/ or the version of Python or torch changed since it ran. Each
executed chapter is kept in _build/<size>/executed.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pages
import stamps
import yaml

if TYPE_CHECKING:
    from traitlets.config import Config

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent


def chapters() -> list[Path]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_bytes())
    pages = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [path for p in pages if (path := ROOT / f"{p}.ipynb").exists()]


def presets(size: str) -> dict[str, dict]:
    sizes = {"default": {}, **yaml.safe_load((BOOK / "presets.yml").read_bytes())}
    if size not in sizes:
        sys.exit(f"size {', '.join(sizes)} expected, got {size!r}")
    return sizes[size]


def library_of(sources: list[str]) -> list[Path]:
    """The files of ganlib that code depends on: what it imports, and what that imports."""
    found, todo = {}, [re.sub(r"(?m)^\s*[%!].*$", "pass", source) for source in sources]
    while todo:
        for node in ast.walk(ast.parse(todo.pop())):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
            elif not isinstance(node, ast.Import):
                continue
            for name in names:
                path = (ROOT / name.replace(".", "/")).with_suffix(".py")
                if name.startswith("ganlib.") and path.exists() and path not in found:
                    found[path] = path.read_text(encoding="utf-8")
                    todo.append(found[path])
    weights = (ROOT / "ganlib").glob("*.safetensors") if ROOT / "ganlib/models.py" in found else []
    return sorted([*found, *weights])


def key_of(chapter: Path, parameters: dict) -> str:
    """A hash of all that a chapter's outputs depend on."""
    cells = [c for c in json.loads(chapter.read_bytes())["cells"] if c["cell_type"] == "code"]
    code = [(c["source"], c["metadata"].get("tags")) for c in cells]
    digest = hashlib.sha256(json.dumps([parameters, code], sort_keys=True).encode())
    digest.update(f"{sys.version_info[:2]} {version('torch')}".encode())
    sources = ["".join(c["source"]) for c in cells]
    results = [p for p in (BOOK / "results").glob("*") if p.name in "\n".join(sources)]
    for path in [*library_of(sources), *sorted(results)]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def cpus() -> int:
    """How many CPUs this process may use: one, after `taskset -c 0`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kernel_config() -> "Config":
    """Sockets in files, where there are such, cannot collide as ports of parallel kernels can."""
    from traitlets.config import Config

    sockets = {"transport": "ipc", "ip": f"{tempfile.mkdtemp()}/kernel"} if os.name != "nt" else {}
    return Config({"KernelManager": sockets})


def execute(chapter: Path, executed: Path, parameters: dict, key: str) -> tuple[float, str]:
    """Run one chapter (in a worker process); return its seconds and, if it failed, why."""
    import papermill

    known = papermill.inspect_notebook(str(chapter))
    if unknown := set(parameters) - set(known):
        return 0.0, f"presets.yml sets {sorted(unknown)}, but the chapter has {sorted(known)}"
    start, part = time.time(), executed.with_suffix(".part.ipynb")
    # What a kernel says outside its cells goes to a log: this process runs one at a time.
    os.dup2(os.open(executed.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    peaks = [0]
    options = {"cwd": str(BOOK), "progress_bar": False, "coalesce_streams": True}
    options |= {"kernel_name": "python3", "config": kernel_config()}
    options["on_cell_complete"] = lambda **cell: peaks.append(stamps.peak_memory())
    try:
        papermill.execute_notebook(chapter, part, parameters, **options)
    except papermill.PapermillExecutionError as error:
        traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
        cell = f"cell {error.cell_index}:\n\n{error.source}\n\n"
        return time.time() - start, cell + "\n".join(traceback[-25:])
    except Exception as error:  # a kernel that died, a disk that is full
        return time.time() - start, f"{type(error).__name__}: {error}"
    seconds = time.time() - start
    stamps.stamp(part, key, seconds, max(peaks))
    part.replace(executed)
    return seconds, ""


def execute_stale(size: str, jobs: int) -> list[Path]:
    """Bring `_build/<size>/executed` up to date, showing progress; exit if a cell failed."""
    from tqdm import tqdm

    folder, sizes, todo, failed = ROOT / "_build" / size / "executed", presets(size), [], []
    folder.mkdir(parents=True, exist_ok=True)
    # One thread for each chapter: threads of several chapters on busy cores cost up to 40 times.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for chapter in chapters():
        parameters = sizes.get(chapter.stem, {})
        key, executed = key_of(chapter, parameters), folder / chapter.name
        ran = json.loads(executed.read_bytes())["metadata"] if executed.exists() else {}
        if ran.get("key") != key:
            todo.append((chapter, executed, parameters, key))
        else:
            pages.renew_text(chapter, executed)
    jobs = max(1, min(jobs, len(todo)))
    with ProcessPoolExecutor(jobs) as pool, tqdm(total=len(todo), disable=None) as bar:
        # Later chapters are longer and start first; as many run at a time as there are jobs.
        runs = {pool.submit(execute, *job): job[0].stem for job in reversed(todo)}
        waiting = list(runs.values())

        def tell(line: str) -> None:
            tqdm.write(line + ("; running " + ", ".join(waiting[:jobs]) if waiting else ""))
            sys.stdout.flush()

        tell(f"chapters, {size} size: {len(chapters()) - len(todo)} fresh, {len(todo)} to run")
        try:
            for run in as_completed(runs):
                name, (seconds, error) = runs[run], run.result()
                waiting.remove(name)
                failed += [f"--- {name}, {error}"] if error else []
                bar.update()
                tell(f"{'FAILED' if error else 'done'} {name} in {seconds:.0f} s")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            sys.exit("\ninterrupted: finished chapters are kept, the same command goes on")
    if failed:
        sys.exit("\n\n".join(["", *failed]))
    return [folder / chapter.name for chapter in chapters()]


def make_pages(size: str, files: dict[str, bytes]) -> Path:
    """Write the files and run Sphinx on them, unless nothing changed; return the site."""
    source = ROOT / "_build" / size / "source"
    output = ROOT if size == "default" else ROOT / "_build" / size
    site, stamp = output / "_build" / "html", ROOT / "_build" / size / "site.key"
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    if (site / "index.html").exists() and stamp.exists() and stamp.read_text() == digest:
        print("pages: up to date")
        return site
    for path in source.rglob("*"):
        if path.is_file() and str(path.relative_to(source)) not in files:
            path.unlink()
    for name, content in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    stamp.unlink(missing_ok=True)
    print("pages: making them", flush=True)
    # All pages each time: warnings of unchanged pages and changes of styles are missed otherwise.
    command = ["build", str(source), "--path-output", str(output), "--all", "-W", "--keep-going"]
    run = subprocess.run(
        [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", *command],
        capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout + run.stderr).splitlines()
        told = [line for line in lines if re.search("WARNING|ERROR|Error", line)]
        sys.exit("\n".join(["the pages have faults:", *(told or lines[-40:])]))
    stamp.write_text(digest)
    return site


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", default="default")
    parser.add_argument("--jobs", type=int, default=cpus())
    options = parser.parse_args()
    start = time.time()
    site = make_pages(options.size, pages.sources(ROOT, execute_stale(options.size, options.jobs)))
    print(f"the book is in {site}/index.html  ({time.time() - start:.0f} s)")


if __name__ == "__main__":
    main()
