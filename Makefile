# Set-up, demo and checks. Needs python3 (>= 3.11) and make; everything is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SUITE := --random-order

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/examples.stamp ## set up, then look at three real data sets; options: make demo ARGS="--data smartwatch"
	$(BIN)/viewaug demo $(ARGS)

test: SUITE := -m 'not long'
test: test-all ## set up, then lint, type-check, run tests and doctests, and try the wheel

test-all: lint ## the same, with the tests that take longer, in random order
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(SUITE)
	$(wheel)

fuzz: $(VENV)/dev.stamp ## set up, then try random cases; options: make fuzz ARGS="files --minutes 10"
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py $(or $(ARGS),budgets)

kills: $(VENV)/dev.stamp ## set up, then kill runs at random moments, and compare what they leave
	$(BIN)/python tests/kills.py $(ARGS)

test-lowest: ## run the tests with the lowest versions that are declared, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade pip
	$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --constraint .venv-lowest/constraints.txt --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist worksteal

test-newest: ## run the tests with the newest versions there are, in .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --upgrade --upgrade-strategy eager pip --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 --dist worksteal

audit: $(VENV)/dev.stamp ## list the licences of what is installed, then look it up among known vulnerabilities
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit pip-licenses
	.venv-audit/bin/pip-licenses --python=$(BIN)/python --order=license
	$(BIN)/python -m pip freeze --exclude-editable > .venv-audit/installed.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement .venv-audit/installed.txt

docs: $(VENV)/docs.stamp ## set up, then build the site into docs/_build/html
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

lint: $(VENV)/dev.stamp ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.stamp ## repair style and formatting in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what builds and checks leave behind, but not .venv
	rm -rf build dist docs/_build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find viewaug adapters examples tests -name __pycache__ -prune -exec rm -rf {} +

# The wheel, installed without its dependencies into a second place, has to bring every package by itself. PYTHONPATH
# goes before the editable install, -P keeps the working directory out, and an old build/ would add files deleted since.
define wheel
@echo 'Build the wheel and import it from a second place'
@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; rm -rf build; \
$(BIN)/python -m build --wheel --outdir "$$tmp/dist" .; \
$(BIN)/python -m pip install --no-index --no-deps --target "$$tmp/site" "$$tmp"/dist/*.whl; \
python=$$PWD/$(BIN)/python; cd "$$tmp"; \
PYTHONPATH="$$tmp/site" OMP_NUM_THREADS=1 "$$python" -P -c "$$IMPORT_FROM" "$$tmp/site"
endef

define IMPORT_FROM
import sys
from importlib import import_module
from pathlib import Path

site = Path(sys.argv[1]).resolve()
for name in ("viewaug", "viewaug.adapters", "viewaug.examples"):
    file = Path(import_module(name).__file__).resolve()
    if not file.is_relative_to(site):
        sys.exit(f"{name} was imported from {file}, not from the wheel in {site}")
for file in ("py.typed", "trained/photographs/viewmaker.safetensors", "trained/photographs/README.md"):
    if not (site / "viewaug" / file).is_file():
        sys.exit(f"the wheel lacks viewaug/{file}")
print("The wheel holds viewaug, viewaug.adapters and viewaug.examples.")
endef
export IMPORT_FROM

# A stamp says which extras are installed; a change of pyproject.toml installs them anew. `dev` includes `examples`.
$(VENV)/dev.stamp: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $(VENV)/examples.stamp $@

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[docs]'
	touch $@

$(VENV)/examples.stamp: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[examples]'
	touch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

.PHONY: help demo test test-all audit fuzz kills test-lowest test-newest docs lint format clean
