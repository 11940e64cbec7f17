# The two commands that a newcomer needs. Both make the virtual environment .venv first, once.
#   make demo    English to Punjabi, from the shipped model to a phoneme F1 report
#   make test    the linters and the tests

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# One process per core (8 at most), each with one thread: more threads than cores make every process slower.
PYTEST_OPTIONS ?= -n auto --maxprocesses 8
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format install clean

help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[bench,dev,synthetic,export,remote,hub]'
	touch $@

demo: $(STAMP)
	$(VENV)/bin/mtl-speech demo

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy mtl_speech

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(PYTEST_OPTIONS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
