"""Faults made on purpose, and what ganlib makes of each: kills, full disks, files, servers.

    make faults          (at most 15 minutes of two CPU cores; Linux or macOS)

`kill_runs` kills `ganlib train` at random moments and goes on with --resume; the rows of
`fault_files.py` and `fault_data.py` break disks, checkpoints, data sets and servers. Processes are
forked from one that has torch imported: training, not importing, is what is tried.

Writes book/results/faults.json, of which the build makes the page "See what was broken on purpose".
Exit code 1 if anything ended otherwise than it should; the record then says how.
"""

import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from common import RESULTS, new_record
from fault_data import data_rows
from fault_files import checkpoint_rows, disk_rows
from fault_tools import FORK, SMALL, files_of, free_port, speak_to

from ganlib.records import write_record
from ganlib.runs.checkpoint import load_checkpoint

SEED, PATIENCE = 0, 30.0
CHECKPOINT = "checkpoint.pt"


class Kind(NamedTuple):
    """What is killed: a model with its options, a number of steps and of processes."""

    options: str
    steps: int
    n_processes: int
    kills: int


KINDS = (
    Kind("maxout", 24, 1, 13),
    Kind("conv", 60, 1, 13),
    Kind("conv --bf16", 60, 1, 12),
    Kind("conv", 60, 2, 12),
)


# Kills


def child(arguments: list[str], places: dict[str, str], log: str) -> None:
    """Run the command line, in a process of its own."""
    os.environ.update(places)
    speak_to(log)
    torch.set_num_threads(1)
    sys.argv = ["ganlib", *arguments]
    from ganlib.runs.cli import main

    main(arguments, prog_name="ganlib")


def begin(kind: Kind, out: Path) -> list[Any]:
    """Start the processes of a run, or of the rest of one."""
    arguments = ["train", *kind.options.split(), "--out", str(out)]
    new = [*SMALL.split(), "--steps", str(kind.steps)]
    arguments += ["--resume"] if (out / CHECKPOINT).exists() else new
    places = {"RANK": "0", "WORLD_SIZE": "1"}
    if kind.n_processes > 1:
        n = str(kind.n_processes)
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        places |= {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    processes = []
    for rank in range(kind.n_processes):
        own, log = {"RANK": str(rank), "LOCAL_RANK": str(rank)}, f"{out}.log{rank}"
        Path(log).unlink(missing_ok=True)
        processes.append(FORK.Process(target=child, args=(arguments, places | own, log)))
        processes[-1].start()
    return processes


def finish(kind: Kind, out: Path) -> None:
    """Let a run come to its end."""
    for process in begin(kind, out):
        process.join()
        assert process.exitcode == 0, f"{kind}: exit code {process.exitcode}"


def stamp_of(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def wait_for_write(file: Path, processes: list[Any]) -> float:
    """Wait until the file is replaced, or a process has ended; how long it took, in seconds."""
    before, began = stamp_of(file), time.perf_counter()
    while stamp_of(file) == before and all(p.is_alive() for p in processes):
        time.sleep(0.002)
    return time.perf_counter() - began


def kill(kind: Kind, out: Path, rng: random.Random, seconds: tuple[float, float]) -> dict | None:
    """Start or go on, and kill at a random moment; None if the run came to its end before.

    One time in five the moment is one of the start-up, of `seconds[0]`, else one of the
    `seconds[1]` after the first checkpoint that is written. Of two processes it is one or both.
    """
    processes, early = begin(kind, out), rng.random() < 0.2
    if not early:
        wait_for_write(out / CHECKPOINT, processes)
    time.sleep(rng.uniform(0, seconds[0] if early else seconds[1]))
    alone = not early and kind.n_processes > 1 and rng.random() < 0.5
    victims = [rng.choice(processes)] if alone else processes
    for victim in victims:
        victim.kill()
    for rank, process in enumerate(processes):
        process.join(PATIENCE)
        assert process.exitcode is not None, f"process {rank} waits for one that was killed"
    codes = [process.exitcode for process in processes]
    if 0 in codes:  # all steps were made
        assert set(codes) <= {0, -9}, codes
        return None
    assert all(victim.exitcode == -9 for victim in victims), codes
    for rank, process in enumerate(processes):
        if process not in victims:
            said = Path(f"{out}.log{rank}").read_text().splitlines()[-1]
            assert process.exitcode == 2, f"process {rank} ended with {process.exitcode}: {said}"
            assert said.startswith("Error: another of the"), said
    return {"early": early, "alone": alone, "writing": bool(list(out.glob(".checkpoint*.part")))}


def told(thing: Any) -> Any:
    """Containers of tensors as ones of bytes, equal if and only if each bit is."""
    if isinstance(thing, torch.Tensor):
        return str(thing.dtype), tuple(thing.shape), thing.numpy().tobytes()
    if isinstance(thing, dict):
        return {key: told(part) for key, part in thing.items()}
    return [told(part) for part in thing] if isinstance(thing, list | tuple) else thing


def end_of(out: Path) -> Any:
    """All that two equal runs have in common: everything but their seconds and commands."""
    contents = load_checkpoint(out / CHECKPOINT)
    assert not list(out.rglob("*.part")), f"half a file is left in {out}"
    json.loads((out / "metrics.json").read_text())
    kept = {name: told(contents[name]) for name in ("settings", "state", "random")}
    return kept, files_of(out / "samples")


def kill_runs(kind: Kind, folder: Path, seed: int) -> dict[str, Any]:
    """Kill runs of one kind until their number is reached; each has to end as one in peace."""
    rng, kills, runs, whole = random.Random(seed), [], 0, folder / "whole"
    folder.mkdir(parents=True, exist_ok=True)
    start_up = wait_for_write(whole / CHECKPOINT, processes := begin(kind, whole))
    began = time.perf_counter()
    for process in processes:
        process.join()
    training, wanted = time.perf_counter() - began, end_of(whole)
    while len(kills) < kind.kills:
        runs, out = runs + 1, folder / f"run{runs}"
        while len(kills) < kind.kills:
            if (killed := kill(kind, out, rng, (start_up, training / 5))) is None:
                break
            kills.append(killed)
            if (out / CHECKPOINT).exists():
                load_checkpoint(out / CHECKPOINT)
        finish(kind, out)
        assert end_of(out) == wanted, f"{kind}: run {runs} ended otherwise than one in peace"
        print(f"{kind.options}, {kind.n_processes}: {len(kills)} kills, {runs} runs", flush=True)
    counts = {name: sum(k[name] for k in kills) for name in ("early", "alone", "writing")}
    what = {"model": kind.options, "n_processes": kind.n_processes, "steps": kind.steps}
    return what | {"kills": len(kills), "runs": runs, "equal": runs} | counts


def all_kills(kinds: tuple[Kind, ...], folder: Path) -> Iterator[dict[str, Any]]:
    """All kinds, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        places = [folder / f"kind{i}" for i in range(len(kinds))]
        yield from pool.map(kill_runs, kinds, places, range(SEED, SEED + len(kinds)))


def main() -> None:
    torch.set_num_threads(1)
    began, file = time.perf_counter(), RESULTS / "faults.json"
    record = new_record("faults.py", system=platform.system(), cores=os.cpu_count(), seed=SEED)
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # for what is tried as another user
        record["kills"] = list(all_kills(KINDS, Path(folder)))
        record["rows"] = []
        for rows in (disk_rows, checkpoint_rows, data_rows):
            (place := Path(folder) / rows.__name__).mkdir()
            for row in rows(place, random.Random(SEED)):
                print(row, flush=True)
                record["rows"].append(row)
    record |= {"seconds": round(time.perf_counter() - began), "load": round(os.getloadavg()[2], 1)}
    write_record(file, record)
    failed = [row for row in record["rows"] if row["tries"] != row["as_wanted"]]
    sys.exit(f"{len(failed)} rows of {file} did not end as they should" if failed else 0)


if __name__ == "__main__":
    main()
