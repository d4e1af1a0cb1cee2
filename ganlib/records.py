"""Records of long runs: what they were made by and on, files that are whole at every moment."""

import json
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

import ganlib


def cpu_name() -> str:
    """The processor's name as Linux tells it; elsewhere the kind of machine."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def provenance(device: torch.device | str = "cpu") -> dict[str, str]:
    """When, on what and by which versions numbers were made."""
    device = torch.device(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        units, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
        name = f"{cpu_name()} ({platform.machine()} {units}), threads: {threads}"
    else:
        name = f"{platform.machine()} {device.type}"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": name,
        "torch": torch.__version__,
        "ganlib": ganlib.__version__,
        "python": platform.python_version(),
    }


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends without an error.

    It is written beside its place, flushed to the disk and then renamed, so that a kill at any
    moment leaves the previous file, whole. OSError names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"{path} cannot be written ({why}): it stays as it was") from error
    finally:
        part.unlink(missing_ok=True)


def write_record(path: str | Path, contents: dict[str, Any]) -> None:
    """Write a JSON file: a line for each key, and one for each element of a list of records.

    ValueError, which names the key and leaves the file as it was, for a number that JSON has not:
    NaN or an infinity.
    """
    lines = []
    for key, content in contents.items():
        _require_json(content, key)
        text = json.dumps(content, allow_nan=False)
        if isinstance(content, list) and any(isinstance(row, dict) for row in content):
            text = "[\n  " + ",\n  ".join(json.dumps(row) for row in content) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    with replacing(path) as file:
        file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _require_json(content: Any, place: str) -> None:
    if isinstance(content, float) and not math.isfinite(content):
        raise ValueError(f"finite numbers expected in a record, got {content} at {place}")
    if isinstance(content, dict | list | tuple):
        inside = content.items() if isinstance(content, dict) else enumerate(content)
        for key, inner in inside:
            _require_json(inner, f"{place}.{key}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def read_record(path: str | Path, command: str) -> dict[str, Any] | None:
    """The record in a JSON file, or None after a line that says which command makes it.

    Of a record that is there, a line says when, by what and on what it was made. ValueError for a
    file that is none: no JSON, a number that is NaN or infinite, or without these facts.
    """
    path = Path(path)
    if not path.exists():
        print(f"not recorded here: {command} makes it")
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if missing := {"date", "command", "device"} - record.keys():
            raise ValueError(f"it lacks {sorted(missing)}")
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"a record expected, {path} is none ({error}): {command} makes it"
        ) from error
    print(f"recorded {record['date']} by {record['command']},")
    versions = ", ".join(f"{name} {record[name]}" for name in ("torch", "ganlib") if name in record)
    print(f"on {record['device']}, {versions}")
    return record
