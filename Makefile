# What one can do here: `make help`. Each target sets up what it needs; nothing is expected but Python >= 3.11 and a C++
# compiler (for llama.cpp). Needs GNU make >= 3.82.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
WHEELS := .cache/wheels
TREE   := .cache/tree
# The environment is as good as the pyproject.toml it was made from: the stamp carries its checksum.
STAMP  := $(VENV)/.made-from-$(shell cksum < pyproject.toml | tr -c '0-9\n' '-' | sed 's/-*$$//')
PYTEST_ARGS ?=
FUZZ_EXAMPLES ?= 20000

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-vllm test-frameworks check lint format types docs bench fuzz dist clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything installed (5 minutes the first time: llama.cpp is compiled)

demo: $(STAMP) ## Guard a real language model: answers, refusals with their rules, and the trace
	@$(BIN)/shieldkit demo

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-vllm: $(STAMP) ## Run the backend tests against a real vLLM server on the CPU (4 GB and five minutes the first time)
	VENV=$(VENV) PYTHON=$(PYTHON) bash .ci/vllm test $(PYTEST_ARGS)

test-frameworks: ## Run the tests of adapters that want an environment of their own (Guardrails AI, LiteLLM)
	@[ -x .cache/frameworks/bin/pip ] || $(PYTHON) -m venv .cache/frameworks
	@.cache/frameworks/bin/pip install --quiet "pip>=25.1"
	@.cache/frameworks/bin/pip install --quiet --editable . --group frameworks
	.cache/frameworks/bin/python -m pytest tests/frameworks --confcutdir tests/frameworks $(PYTEST_ARGS)

check: lint types test docs ## All that CI does

lint: $(STAMP) ## Style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Mend style and format where that can be done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) $(TREE) ## Strict type check of the package as it is installed: adapters and rails included
	cd $(TREE) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p shieldkit

docs: $(STAMP) $(TREE) ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

bench: $(STAMP) ## Run the benchmarks; each prints its table
	@set -e; for script in benchmarks/[a-z]*.py; do \
	  [ -e "$$script" ] || { echo "no benchmarks"; break; }; echo "== $$script"; $(BIN)/python "$$script"; done

fuzz: $(STAMP) ## Run the long property tests (FUZZ_EXAMPLES=20000 each)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/fuzz --timeout 7200 $(PYTEST_ARGS)

dist: $(STAMP) ## Build the wheel and the source archive into dist/
	$(BIN)/python -m build --outdir dist .

clean: ## Remove what was built; .venv and the wheel cache stay
	rm -rf build dist site $(TREE) .pytest_cache .mypy_cache .ruff_cache *.egg-info

# The package as it will be installed, made of links: tools that read files rather than import see adapters/ and rails/
# in their place.
.PHONY: $(TREE)
$(TREE):
	@rm -rf $(TREE) && mkdir -p $(TREE)/shieldkit
	@ln -s $(CURDIR)/shieldkit/* $(CURDIR)/adapters $(CURDIR)/rails $(TREE)/shieldkit/

$(STAMP):
	@VENV=$(VENV) WHEELS=$(WHEELS) PYTHON=$(PYTHON) STAMP=$(STAMP) bash .ci/setup
