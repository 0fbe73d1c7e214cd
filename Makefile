# `make` lists what there is to do. Every target sets up what it needs, on a fresh machine too.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PEERS := .venv/benchmarks
OLDEST := .venv/oldest
HTML := _build/html
BUILT := _build/.built
LIBRARY := _build/library
WORKERS ?= 2
BRANCH ?= main
PORT ?= 8000

NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/notebooks/sanitize.cfg --nbval-cell-timeout 300
# Everything that a page is made from. A change of the settings or of the extension starts from
# scratch; a change of a page, a template or a style only does what it must.
SETTINGS := _config.yml _toc.yml tools/book_setup.py tools/book_links.py tools/book_reference.py \
  tools/book_index.py tools/book_bibliography.py tools/book_quiz.py tools/book_benchmarks.py tools/benchmarks.py tools/repoint.py $(INSTALLED)
PAGES := $(shell find book _static _templates -type f -not -path '*/.*' 2>/dev/null)
# The page of benchmarks is made from what they recorded.
MEASURED := tests/benchmarks/results/measured.json
# The reference is made from the docstrings.
MODULES := $(shell find lib/reparam -name '*.py')

# Silent bars in what is stored and tested; one thread per process, so that two workers share two cores.
export TQDM_DISABLE := 1
quiet_threads := OMP_NUM_THREADS=1
# pytest hides its progress where tests print, unless asked.
PROGRESS := -o console_output_style=progress-even-when-capture-no

.DEFAULT_GOAL := help

# The exercises' solutions and the grader, where they are: without instructor/, all else stands.
-include instructor/targets.mk

.PHONY: FORCE help book serve test lint format oldest notebooks benchmarks mutants stills long-runs repoint constraints browser clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@echo "Targets (each installs what it needs into .venv first):"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(BUILT)  ## Build the book and print where it is
	@echo "==> the book is ready; open  file://$(CURDIR)/$(HTML)/index.html"

serve: $(BUILT)  ## Build the book and serve it on http://localhost:8000 (PORT=...)
	@echo "==> open  http://localhost:$(PORT)/  (Ctrl-C stops)"
	@$(BIN)/python -m http.server --directory $(HTML) --bind 127.0.0.1 $(PORT)

# Files keep their order, long ones early: in the end no worker waits long for the other.
test: $(INSTALLED) lint browser $(BUILT) $(LIBRARY)/.installed  ## Check everything: style, library, notebooks, pictures, built pages
	@echo "==> library, notebooks (strict), pictures and built pages"
	@$(quiet_threads) CHROMIUM="$$(cat _build/.browser)" COURSE_LIBRARY="$(CURDIR)/$(LIBRARY)" \
	  $(BIN)/python -m pytest book tests lib/reparam $(TEST_ALSO) \
	  --ignore=tests/benchmarks -m "not timing" --doctest-modules $(NBVAL) -n $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder
	@echo "==> all checks passed; the book is at  file://$(CURDIR)/$(HTML)/index.html"

lint: $(INSTALLED)  ## Check the code style of the library, the tests and the notebooks
	@echo "==> code style"
	@$(BIN)/ruff check . || { echo "lint: mend it by hand, or try  $(BIN)/ruff check --fix ." >&2; exit 1; }
	@$(BIN)/ruff format --check . || { echo "lint: run  make format" >&2; exit 1; }

format: $(INSTALLED)  ## Put code and notebooks into the house style
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

oldest: $(OLDEST)/.installed  ## Test the library with the oldest versions that it allows (PYTHON=python3.12, an environment of its own)
	@$(quiet_threads) $(OLDEST)/bin/python -m pytest tests/lib lib/reparam \
	  -m "not timing" --doctest-modules -n $(WORKERS) --dist loadfile

notebooks: $(INSTALLED)  ## Re-execute and canonicalize the notebooks that changed
	@$(quiet_threads) $(BIN)/python tools/notebooks.py run $(ARGS)

benchmarks: $(INSTALLED) browser $(PEERS)/.installed  ## Measure against other libraries, and rebuild the page that shows it
	@cp $(MEASURED) _build/measured-before.json
	@missed=0; \
	$(PEERS)/bin/python -m pytest tests/benchmarks -v -s $(PROGRESS) --confcutdir=tests/benchmarks || missed=1; \
	CHROMIUM="$$(cat _build/.browser)" $(BIN)/python -m pytest tests/pages/test_explorers.py -m timing -v -s $(PROGRESS) || missed=1; \
	$(BIN)/python tools/benchmarks.py _build/measured-before.json && $(MAKE) --no-print-directory $(BUILT) || exit 1; \
	echo "==> the tables and the picture are at  file://$(CURDIR)/$(HTML)/book/benchmarks.html"; \
	test $$missed = 0 || { echo "make: a target was missed; the lines of pytest above say which" >&2; exit 1; }

mutants: $(INSTALLED)  ## Break the library line by line; the tests must notice (slow)
	@$(quiet_threads) $(BIN)/python tools/mutants.py $(ARGS)

stills: $(INSTALLED)  ## Rebuild what is derived from the explorers' sources, still pictures included
	@$(BIN)/python -m reparam.explorers.build

long-runs: $(INSTALLED)  ## Recompute the committed data of the long runs (slow)
	@for script in $$(grep -l __main__ lib/reparam/long_runs/*.py | grep -v '/_'); do \
	  name=$$(basename $$script .py); echo "==> $$name"; \
	  env -u TQDM_DISABLE $(BIN)/python -m reparam.long_runs.$$name || exit 1; done

repoint: $(INSTALLED)  ## Make a fork its own: URL=https://github.com/you/yours [BRANCH=main]
	@test -n "$(URL)" || { echo "usage: make repoint URL=https://github.com/you/yours [BRANCH=main]" >&2; exit 2; }
	@$(BIN)/python tools/repoint.py "$(URL)" "$(BRANCH)"

constraints: $(INSTALLED)  ## Pin again what requirements.txt brings along
	@$(BIN)/python tools/constraints.py

clean:  ## Remove what was built (the environment in .venv stays)
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find lib tests tools book -name __pycache__ -prune -exec rm -rf {} +

# --- how ---------------------------------------------------------------------------------------

# The stamp comes last, so an installation that was killed is done again.
$(INSTALLED): requirements.txt constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no '$(PYTHON)' here. Install Python 3.11 or newer, or name yours: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: '$(PYTHON)' is $$($(PYTHON) --version), and the book needs Python 3.11 or newer. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: '$(PYTHON)' lacks its venv module. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "==> 1/2 environment in .venv ($$($(PYTHON) --version))"
	@rm -f $@
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@echo "==> 2/2 packages (about 1.3 GB the first time)"
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -r requirements.txt
	@touch $@

# The library as users get it, which is what the notebooks are tested with: a file that the package
# forgets is missing there.
$(LIBRARY)/.installed: pyproject.toml $(shell find lib -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*') | $(INSTALLED)
	@rm -rf $(LIBRARY) build
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-deps --target $(LIBRARY) .
	@rm -rf build
	@touch $@

# The libraries that the benchmarks compare with stay out of what the book runs in.
$(PEERS)/.installed: tests/benchmarks/requirements.txt constraints.txt pyproject.toml | $(INSTALLED)
	@echo "==> environment of the benchmarks in $(PEERS)"
	@rm -f $@
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(PEERS)/bin/python -m pip install -r $<
	@touch $@

$(OLDEST)/.installed: tests/lib/oldest.txt pyproject.toml
	@echo "==> environment of the oldest versions in $(OLDEST) ($$($(PYTHON) --version))"
	@rm -f $@
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(OLDEST)/bin/python -m pip install -r $<
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(OLDEST)/bin/python -m pip install --no-deps -e .
	@touch $@

# Sphinx forgets the warnings of pages that it does not read again, so a failed build must leave
# nothing behind that would let the next one pass.
$(BUILT): $(PAGES) $(MODULES) $(MEASURED) _build/.pages _build/.settings
	@echo "==> building the book"
	@$(BIN)/jupyter-book build . -W -n --keep-going || { rm -rf $(HTML) _build/.doctrees; \
	  echo "make: the book did not build; the warnings above say where" >&2; exit 1; }
	@touch $@

# A page that is gone changes the list, so that its absence is noticed, too.
_build/.pages: FORCE
	@mkdir -p _build
	@echo "$(PAGES)" | cmp -s - $@ || echo "$(PAGES)" > $@

_build/.settings: $(SETTINGS)
	@rm -rf $(HTML) _build/.doctrees $(BUILT)
	@mkdir -p _build && touch $@

browser: $(INSTALLED)
	@mkdir -p _build
	@$(BIN)/python tools/browser.py > _build/.browser
