# Everything runs in .venv, made on first use with the packages pinned in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test lint fix docs bench gpu clean
.DEFAULT_GOAL := help

help:  ## list what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 10

demo: $(INSTALLED)  ## train and test a small classifier and detector on images made here (2 minutes)
	$(BIN)/sppnet demo --out demo

test: $(INSTALLED)  ## run the tests
	$(BIN)/pytest -n 2

lint: $(INSTALLED)  ## check style and types
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy

fix: $(INSTALLED)  ## repair what the linter can
	$(BIN)/ruff check --fix src tests
	$(BIN)/ruff format src tests

docs: $(INSTALLED)  ## build the site of the documentation, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(INSTALLED)  ## measure against the alternatives
	$(BIN)/sppnet benchmark all

gpu: $(INSTALLED)  ## check and time the Triton kernels on a CUDA device (5 minutes)
	$(BIN)/pytest -rs tests/test_triton.py
	$(BIN)/sppnet benchmark gpu

clean:  ## remove the environment and everything made
	rm -rf .venv demo site dist build .pytest_cache .ruff_cache .mypy_cache

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
