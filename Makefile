# make install | demo | test | lint | bench. Each makes .venv, or brings it up to requirements.txt; test and lint also
# install tests/requirements.txt.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/installed
INSTALLED_FOR_TESTS := .venv/installed_for_tests
# More threads than this make small models slower, and tests beside each other much slower.
export OMP_NUM_THREADS ?= 2

MADE_UP := data/made_up
OUT := submissions/out

.PHONY: install demo demo_task1 demo_task1_2026 demo_task4 demo_retrieval demo_moments test lint bench

install: $(INSTALLED)

# The whole way of each task on made-up data: train, score, report, package, check. Call again to resume a stopped demo.
demo: demo_task1 demo_task1_2026 demo_task4 demo_retrieval demo_moments

demo_task1: $(INSTALLED)
	$(VENV_PYTHON) -m common synthesize task1_asc --root $(MADE_UP)/task1_asc
	$(VENV_PYTHON) -m task1_asc data pack --root $(MADE_UP)/task1_asc --num_workers 2
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m task1_asc sweep task1_asc/configs/small.yaml --over subset=5,10,25,50,100 --over seed=0,1 --jobs 2
	$(VENV_PYTHON) -m task1_asc report runs/task1_asc/small
	rm -rf $(OUT)/Lastname_KIT_task1 $(OUT)/Lastname_KIT_task1.zip
	$(VENV_PYTHON) -m task1_asc package runs/task1_asc/small --label Lastname_KIT_task1_1 --meta submissions/templates/demo/task1_2024.yaml
	$(VENV_PYTHON) -m submissions check $(OUT)/Lastname_KIT_task1.zip

demo_task1_2026: $(INSTALLED)
	$(VENV_PYTHON) -m common synthesize broad_sounds --root $(MADE_UP)/broad_sounds
	$(VENV_PYTHON) -m task1_asc sounds data check --root $(MADE_UP)/broad_sounds
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m task1_asc sounds train task1_asc/broad_sounds/configs/small.yaml --jobs 2
	$(VENV_PYTHON) -m task1_asc sounds report runs/broad_sounds/small_published_seed0
	$(VENV_PYTHON) -m task1_asc sounds predict runs/broad_sounds/small_published_seed0 --root $(MADE_UP)/broad_sounds/BSD2k
	rm -rf $(OUT)/Lastname_SND_task1 $(OUT)/Lastname_SND_task1.zip
	$(VENV_PYTHON) -m task1_asc sounds package runs/broad_sounds/small_published_seed0 --label Lastname_SND_task1_1 --meta submissions/templates/demo/task1_2026.yaml
	$(VENV_PYTHON) -m submissions check $(OUT)/Lastname_SND_task1.zip

# The reference stands for the baseline's 10 epochs, whose energy the challenge compares with.
demo_task4: $(INSTALLED)
	$(VENV_PYTHON) -m common synthesize task4_sed --root $(MADE_UP)/task4_sed
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m task4_sed sweep task4_sed/configs/small.yaml --over seed=0,1,2 --jobs 2
	$(VENV_PYTHON) -m task4_sed train task4_sed/configs/small.yaml --name reference --trainer.epochs 1 --trainer.validate_every 1
	$(VENV_PYTHON) -m task4_sed report runs/task4_sed/small
	rm -rf $(OUT)/Lastname_KIT_task4 $(OUT)/Lastname_KIT_task4.zip
	$(VENV_PYTHON) -m task4_sed package runs/task4_sed/small --label Lastname_KIT_task4_1 --meta submissions/templates/demo/task4_2024.yaml --reference runs/task4_sed/reference
	$(VENV_PYTHON) -m submissions check $(OUT)/Lastname_KIT_task4.zip

demo_retrieval: $(INSTALLED)
	$(VENV_PYTHON) -m common synthesize retrieval --root $(MADE_UP)/retrieval
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m retrieval train retrieval/configs/small.yaml --jobs 2
	$(VENV_PYTHON) -m retrieval predict runs/retrieval/small_0 --root $(MADE_UP)/retrieval
	rm -rf $(OUT)/Lastname_KIT_task8 $(OUT)/Lastname_KIT_task8.zip
	$(VENV_PYTHON) -m retrieval package runs/retrieval/small_0 --label Lastname_KIT_task8_1 --meta submissions/templates/demo/task8_2024.yaml
	$(VENV_PYTHON) -m submissions check $(OUT)/Lastname_KIT_task8.zip
	$(VENV_PYTHON) -m common synthesize imitation --root $(MADE_UP)/imitation
	$(VENV_PYTHON) -m retrieval train_imitation retrieval/configs/imitation_small.yaml

demo_moments: $(INSTALLED)
	$(VENV_PYTHON) -m common synthesize retrieval --root $(MADE_UP)/retrieval
	$(VENV_PYTHON) -m common synthesize moments --root $(MADE_UP)/moments
	$(VENV_PYTHON) -m retrieval train retrieval/moments/configs/small_encoder.yaml
	$(VENV_PYTHON) -m retrieval moments train retrieval/moments/configs/similarity_small.yaml
	$(VENV_PYTHON) -m retrieval moments train retrieval/moments/configs/small.yaml
	$(VENV_PYTHON) -m retrieval moments report runs/moments/small_0 runs/moments/similarity_small
	$(VENV_PYTHON) -m retrieval moments predict runs/moments/small_0 --root $(MADE_UP)/moments
	rm -rf $(OUT)/Lastname_KIT_task6 $(OUT)/Lastname_KIT_task6.zip
	$(VENV_PYTHON) -m retrieval moments package runs/moments/small_0 --label Lastname_KIT_task6_1 --meta submissions/templates/demo/task6_2026.yaml
	$(VENV_PYTHON) -m submissions check $(OUT)/Lastname_KIT_task6.zip

# A process for each core, up to four, each with one thread; the tests of a file stay together and share what they made.
test: $(INSTALLED_FOR_TESTS)
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n logical --maxprocesses 4 --dist loadfile \
		-m "not slow and not slurm and not gpu"

lint: $(INSTALLED_FOR_TESTS)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m codespell_lib
	$(VENV_PYTHON) -m mypy

bench: $(INSTALLED)
	for file in tests/benchmarks/bench_*.py; do \
		echo "$$file"; $(VENV_PYTHON) -m "$$(tr / . <<< "$${file%.py}")"; done

# uv installs in a fraction of pip's time (compiled: otherwise each start of torch takes seconds longer). Without uv, or
# where uv cannot reach the package index of this machine (it does not read pip's configuration), pip does the same.
define install
$(VENV_PYTHON) -m uv pip install --quiet --compile-bytecode --python $(VENV_PYTHON) $(1) \
	|| $(VENV_PYTHON) -m pip install --quiet $(1)
endef

$(INSTALLED): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(VENV_PYTHON) || $(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install --quiet uv || echo "No uv; pip installs the rest."
	$(call install,-r requirements.txt)
	touch $@

$(INSTALLED_FOR_TESTS): $(INSTALLED) tests/requirements.txt
	$(call install,-r requirements.txt -r tests/requirements.txt)
	touch $@
