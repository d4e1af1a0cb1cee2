"""The weekly try of the newest Sphinx installs what the book needs, without Jupyter Book."""

import runpy
import shutil
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import newest_sphinx
import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    """What the conf.py that the script writes for _config.yml sets."""
    source = tmp_path_factory.mktemp("source")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, source)
    newest_sphinx.configure(source)
    path = list(sys.path)
    values = runpy.run_path(str(source / "conf.py"))
    values["added"] = [entry for entry in sys.path if entry not in path]
    sys.path[:] = path
    return values


def test_every_extension_is_installed_or_the_books_own(settings):
    distributions = packages_distributions()
    own = {path.stem for path in (ROOT / "book/_ext").glob("*.py")}
    assert own <= set(settings["extensions"])
    for name in set(settings["extensions"]) - own:
        module = name.partition(".")[0]
        if module != "sphinx" and canonicalize_name(name) not in newest_sphinx.PACKAGES:
            (package,) = set(distributions[module])  # not one of a name that several share
            assert canonicalize_name(package) in newest_sphinx.PACKAGES, name


def test_the_own_extensions_are_found_and_jupyter_book_is_not_asked_for(settings):
    assert "jupyter_book" not in settings["extensions"]
    assert [Path(entry).parts[-2:] for entry in settings["added"]] == [("book", "_ext")]


def test_without_built_sources_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(newest_sphinx, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["newest_sphinx.py", "--size", "smoke"])
    with pytest.raises(SystemExit, match=r"smoke/source expected, .*: make book"):
        newest_sphinx.main()
