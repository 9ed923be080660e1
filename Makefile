# Each target makes what it needs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test browser faults fuzz coverage bench lint format

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "PYTHON=... chooses the Python that $(VENV) is made with (3.11 or newer; now $(PYTHON))."

install: $(INSTALLED)  ## Make .venv with the library and the development tools (downloads several GB once)

# Only a change of what is to be installed installs again: the library itself is installed editable.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "stimulative needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Name a newer one: make install PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) could not make $(VENV); on Debian and Ubuntu the package python3-venv is missing." >&2; \
	  exit 1; }
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## Train a small net twice on digits and show what stimulative training does (about 4 minutes)
	$(BIN)/stimulative compare digits --out runs/demo

# One thread in each of the two workers: more would take turns on the same cores.
test: install  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

browser: install  ## Run the tests of the report in headless Chromium, which has to be on the machine
	$(BIN)/python -m pytest -m browser -n 0

faults: install  ## Let faults happen to runs at random moments, and print what came of it (about 14 minutes)
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m faults --json ../docs/results/faults.json

fuzz: install  ## Try strange inputs of all kinds, and print what came of it (about 7 minutes)
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m fuzz --json ../docs/results/fuzz.json

coverage: install  ## Write docs/coverage.md: which architectures can be taken apart (two hours, in parts if ended)
	$(BIN)/python benchmarks/coverage.py --page docs/coverage.md --json docs/results/coverage.json \
	  --keep .coverage.jsonl
	rm .coverage.jsonl

# PARTS="step-cost latency" runs these alone; benchmarks/bench.py has their names.
bench: install  ## Measure steps, the host, all subnets and plans, and write docs/benchmarks.md (half an hour, quiet machine)
	$(BIN)/python benchmarks/bench.py $(PARTS)

lint: install  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: install  ## Sort imports and lay the code out
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .
