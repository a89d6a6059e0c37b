# Two commands do everything on a fresh machine: `make benchmark` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

# PYTHON=... other than the environment's Python: the environment is made anew. Without PYTHON=... it stays.
WHICH := -c 'import sys; print(sys.base_prefix, sys.version)'
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(BIN)/python),)
ASKED := $(shell $(PYTHON) $(WHICH) 2>/dev/null)
ifeq ($(ASKED),)
$(error PYTHON=$(PYTHON) does not run)
endif
ifneq ($(ASKED),$(shell $(BIN)/python $(WHICH) 2>/dev/null))
$(info $(VENV) is of another Python than $(PYTHON): it is made anew)
.PHONY: $(INSTALLED) $(BIN)/python
endif
endif
endif

.PHONY: benchmark test test-fast faults lint docs perf gpu-check audit clean

## the demo profile on synthetic data, two cells at once, then the report; prints where it lies
benchmark: $(INSTALLED)
	$(BIN)/osfer run --profile demo --jobs 2
	$(BIN)/osfer report --profile demo

## every test, the slow end-to-end ones too
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal

## the fast suite: about five minutes on two cores
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

## fault injection: processes killed, connections cut, disks filled, cells that hang
faults: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/faults tests/benchmark/execution

## style, import directions, types
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

## the documentation as a site; warnings, broken links among them, are errors
docs: $(INSTALLED)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/site
	@echo build/site/index.html

## speed as ratios measured in one run
perf: $(INSTALLED)
	$(BIN)/python -m tests.performance.perf

## each method on a CUDA card: speed, memory, the CPU's numbers, hours of `paper`; without a card a dry pass on the CPU
gpu-check: $(INSTALLED)
	$(BIN)/python -m tests.performance.gpu_check

## known vulnerabilities of the tested versions; says so without a network to look them up
audit: $(INSTALLED)
	-$(BIN)/python -m pip install --quiet --retries 1 --constraint constraints.txt "pip-audit>=2.9"
	$(BIN)/python .ci/audit

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv --clear $(VENV)

# No bytecode in advance if Python may write it: of 20,000 files only the imported ones are compiled, once.
# `make UV=uv ...`: uv takes half of pip's time, a fifth once its cache is filled. Not by itself: it reads none of pip's settings.
UV ?=
PIP := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile))

# Versions as tested; pip is there unless the environment's making was interrupted.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(PIP) --upgrade pip
	$(PIP) --constraint constraints.txt --editable ".[posthoc,noise,detect,cluster,timm,docs,dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info docs/generated
