.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= python3
JOBS ?= 2
MUTATIONS ?= 5000
# one thread per test worker, and no network access
QUIET := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
# hides AVX-512 and AMX from PyTorch, oneDNN, MKL, OpenBLAS, NumPy and Numba
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=HASWELL \
	NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" \
	NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+movbe \
	NUMBA_CACHE_DIR=$(CURDIR)/.numba-avx2

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt
	@echo "installing the pinned versions into $(VENV): a few minutes the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group dev --group docs -e ".[factors,starter,log,ray,s3]"
	touch $(READY)

install: $(READY) ## create .venv with the pinned versions

demo: $(READY) ## synthesise a small corpus, train SAEs on the starter model, write the report
	$(BIN)/otoscope demo

test: $(READY) ## the test suite without the marker `slow`, offline
	$(QUIET) $(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-fast: $(READY) ## the inner loop: unit tests and laws without whole runs
	$(QUIET) $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not whole_run" tests

test-slow: $(READY) ## only the tests with the marker `slow`
	$(QUIET) $(BIN)/python -m pytest -n $(JOBS) -m slow

test-all: $(READY) ## every test
	$(QUIET) $(BIN)/python -m pytest -n $(JOBS)

test-avx2: $(READY) ## the numerical tests with the instructions of AVX2 only
	$(QUIET) $(AVX2) $(BIN)/python -m pytest -n $(JOBS) -m "not slow" tests/linear tests/metrics tests/sae tests/laws

lint: $(READY) ## formatting, lint rules, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

shapes: $(READY) ## the laws again, with annotated shapes and types checked at every call
	OTOSCOPE_SHAPES=1 $(QUIET) $(BIN)/python -m pytest -n $(JOBS) -k "not refused" tests/laws

fuzz: $(READY) ## MUTATIONS (5000) mutations of every kind of input, such as sound files of every container
	OTOSCOPE_FUZZ=$(MUTATIONS) $(QUIET) $(BIN)/python -m pytest -n $(JOBS) tests/fuzz tests/config/test_mutated_config.py \
		tests/corpus/test_mutated_tables.py tests/pipeline/test_damaged_runs.py

bench-train: $(READY) ## a training step compared with other libraries (builds their environment first)
	$(BIN)/python benchmarks/train.py

bench-extract: $(READY) ## extraction compared with plain transformers, and the study with its authors' method
	$(BIN)/python benchmarks/extract.py

bench-eval: $(READY) ## tuned held-out regressions compared with scikit-learn's LassoCV
	$(BIN)/python benchmarks/eval.py

bench-quality: $(READY) ## planted features recovered, compared with both starts and two libraries (one seed, width 96: 10 minutes)
	$(QUIET) $(BIN)/python benchmarks/recovery.py

bench-reconstruction: $(READY) ## reconstruction of unseen groups, compared with PCA, the study's preset and a peer (hours)
	$(QUIET) $(BIN)/python benchmarks/quality.py

audit: $(READY) ## every metric on synthetic dictionaries with known features; writes docs/methods.md
	$(QUIET) $(BIN)/python benchmarks/audit.py --write

check: test lint shapes docs ## everything that must pass before a change lands

docs: $(READY) ## build the documentation, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

clean: ## remove build outputs; keep measurements
	rm -rf $(VENV) docs/_build .pytest_cache .ruff_cache .hypothesis .numba-avx2

.PHONY: help install demo test test-fast test-slow test-all test-avx2 lint shapes fuzz bench-train bench-extract bench-eval bench-quality bench-reconstruction audit check docs clean
