# Each target is a command of the README. `make env` runs by itself where another target needs it.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
# One process per core at two cores; a file's tests stay in one process, which loads each model once.
WORKERS ?= 2
FILES ?= 500
OUT ?= demo
KILLS ?= 300
# What transformers reads videos with, and what single families are built with. They go into folders of their own, without
# what they depend on: torchvision in the environment itself would switch transformers to other image processors. Only
# the processes that need them look there: the tests of videos, and the worker of the scan.
TORCHVISION := torchvision==0.28.0
TORCHVISION_STAMP := .torchvision/.installed
PACKAGES := scipy==1.17.1 timm==1.0.31 $(TORCHVISION)
PACKAGES_STAMP := .conformance/.installed
# What people's weights come in: libraries of quantisation, and PEFT. They change what transformers loads, so they too
# have a folder of their own. ninja is what optimum-quanto looks for at import.
WEIGHTS := bitsandbytes==0.50.2 ninja==1.13.2 optimum-quanto==0.2.7 peft==0.21.2 torchao==0.18.0
WEIGHTS_STAMP := .weights/.installed

.DEFAULT_GOAL := help
.PHONY: help env demo test test-fast fuzz kills test-ndif test-weights lint docs notebooks bench conformance

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) $(TORCHVISION_STAMP) ## Build .venv with the pinned versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lostattn needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make env PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	# torch in a call of its own, so that a CPU build found first is kept by everything after it.
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e ".[dev,docs,notebooks,data]"
	@touch $@

demo: env ## Run both experiments on both tiny models and write demo/report.html
	$(BIN)/lostattn demo --out $(OUT)

test: env ## Run the tests
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

test-fast: env ## Run the tests that are not marked slow: a slice of every area
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow"

fuzz: env ## Try damaged files on every reader of files: FILES=500 each, and print what became of them
	$(BIN)/python tests/fuzz $(FILES) $(if $(CI),--seed 0)

kills: env ## Kill what writes 300 times at random moments and look at what stands
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/kills --kills $(KILLS)

test-ndif: env ## Run every remote call against a real NDIF on the loopback interface
	NDIF_EARLY=1 tests/ndif/with-ndif $(BIN)/pytest tests/ndif -p no:cacheprovider -n 2

test-weights: env $(WEIGHTS_STAMP) ## Test on weights that bitsandbytes, torchao, quanto and PEFT make
	$(BIN)/pytest tests/weights -p no:xdist

lint: env ## Check style, format, types, and that rooms import rooms below them alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: env ## Build the documentation into site/, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: env ## Run every notebook and tutorial from top to bottom
	HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore $(BIN)/jupyter execute --timeout=600 notebooks/*.ipynb tutorials/*.ipynb

bench: env ## Run the toolkit beside its peers and write benchmarks/results/
	$(BIN)/python -m benchmarks

conformance: env $(PACKAGES_STAMP) ## Put every family of transformers to the test and write docs/models.md
	$(BIN)/lostattn conformance --out runs/conformance --page docs/models.md
	$(BIN)/python tests/packages

$(TORCHVISION_STAMP): IN_IT := $(TORCHVISION)
$(PACKAGES_STAMP): IN_IT := $(PACKAGES)
$(WEIGHTS_STAMP): IN_IT := $(WEIGHTS)
$(TORCHVISION_STAMP) $(PACKAGES_STAMP) $(WEIGHTS_STAMP): Makefile | $(STAMP)
	rm -rf $(@D)
	$(BIN)/pip install -q --no-deps --target $(@D) $(IN_IT)
	@touch $@
