"""The page of what was broken on purpose, from the record that benchmarks/faults.py writes."""

from itertools import groupby
from typing import Any

HEAD = """\
# See what it survives

This page says what was broken on purpose, how often, and what `ganlib` made of it. The build makes
it from `book/results/faults.json`, which `{command}` wrote on {date}, in {minutes} minutes, on
{cores} cores under {system} at a load average of {load} (processor: {device}; torch {torch}, ganlib
{ganlib}, Python {python}).

## Kills

`ganlib train` was killed {kills} times, by the signal that no program can catch, at random moments
(seed {seed}). Each time the run went on with `--resume`, or began anew where it had no checkpoint
yet, until it had made its steps. A run ended alike if its weights, optimizers, random numbers and
pictures are those of a run left in peace, bit for bit.

| run | processes | steps | kills | in start-up | while a checkpoint was written | ended alike |
| --- | --- | --- | --- | --- | --- | --- |
"""
KILLS = (
    "| `{model}` | {n_processes} | {steps} | {kills} | {early} | {writing} | {equal} / {runs} |\n"
)
ALONE = """
Of two processes, {alone} times one alone was killed: the other then ended by itself, with a
sentence. The runs are short, take a checkpoint every second step, and begin in processes that have
torch imported already, so that most kills hit training.
"""
PARTS = {
    "disk": "Disks",
    "checkpoint": "Checkpoints",
    "data": "Data sets",
    "server": "Downloads",
}
INTRO = {
    "checkpoint": "Each file was given to `ganlib sample` and to `ganlib train --resume`.\n\n",
    "data": "One file at a time of a small MNIST was broken.\n\n",
    "server": "The server is one on the same machine.\n\n",
}
TABLE = "Wanted: {}.\n\n| broken | as wanted | seconds |\n| --- | --- | --- |\n"
FOOT = """\
"Seconds" are those of the longest try.

## Try it yourself

`make faults` repeats all of it, on Linux or macOS, and writes the record anew; `make test` runs a
small part. A loss of power, a GPU, a network drive and Windows were not tried.
"""


def line_of(row: dict[str, Any]) -> str:
    """A row of a table."""
    what, ended = (
        row["what"].removeprefix("A server that "),
        f"{row['as_wanted']} / {row['tries']}",
    )
    if "skipped" in row:
        ended = f"not tried: {row['skipped']}"
    return f"| {what} | {ended} | {row['longest_seconds']} |\n"


def rows_of(part: str, rows: list[dict[str, Any]]) -> str:
    """A section of the page: a table for each outcome that was wanted."""
    text = f"## {PARTS[part]}\n\n{INTRO.get(part, '')}"
    for wanted, group in groupby(rows, key=lambda row: row["wanted"]):
        text += TABLE.format(wanted) + "".join(map(line_of, group)) + "\n"
    return text


def page(record: dict[str, Any]) -> str:
    """The page's text in MyST; every number in it is from the record."""
    kills = record["kills"]
    total, minutes = sum(row["kills"] for row in kills), round(record["seconds"] / 60)
    text = HEAD.format(**{**record, "kills": total, "minutes": minutes})
    text += "".join(KILLS.format(**row) for row in kills)
    text += ALONE.format(alone=sum(row["alone"] for row in kills)) + "\n"
    for part, rows in groupby(record["rows"], key=lambda row: row["part"]):
        text += rows_of(part, list(rows))
    return text + FOOT
