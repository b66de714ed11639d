# Every target sets itself up: a virtual environment in .venv, the package with its tools, then the work.
# Where PyTorch would bring CUDA libraries that the machine has no use for:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

VENV ?= .venv
WORKERS ?= 2
PIP_FLAGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=
# The first interpreter that runs and is new enough (and not newer than what is tested).
SUITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python; do \
	$$p -c '$(SUITS)' 2>/dev/null && echo $$p && break; done)

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
# One thread per worker: two workers with two threads each are slower than either alone.
TEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.PHONY: help demo test test-slow test-gpu lint types docs links notebooks bench clean
.DELETE_ON_ERROR:

help:  ## what can be made
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/.dev  ## train on real digits and generate them in 1, 2, 4 and 8 steps (about three minutes)
	$(BIN)/flowmaps quickstart $(DEMO_ARGS)

test: $(VENV)/.dev  ## the test-suite, doctests included, on WORKERS=2 processes
	$(TEST) -n $(WORKERS) --dist worksteal -m "not slow and not gpu" --durations=10 $(PYTEST_ARGS)

test-slow: $(VENV)/.dev  ## the tests left out for their length
	$(TEST) -n $(WORKERS) --dist worksteal -m "slow and not gpu" $(PYTEST_ARGS)

test-gpu: $(VENV)/.dev  ## the tests that need an accelerator
	$(TEST) -m gpu $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: $(VENV)/.dev  ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.docs  ## the documentation, in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -E -W --keep-going -q -b html docs docs/_build/html

links: $(VENV)/.docs  ## whether every link of the documentation to another site is answered
	$(BIN)/sphinx-build --keep-going -q -b linkcheck docs docs/_build/links

notebooks: $(VENV)/.dev  ## the notebooks of examples/, executed from the first cell to the last
	$(TEST) -o addopts= --nbmake --nbmake-timeout=600 -n $(WORKERS) --durations=0 examples $(PYTEST_ARGS)

bench: $(VENV)/.dev  ## every objective on finite laws whose truth is known
	$(BIN)/python bench/objectives.py $(BENCH_ARGS)

clean:  ## remove the environment, caches and built files (never runs/)
	rm -rf $(VENV) build dist docs/_build docs/api .pytest_cache .ruff_cache .hypothesis
	find src tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A stamp is written only after a complete installation, so an interrupted one starts again.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing flowmaps and its tools into $(VENV); the first time takes a few minutes."
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.dev
	$(INSTALL) -e '.[dev,docs]'
	@touch $@

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(SUITS)' 2>/dev/null || { echo "flowmaps needs Python 3.11, 3.12 or 3.13;" \
		"'$(or $(PYTHON),python3)' is none of them. Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed;" \
		"on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
