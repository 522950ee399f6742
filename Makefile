# make quickstart   install into .venv, fine-tune the embedded foundation on CCSD(T) labels
# make test         install into .venv, run the fast test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-all lint types check clean

quickstart: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/piwsl-finetune run recipes/quickstart.yaml --overwrite
	@echo 'next, in some minutes: $(BIN)/piwsl-finetune run direct-forces  (forces learnt from energies alone)'

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

check: lint types test

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "piwsl-finetune needs Python >= 3.10; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	-$(BIN)/python -m pip install --no-deps -c constraints.txt orb-models dm-tree  # see docs/foundations.md, ORB
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
