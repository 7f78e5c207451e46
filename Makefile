# `make` prints the targets. Every recipe is one command; what has logic is a Python module with tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
SERVING := -e proto -e access -e models[serve] -e services/uic -e services/rtp -e deploy
PROJECTS := $(wildcard proto/pyproject.toml access/pyproject.toml models/pyproject.toml services/*/pyproject.toml deploy/pyproject.toml)
CODE := access models services deploy tests loadtest
PYTEST := $(PY) -m pytest --quiet --durations 10
QUICK := tests/unit tests/contract tests/parity
SPREAD := --numprocesses 2 --dist loadfile
CONFIG ?= models/configs/online_retail_pooling_sketch_1280.toml
RUN ?= runs/online-retail
BUNDLES ?= models/bundles
VERSION ?= 2
LOAD ?=
export OMP_NUM_THREADS ?= 1

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make $(VENV): install your system's package for venv (Debian: python3-venv)"; exit 1; }

$(VENV)/.installed: $(PROJECTS) constraints.txt | $(PY)
	@echo "installing into $(VENV) ..."
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation $(SERVING)
	@touch $@

$(VENV)/.installed-dev: $(PROJECTS) constraints.txt requirements-dev.txt loadtest/requirements.txt | $(PY)
	@echo "installing everything into $(VENV), torch included ..."
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation $(SERVING) -e models[serve,train] --requirement requirements-dev.txt
	@touch $@ $(VENV)/.installed $(VENV)/.installed-load

$(VENV)/.installed-load: $(PROJECTS) constraints.txt loadtest/requirements.txt | $(VENV)/.installed
	@$(PIP) --requirement loadtest/requirements.txt
	@touch $@

install: $(VENV)/.installed ## .venv with what serving and the demo need: no torch

install-load: $(VENV)/.installed-load ## .venv with what the load generator needs besides: no torch

install-dev: $(VENV)/.installed-dev ## .venv with everything, torch included

demo: install ## real behaviors through Kafka into scores, on this machine: nothing stays running
	@$(PY) -m localstack demo

up: install ## start the stack and keep it running; prints addresses and commands to paste
	@$(PY) -m localstack up

down: install ## end the stack by pid; its data stays in .stack
	@$(PY) -m localstack down

status: install ## what of the stack runs, and whether it is ready
	@$(PY) -m localstack status

doctor: install ## check the stack that runs, or the deployment that UIC_... variables name, and say what to fix
	@$(PY) -m localstack doctor

check: install-dev format lint types imports proto-drift ## format, lint, types, import contracts, stubs; unit and contract tests that use no torch
	@$(PYTEST) $(SPREAD) -m "not torch" $(QUICK)

format: install-dev
	@$(BIN)/ruff format --check $(CODE)

lint: install-dev
	@$(BIN)/ruff check $(CODE)

types: install-dev
	@$(BIN)/mypy $(wildcard access/src models/src services/*/src deploy/localstack tests loadtest)

imports: install-dev
	@$(BIN)/lint-imports

proto-drift: install-dev
	@$(PY) -m localstack.checks.proto_drift

docs: install-dev ## build docs/ as a site into site/; a broken link stops it
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet && echo "site/index.html"

check-models: install-dev ## the tests that need torch: model, parity, a smoke training run, export
	@$(PYTEST) $(SPREAD) -m torch $(QUICK)

check-system: install-dev ## the tests of running processes, one at a time: real servers, the demo, the golden path
	@$(PYTEST) tests $(QUICK:%=--ignore %)

slim: install-dev ## install each service alone and prove that it imports without torch
	@$(PY) -m localstack.checks.slim

test: check check-models check-system slim ## everything that CI runs
	@echo "all green"

proto: install-dev ## generate the stubs of proto/gen anew
	@PYTHON=$(abspath $(PY)) PATH=$(abspath $(BIN)):$$PATH proto/generate.sh

train: install-dev ## train CONFIG into RUN
	@$(PY) -m mimn.train --config $(CONFIG) --output $(RUN)

evaluate: install-dev ## evaluate RUN on the test part
	@$(PY) -m mimn.evaluate --run $(RUN)

export: install-dev ## write RUN's bundle to BUNDLES/online-retail-pooling-sketch/VERSION
	@$(PY) -m mimn.export --run $(RUN) --output $(BUNDLES) --name online-retail-pooling-sketch --version $(VERSION)

auc: install-dev ## run a reduced table of models on Online Retail and print it; what is finished is not run again
	@$(PY) -m mimn.table.run --plan models/plans/reduced.toml --cpu-minutes 25
	@cat runs/auc/records/AUC.md

load: install-load ## latency against history length and rate, MIMN, DIN and DIEN: report and plots (LOAD=--reduced: under 5 minutes)
	@$(PY) -m loadtest.comparison $(LOAD)

torture: install-dev ## kill, freeze, empty and cut off everything, in full (about two hours, resumable); table, page and JSON
	@PYTHONPATH=tests $(PY) -m torture

fuzz: install-dev ## fuzz every decoder, ten minutes each (two hours, resumable)
	@PYTHONPATH=tests $(PY) -m fuzz

openapi: install-dev ## 20,000 requests made from RTP's OpenAPI, every answer checked (ten minutes or so)
	@PYTHONPATH=tests $(PY) -m fuzz.openapi

beside: install-dev ## healthy traffic's p99 beside hostile clients, in turn with and without (a minute or two)
	@PYTHONPATH=tests $(PY) -m fuzz.beside

sequences: install-dev ## 5,000 random lives of UIC's core against a model (four minutes or so)
	@CTR_SEQUENCES=5000 $(PYTEST) tests/unit/test_uic_machine.py

budgets: install-load ## measure each latency and throughput budget; table and JSON
	@$(PY) -m loadtest.budgets

.PHONY: help install install-load install-dev demo up down status doctor check format lint types imports proto-drift \
	docs check-models check-system slim test proto train evaluate export auc load torture fuzz openapi beside sequences budgets
