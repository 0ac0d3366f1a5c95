# Every target sets up what it needs: a virtual environment in .venv, from Python, pip and make alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint bench docs samples clean

demo: $(VENV)/.installed
	$(BIN)/camseg demo --out demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check camseg tests benchmarks docs
	$(BIN)/ruff format --check camseg tests benchmarks docs
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/cam_cost.py
	$(BIN)/python benchmarks/refine_cost.py
	$(BIN)/python benchmarks/matting.py

# Writes the generated pages, then the site into site/.
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# What camseg/samples.py makes, for sample_data/.
samples: $(VENV)/.installed
	$(BIN)/python -c "from camseg.studies.demo import write_samples; write_samples('sample_data')"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache build *.egg-info
