.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= python3
JOBS ?= 2
# workers share the cores already: one thread each; and nothing may reach for a network
QUIET := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt
	@echo "installing the pinned versions into $(VENV): a few minutes the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group dev --group docs -e ".[factors,starter,log,ray,s3]"
	touch $(READY)

install: $(READY) ## create .venv with the pinned versions

demo: $(READY) ## sing a small corpus, open the starter model with SAEs, write the report
	$(BIN)/otoscope demo

test: $(READY) ## the whole test suite, offline
	$(QUIET) $(BIN)/python -m pytest -n $(JOBS)

lint: $(READY) ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

shapes: $(READY) ## the laws once more, every annotated shape and type checked at every call
	OTOSCOPE_SHAPES=1 $(QUIET) $(BIN)/python -m pytest -n $(JOBS) -k "not refused" tests/laws

bench-train: $(READY) ## a training step beside the peers' (builds their environment first)
	$(BIN)/python benchmarks/train.py

bench-extract: $(READY) ## extraction beside the plain way, and the whole study beside its authors'
	$(BIN)/python benchmarks/extract.py

bench-eval: $(READY) ## tuned held-out regressions beside a loop over scikit-learn's LassoCV
	$(BIN)/python benchmarks/eval.py

bench-quality: $(READY) ## what dictionaries keep of unseen groups, beside PCA, the study's recipe and a peer
	$(QUIET) $(BIN)/python benchmarks/quality.py

check: test lint shapes docs ## everything that must hold before a change lands

docs: $(READY) ## build the documentation, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

clean: ## remove what was built, not what was measured
	rm -rf $(VENV) docs/_build .pytest_cache .ruff_cache .hypothesis

.PHONY: help install demo test lint shapes bench-train bench-extract bench-eval bench-quality check docs clean
