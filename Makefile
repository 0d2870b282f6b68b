# Everything runs in .venv, made by the first command that needs it. Only `make setup` and the first
# run of the others use the package index; after that nothing needs a network.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
BINDERY := $(VENV)/.bindery

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-browser test-offline trust notebooks book bench lint clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv with all packages (once; PYTHON=python3.12 names another Python)

# One line says what is missing. An expanded $(error) stops before the recipe has done anything.
FOUND = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
OLD = $(shell $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || echo old)
NO_VENV = $(shell $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || echo missing)
define check_python
$(if $(FOUND),,$(error $(PYTHON) not found: install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python))
$(if $(OLD),$(error Python 3.11 or newer is needed, $(PYTHON) is $(FOUND): install a newer one and name it: make setup PYTHON=python3.11))
$(if $(NO_VENV),$(error $(PYTHON) cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python$(FOUND)-venv)))
endef

$(READY): pyproject.toml
	$(check_python)
	@echo "Setting up $(VENV) (a few minutes, about 1.7 GB)"
	@$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --editable '.[test]'
	@# Built now, so that no first chapter speaks of it; and JupyterLab does not ask about news.
	@$(PY) -c 'import matplotlib.font_manager'
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
		> $(VENV)/share/jupyter/lab/settings/overrides.json
	@touch $@

# Root (in a container) and a machine without a display need a word each. JupyterLab stays on
# localhost with its token, takes the next port where 8888 is taken, and prints the address.
lab: $(READY)  ## open the course in JupyterLab (Ctrl-C twice ends it)
	@set --; \
	if [ "$$(id -u)" = 0 ]; then set -- "$$@" --allow-root; fi; \
	if [ "$$(uname)" = Linux ] && [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ]; then set -- "$$@" --no-browser; fi; \
	exec $(PY) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks "$$@"

# A process for each core, at most four: a notebook needs about 1 GB.
test: $(READY)  ## run all tests and all notebooks, without a network
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

test-browser: $(READY)  ## run the chapters and move their widgets in Chromium; pictures in build/browser
	@$(PY) -m pytest -m browser -rs tests/test_browser.py

notebooks: $(READY)  ## run the notebooks and store their outputs (NB=notebooks/x.ipynb: only that one)
	@$(PY) tests/tools/execute.py $(NB)

$(BINDERY): $(READY)
	$(PY) -m pip install --disable-pip-version-check --quiet --editable '.[book]'
	@touch $@

test-offline: $(READY)  ## run all tests where there is no network but loopback (Linux)
	@PYTHON=$(PY) sh tests/tools/offline_run.sh $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

# Each writes its table beside itself and stops make if a line of it is bad.
trust: $(READY)  ## what is too slow for every day: small bugs, bad input, faults, no network (half an hour on two cores)
	$(PY) tests/mutants/run.py --jobs 2
	$(PY) tests/fuzz/run.py
	$(PY) tests/faults/run.py
	$(MAKE) test-offline

# Two runs: whoever builds has no warnings, and whoever reads misses nothing.
book: $(BINDERY)  ## build the course as a static site in build/book, and check it
	@$(PY) book/build.py
	@$(PY) -m pytest -m book -q tests/test_book.py
	@echo "Open build/book/index.html"

# llms-from-scratch asks for tensorflow and an older numpy, which its GPT does not use. A peer that
# cannot be installed is left out, and the results say so.
$(PEERS): $(READY)
	$(PY) -m pip install --disable-pip-version-check --editable '.[bench]' && \
	$(PY) -m pip install --disable-pip-version-check --no-deps 'llms-from-scratch==1.0.19' && \
	touch $@ || echo "Not all peers could be installed; the others run without them"

bench: $(PEERS)  ## measure speed beside other packages (25 to 50 minutes; it installs them into .venv)
	@$(PY) -m mylib.experiments.benchmark

lint: $(READY)  ## check style and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

clean:  ## remove .venv and all caches (the next command sets up again)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
