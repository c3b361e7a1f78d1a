# Two commands do all the set-up themselves: `make quickstart` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow test-lowest lint lock clean

quickstart: $(VENV)/.installed
	@$(BIN)/python -m encdec_lightning.composition.local_checkpoints
	@$(BIN)/encdec-train experiment=quickstart

test: $(VENV)/.installed
	@$(BIN)/python -m encdec_lightning.composition.local_checkpoints
	@$(BIN)/python -m pytest

# What is compiled is kept, also where Python is told not to: else each of some hundred processes compiles it anew.
test test-slow test-lowest: export PYTHONDONTWRITEBYTECODE =

# The long studies, and new examples of what holds for any: CI runs them once a week.
test-slow: $(VENV)/.installed
	@$(BIN)/python -m encdec_lightning.composition.local_checkpoints
	@$(BIN)/python -m pytest -m slow
	@$(BIN)/python -m pytest -m properties --hypothesis-profile=new-examples

# The suite at the lower ends of the ranges in pyproject.toml; torch of that age may bring gigabytes of CUDA along.
test-lowest: $(VENV)/.installed
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)-lowest
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --all-extras --no-header --no-annotate \
	  --python $(VENV)-lowest/bin/python --output-file $(VENV)-lowest/lowest.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --requirement $(VENV)-lowest/lowest.txt
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --no-deps --editable .
	@$(VENV)-lowest/bin/python -m encdec_lightning.composition.local_checkpoints
	$(VENV)-lowest/bin/python -m pytest -W ignore::DeprecationWarning -W ignore::FutureWarning

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# The lock file names no build of torch (+cpu, +cu130): pip takes the one that the machine's index offers.
lock: $(VENV)/.installed
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host --allow-unsafe --output-file requirements.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' requirements.lock

clean:
	rm -rf $(VENV) $(VENV)-lowest .mypy_cache .pytest_cache .ruff_cache dist
