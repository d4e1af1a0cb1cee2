"""For `make pdf`: the builder of one page renders what the builder of many pages can.

Sphinx looks for an extension's ways to render a node under the builder's name, and only if there
are none at all under "html". One extension that names singlehtml hides those of all others.
"""


def setup(app):
    def complete(app):
        handlers = app.registry.translation_handlers
        handlers["singlehtml"] = handlers["html"] | handlers.get("singlehtml", {})

    app.connect("builder-inited", complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
