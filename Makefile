# Every target works in the project's own .venv, made from pyproject.toml and constraints.txt.
# It needs Python 3.11 or newer; `make PYTHON=python3.12 test` chooses which.
PYTHON ?= python3
BIN := .venv/bin
# Two workers with one thread each: torch would otherwise start a thread per core in both.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test check fix slow bench docs planted soak attack lowest

demo: .venv/installed
	$(BIN)/empssl train pentominoes --recipe shapes --out runs/demo --overwrite
	$(BIN)/empssl evaluate runs/demo pentominoes
	$(BIN)/empssl report runs/demo

test: .venv/installed
	$(PYTEST) -m "not slow and not gpu"

check: .venv/installed
	$(BIN)/ruff format --check && $(BIN)/ruff check && $(BIN)/mypy
	$(MAKE) test

fix: .venv/installed
	$(BIN)/ruff check --fix && $(BIN)/ruff format

slow: .venv/installed
	$(PYTEST) -m "slow and not gpu"

bench: .venv/installed
	$(BIN)/python benchmarks/demo.py && $(BIN)/python benchmarks/step_shares.py

docs: .venv/installed
	$(BIN)/python -m pytest -q tests/test_cli.py -k documented

planted: .venv/installed
	$(BIN)/python tests/planted

attack: .venv/installed
	$(BIN)/python benchmarks/attack.py --write

lowest: .venv/installed
	$(BIN)/python tests/lowest

soak: .venv/installed
	$(BIN)/python benchmarks/soak.py --write

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip  # --group came with pip 25.1
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $@
