# Every target does its own set-up in .venv; only Python 3.11+ and make are needed.
# The first that runs and is new enough (a name on PATH may be a shim that leads nowhere).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
.DEFAULT_GOAL := help

.PHONY: help demo test test-slow lint docs release gpu aot aot-quick aot-pods clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

# One stamp a set of extras: a changed setup.cfg installs again, an unchanged one costs nothing.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "sparsejax needs Python 3.11 or newer: make PYTHON=/path/to/python …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing .[$*] into $(VENV) (one to two minutes the first time)"
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-experiments  ## train a sparse network on real handwritten digits; table and plots in runs/demo
	$(RUN) -m experiments.train --config=configs/digits_mlp.py:rigl --workdir=runs/demo

test: $(VENV)/.installed-test  ## the whole default suite
	$(RUN) -m pytest -q -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.installed-test  ## the longest studies, compiled as a user's JAX compiles
	SPARSEJAX_TEST_XLA_FLAGS= $(RUN) -m pytest -q -m slow

lint: $(VENV)/.installed-test  ## style and import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --config setup.cfg --no-cache

docs: $(VENV)/.installed-docs  ## the pages with tutorials and API reference, in build/docs/html; warnings are errors
	$(RUN) docs/build.py build/docs

gpu:  ## OUT=DIR PART=1|2|3|4|table, on a machine with an accelerator: four parts of three minutes, rows in OUT, then OUT/gpu.md
	$(or $(GPU_PYTHON),python3) -m experiments.benchmark.gpu $(or $(OUT),runs/gpu) --part $(or $(PART),all) $(GPU_FLAGS)

# The compilers' wheels stand in a folder of their own: beside an installed JAX they would be taken for its devices.
AOT_DIR := .aot
AOT_RUN := PYTHONPATH=$(CURDIR):$(CURDIR)/$(AOT_DIR) $(RUN) -m experiments.benchmark.aot

aot: $(VENV)/.installed-test  ## compile the kernels for TPUs and GPUs that are not here; the result is committed
	$(RUN) -m experiments.benchmark.aot --install $(AOT_DIR)
	$(AOT_RUN) --out experiments/benchmark/aot_results.json

aot-quick: $(VENV)/.installed-test  ## three of these kernels; says so where the compilers cannot be had
	@$(RUN) -m experiments.benchmark.aot --install $(AOT_DIR); status=$$?; \
	if [ $$status -eq 3 ]; then exit 0; elif [ $$status -ne 0 ]; then exit $$status; fi; $(AOT_RUN) --quick

release: $(VENV)/bin/python  ## wheel and sdist in build/dist, checked and tried in clean environments of PYTHONS; uploads nothing
	$(RUN) tests/check_wheel.py --pythons $(or $(PYTHONS),$(CURDIR)/$(RUN))

aot-pods: $(VENV)/.installed-test  ## compile the full-size configurations for TPU slices that are not here
	$(RUN) -m experiments.benchmark.aot --install $(AOT_DIR)
	ulimit -s 4000000 || true; JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 PYTHONPATH=$(CURDIR):$(CURDIR)/$(AOT_DIR) \
		$(RUN) -m experiments.benchmark.pod_programs --out experiments/benchmark/pod_programs.json

clean:  ## remove the environment and the caches, not the runs
	rm -rf $(VENV) $(AOT_DIR) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
