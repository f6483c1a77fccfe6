# Two commands do everything from a bare clone: `make reproduce` and `make test`.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help reproduce test lint types unit docs benchmark clean

help:  ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

reproduce: $(VENV)/.lab  ## The papers' figures and statements on the embedded data set: report/index.html.
	$(BIN)/overdepth reproduce --data breast-cancer --out report

test: lint types unit  ## Everything that CI checks.

lint: $(VENV)/.installed  ## Style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## Strict types.
	$(BIN)/mypy

unit: $(VENV)/.installed  ## Tests and docstring examples.
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses $(JOBS) --dist loadfile

docs: $(VENV)/.installed  ## The documentation site: site/index.html.
	$(BIN)/mkdocs build --strict

benchmark: $(VENV)/.installed  ## The speed targets, as ratios taken in one process.
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/optimizers.py
	$(BIN)/python benchmarks/theory.py
	$(BIN)/python benchmarks/sweep_scale.py

$(VENV)/.lab: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("overdepth needs Python 3.11 or newer") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lab]'
	@touch $@

$(VENV)/.installed: $(VENV)/.lab
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:  ## Remove the environment and what tools left behind.
	rm -rf $(VENV) build dist report site .mypy_cache .pytest_cache .ruff_cache .hypothesis
