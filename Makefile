# `make demo` and `make test` need only make, pip and a Python of 3.10 to 3.13; PYTHON=... picks the interpreter.

VENV   ?= .venv
PYTHON ?=
LOCK_PYTHONS ?= python3.10 python3.11
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TORCH  ?= 1
BENCH  ?= .venv-bench

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format conformance fuzz test-sanitize test-exhaustive bench wheel lock clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' Makefile | awk -F': *' '{ printf "  make %-15s %s\n", $$1, $$2 }'

$(READY): requirements/lock.txt pyproject.toml tools/setup_venv.sh
	@sh tools/setup_venv.sh "$(VENV)" "$(PYTHON)"
	@touch $@

setup: $(READY)  ## create the virtual environment with pinned packages and this project in it

demo: $(READY)  ## compile, verify and time the embedded model
	@$(BIN)/graphfuse demo

lint: $(READY)  ## ruff (rules and format) and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# TORCH=0 leaves PyTorch out: its tests say that they are skipped
test: lint $(if $(filter-out 0,$(TORCH)),$(VENV)/.torch)  ## lint, then every test
	@$(BIN)/python -m pytest -q -n 2

$(VENV)/.torch: $(READY) requirements/torch.txt
	@echo "installing the packages of requirements/torch.txt"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements/torch.txt
	@touch $@

# ARGS="--only REGEX --failures"; see --help
conformance: $(READY)  ## ONNX's own test suite through compiled models: totals, and the table in docs/conformance.md
	@cd tests && $(abspath $(BIN))/python -m conformance $(ARGS)

# ARGS="--models 20000 --seconds 3600 --seed 0 --sanitize"; a failing model is shrunk and kept in build/fuzz
fuzz: $(READY)  ## random models, compiled in several ways, against onnxruntime and ONNX's evaluator
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

test-sanitize: $(READY)  ## only the tests that run generated C under ASan and UBSan
	@$(BIN)/python -m pytest -q -m sanitize

# ARGS="--models resnet18,mlp --peers onnxruntime,openvino --quick"; see docs/bench.md
bench: $(BENCH)/.ready  ## time it against every peer: table, JSON, picture (its own packages; ARGS="--help" for choices)
	@$(BENCH)/bin/python bench/run.py $(ARGS)

$(BENCH)/.ready: requirements/bench.txt pyproject.toml tools/setup_venv.sh
	@sh tools/setup_venv.sh "$(BENCH)" "$(PYTHON)" requirements/bench.txt
	@touch $@

test-exhaustive: $(READY)  ## every float32 through every elementary function, some hours
	@GF_EXHAUSTIVE=1 $(BIN)/python -m pytest -q -n 2 tests/runtime/test_math.py

wheel: $(READY)  ## build dist/*.whl
	@$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .

lock: $(READY)  ## renew requirements/*.txt; LOCK_PYTHONS names the two interpreters
	@$(BIN)/python tools/lock.py $(LOCK_PYTHONS)

clean:  ## remove the virtual environment, builds and caches
	@rm -rf $(VENV) $(BENCH) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
