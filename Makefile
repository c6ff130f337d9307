# The commands of every day. `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
SEEDS ?= 5
BASE ?= origin/main
# Under the default shell, macOS's make 3.81 starts plain commands itself and ignores the PATH below.
SHELL := bash
# DVC starts each stage with the first python on PATH.
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PYTHONPATH := src
# DVC asks for a name, which a container's user may lack.
export USER ?= somebody
# PYTHONSAFEPATH would hide flows, which lies in this folder.
unexport PYTHONSAFEPATH

.PHONY: help setup run test test-slow lint audit report noise matrix \
  bench bench-retraining bench-pictures bench-corrections predict app collect versions rollback search schedule lock

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The lock limits versions instead of naming what to install, so that a CPU-only torch can go
# without the CUDA packages. The copy in the environment says what was installed.
setup:  ## make .venv from requirements.lock, unless that is done
	@! test -e $(VENV)/requirements.lock || $(VENV)/bin/python -c 'import pip' 2>/dev/null || \
	  { echo "error: $(VENV): its Python is gone: remove this folder, or name another by VENV="; exit 2; }
	@cmp -s requirements.lock $(VENV)/requirements.lock || { \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	    { echo "error: $(PYTHON): expected Python 3.11 to 3.14: make setup PYTHON=python3.12"; exit 2; }; \
	  echo "Setting up $(VENV): a few minutes, once" && \
	  $(PYTHON) -m venv $(VENV) && \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --constraint requirements.lock --editable '.[dev]' && \
	  cp requirements.lock $(VENV)/requirements.lock; }

run: setup  ## train and test the network: dvc repro, on MNIST if it can be had
	@python -m mnist_pipeline run

test: setup  ## run the tests
	@OMP_WAIT_POLICY=passive python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-slow: setup  ## kill stages, flows, workers and servers, and see them recover (one and a half hours)
	@python -m pytest -m slow

lint: setup  ## check style (ruff), types (mypy) and GitHub's workflows (zizmor, their schema)
	@ruff check . && ruff format --check . && mypy
	@zizmor --offline --pedantic --quiet .github
	@check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

audit: setup  ## reproduce the committed dvc.lock from nothing, compare every output
	@python -m mnist_pipeline audit

report: setup  ## say whether the metrics changed for real since BASE=origin/main
	@python -m mnist_pipeline report --base $(BASE) --pictures build/report

noise: setup  ## train with SEEDS=5 seeds: how far do results differ? (an hour)
	@python -m flows.seeds --seeds $(SEEDS)

matrix: setup  ## fill the table of docs/reproducibility.md (12 to 35 minutes)
	@python benchmarks/matrix.py

bench: setup  ## measure speed and memory against the classic program (up to an hour)
	@dvc repro --quiet download && python benchmarks/bench.py

bench-retraining: setup  ## measure what the schedule costs, and how soon a killed run is over (30 minutes)
	@OMP_WAIT_POLICY=passive python benchmarks/retraining.py

bench-pictures: setup  ## measure how accurate predict is on pictures, and how long it takes
	@python benchmarks/pictures.py

bench-corrections: setup  ## measure what one training learns from 170 corrections (15 minutes)
	@python benchmarks/corrections.py

predict: setup  ## say which digit is on PICTURE=file
	@python -m mnist_pipeline predict $${PICTURE:+"$$PICTURE"}

app: setup  ## serve a page to draw digits on, at 127.0.0.1:8000, until Ctrl-C
	@exec python -m mnist_pipeline app

collect: setup  ## push what people corrected on the page to a branch images/<date>
	@python -m flows.collect

versions: setup  ## list the published versions, and which one is in production
	@python -m flows.versions

rollback: setup  ## go back to the version in production before, or to VERSION=v1.0.0
	@python -m flows.versions rollback $(VERSION)

search: setup  ## train with many parameters and rank them: GRID='{"train.lr": [0.5, 1.0]}'
	@exec python -m flows.search '$(GRID)' $(OPTIONS)

schedule: setup  ## retrain every night on this machine: server, worker, dashboard, until Ctrl-C
	@exec python -m flows.schedule

# Each package has one version for every Python, since results name numpy's version.
lock: setup  ## write requirements.lock anew from pyproject.toml, for Linux and macOS
	@uv pip compile --quiet --upgrade --universal --fork-strategy fewest --no-header --python-version 3.11 \
	  --extra dev --output-file requirements.lock pyproject.toml
