.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "headrace needs Python 3.11 or newer, found: $$($(PYTHON) --version). Say which with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "No virtual environment could be made. On Debian: apt-get install python3-venv"; exit 1; }

.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "Installing headrace into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing headrace and its development tools into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.installed

.PHONY: install
install: .venv/.installed ## install headrace into .venv

.PHONY: demo
demo: .venv/.installed ## index this repository and a few tickets, then search them
	@$(BIN)/headrace run --config demo.toml
	@for query in "events are processed twice when a pod restarts" "summer time makes the daily sums wrong" "a damaged FAISS index mends itself"; do \
		echo; echo "\$$ headrace search --config demo.toml \"$$query\""; \
		$(BIN)/headrace search --config demo.toml --limit 3 "$$query" || exit $$?; \
	done

.PHONY: test
test: .venv/.installed-dev ## the whole suite
	@$(BIN)/python -m pytest

.PHONY: test-torch
test-torch: .venv/.installed-dev ## compare with sentence-transformers (installs torch, several GB)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,torch]'
	@$(BIN)/python -m pytest -m torch

.PHONY: lint
lint: .venv/.installed-dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: bench
bench: .venv/.installed-dev ## retrieval and overhead on the real payloads beside the checkout
	@$(BIN)/python -m benchmarks.retrieval --data ../shared/data
	@$(BIN)/python -m benchmarks.overhead --data ../shared/data

.PHONY: clean
clean: ## remove the environment and the demo's data
	rm -rf .venv .headrace build *.egg-info
