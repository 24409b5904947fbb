# make demo | test | lint | bench. Each first makes .venv, or brings it up to requirements.txt.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/installed
# More threads than this make small models slower, and tests beside each other much slower.
export OMP_NUM_THREADS ?= 2

DEMO_DATA := data/made_up/task1_asc
DEMO_RUN := runs/task1_asc/small
DEMO_LABEL := Demo_KIT_task1_1

.PHONY: demo test lint bench

# The whole way of Task 1 on made-up data: train on three subsets with two seeds each, report, package, check.
demo: $(INSTALLED)
	$(VENV_PYTHON) -m common synthesize task1_asc --root $(DEMO_DATA)
	$(VENV_PYTHON) -m task1_asc sweep task1_asc/configs/small.yaml --over subset=5,25,100 --over seed=0,1
	$(VENV_PYTHON) -m task1_asc report $(DEMO_RUN)
	$(VENV_PYTHON) -m task1_asc package $(DEMO_RUN) --label $(DEMO_LABEL) --meta submissions/templates/demo.yaml
	$(VENV_PYTHON) -m submissions check submissions/out/$(DEMO_LABEL:_1=).zip

test: $(INSTALLED)
	$(VENV_PYTHON) -m pytest -m "not slow and not slurm and not gpu"

lint: $(INSTALLED)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

bench: $(INSTALLED)
	for file in tests/benchmarks/[a-z]*.py; do \
		echo "$$file"; $(VENV_PYTHON) -m "$$(tr / . <<< "$${file%.py}")"; done

# uv installs in a fraction of pip's time (compiled, for otherwise each start of torch takes some seconds more). Where it
# cannot be had, or does not know the package index of this machine
# (it does not read pip's configuration), pip does the same.
$(INSTALLED): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(VENV_PYTHON) || $(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install --quiet uv || echo "No uv; going on with pip."
	$(VENV_PYTHON) -m uv pip install --quiet --compile-bytecode --python $(VENV_PYTHON) -r requirements.txt \
		|| $(VENV_PYTHON) -m pip install --quiet -r requirements.txt
	touch $@
