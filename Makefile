# Targets for a reader with make; README.md says how to do the same without it.
.DEFAULT_GOAL := help
.PHONY: help venv locked lock audit book pdf test small-test test-pages colab-test \
	links newest-sphinx serve notebooks tidy clean
PYTHON ?= python3
BIN := .venv/bin
SIZE ?= default
# Threads of several chapters or tests on the same cores slow each other down manyfold.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

help:  ## say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1	/'

venv: .venv/installed  ## make .venv and install requirements.txt into it

.venv/installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

locked:  ## make .venv, or bring it to, exactly the versions of requirements.lock (Linux, Python 3.11)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch .venv/installed

lock: venv  ## pin the versions that .venv holds in requirements.lock
	$(BIN)/python .ci/lock.py

audit:  ## look up known vulnerabilities of what requirements.lock pins (needs a network)
	test -x _build/audit/bin/pip-audit || { $(PYTHON) -m venv _build/audit && \
	  _build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	_build/audit/bin/pip-audit --strict --require-hashes --disable-pip -r requirements.lock

book: venv  ## run the chapters that are stale and build the pages into _build/html
	$(BIN)/python book/build.py --size $(SIZE)
	@echo "read it: make serve"

test: venv  ## check style and types, run all tests and, at smoke size, all notebooks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/python book/build.py --size smoke
	$(BIN)/pytest -n 2 --dist loadgroup

small-test: venv  ## run all chapters at smoke size anew, on one CPU, and check that 4 GB are enough
	rm -rf _build/smoke/executed
	taskset -c 0 $(BIN)/python book/build.py --size smoke
	$(BIN)/pytest tests/test_book.py -k four_gigabytes

test-pages: book  ## try the pages of the book at its default size in a browser (needs chromium)
	GANLIB_SITE=_build/html $(BIN)/pytest -n 2 --dist loadgroup tests/test_pages.py tests/test_gan_in_page.py

colab-test: venv  ## run chapters alone, in environments with Colab's oldest and newest versions
	$(BIN)/python .ci/colab_test.py

links: book  ## try all links of the pages that lead out of the book (needs a network)
	$(BIN)/jupyter-book build _build/default/source --path-output _build/links --builder linkcheck

newest-sphinx: book  ## build the same pages with the newest Sphinx and theme (needs a network)
	$(BIN)/python .ci/newest_sphinx.py --size $(SIZE)

pdf: book  ## print the whole book to _build/book.pdf (needs chromium)
	$(BIN)/python book/pdf.py

serve:  ## show the built book at http://localhost:8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory _build/html

notebooks: venv  ## open the chapters in Jupyter
	$(BIN)/jupyter lab book

tidy: venv  ## bring notebooks and addresses to the form they are committed in
	$(BIN)/python book/tidy.py

clean:  ## delete what was built, but not .venv
	rm -rf _build
