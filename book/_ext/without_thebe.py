"""Leave sphinx-thebe's scripts and styles out of the pages.

Jupyter Book loads that extension whether it is used or not; its script stands twice on each page
(an error in the browser) and asks an outside host.
"""

from typing import Any


def drop(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    for kind in ("script_files", "css_files"):
        context[kind] = [f for f in context.get(kind, []) if "thebe" not in source(f)]


def source(file: Any) -> str:
    body = str(getattr(file, "attributes", {}).get("body", ""))
    return f"{getattr(file, 'filename', file)} {body}".lower()


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", drop, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
