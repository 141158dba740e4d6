# `make quickstart` and `make test` need Python 3.11+ and a package index, nothing else.
PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
BIN := $(VENV)/bin

.PHONY: quickstart test install format browser dist docs
# Large pages for the large arrays that XLA allocates at every step (docs/performance.md).
quickstart: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
quickstart: install
	$(BIN)/python experiments/quickstart.py --workdir=$(WORKDIR)

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path=$(BIN)/python
	$(BIN)/python -m pytest

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Builds wheel and sdist, and installs the wheel with all it needs into a clean environment.
dist: install
	rm -rf dist build/clean
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build && clean/bin/python -c 'import cfg_jax; print(cfg_jax.Model, cfg_jax.__version__)'

# The documentation as a site, in build/site.
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --quiet --strict --site-dir build/site
	@echo 'open build/site/index.html in a browser'

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

# For the tests of the HTML page, which are skipped without: a browser, and the checks of axe-core.
browser: install
	{ command -v chromium && command -v chromedriver; } >/dev/null || { apt-get update -q && \
	  apt-get install -q -y --no-install-recommends chromium chromium-driver fonts-dejavu-core; }
	npm install --silent --no-save --no-audit --no-fund --prefix $(VENV)/npm axe-core@4.14.1

install: $(VENV)/.installed

# The stamp is written last, so that an interrupted installation is done again.
$(VENV)/.installed: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
