"""The page of statements: what the chapters' checks found while they ran.

A check's output carries its label, claim, measured value and requirement in a machine-readable
part (`ganlib.checks`). `page` collects them from executed chapters; nothing is written by hand.
"""

import re
from pathlib import Path

import nbformat

CHECK = "application/vnd.ganlib.check+json"
STATEMENT = re.compile(
    r"\{prf:(theorem|proposition|lemma|corollary)\}(.*)\n(?:.*\n)*?:label: (\S+)\n"
)
HEAD = """\
# See what was proved and checked

This page is made by the build. It lists every numbered statement of the book, and what its checks
found in the run that made these pages: a link to the cell, the largest deviation or the value
found, and what was required. A check that does not hold stops the build, so there is no row for
it. A statement that is cited instead of proved says so where it stands.

"""
TABLE = "| {} | checked | found | required |\n| --- | --- | --- | --- |\n"


def checks_of(executed: Path) -> list[dict]:
    """The checks of one executed chapter, in order, each with its page."""
    outputs = [o for c in nbformat.read(executed, 4).cells for o in c.get("outputs", [])]
    found = [o["data"][CHECK] for o in outputs if CHECK in o.get("data", {})]
    return [{**check, "page": executed.stem} for check in found]


def titles_of(executed: Path) -> dict[str, str]:
    """Label and title of each numbered statement of a chapter, in order."""
    cells = nbformat.read(executed, 4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    return {match[3]: match[2].strip() for match in STATEMENT.finditer(text)}


def row(first: str, check: dict) -> str:
    required = check["required"] if check["judged"] else "not judged at this size"
    link = f'<a href="{check["page"]}.html#{check["anchor"]}">{check["claim"]}</a>'
    cells = [first, link, check["measured"], required]
    return "| " + " | ".join(cell.replace("|", "&#124;") for cell in cells) + " |\n"


def page(executed: list[Path]) -> str:
    """The page's text in MyST: statements by chapter, then the checks that have no statement."""
    text, others = HEAD, []
    for path in executed:
        titles, checks = titles_of(path), checks_of(path)
        others += [check for check in checks if check["label"] not in titles]
        if titles:
            text += f"## {{doc}}`{path.stem}`\n\n" + TABLE.format("statement")
        for label, title in titles.items():
            first = f"{{prf:ref}}`{label}`: {title}"
            for check in (check for check in checks if check["label"] == label):
                text += row(first, check)
                first = ""
        text += "\n"
    if others:
        text += "## Measured, not proved\n\n" + TABLE.format("chapter")
        text += "".join(row(f"{{doc}}`{check['page']}`", check) for check in others)
    return text
