# Every target sets up what it needs: a virtual environment in .venv, from Python, pip and make alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := camseg tests benchmarks docs

.NOTPARALLEL:
.PHONY: demo test test-slow test-browser lint bench bench-gpu docs site package samples clean

demo: $(VENV)/.installed
	$(BIN)/camseg demo --out demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto -m "not slow"

# The page in a real browser, Debian's.
test-browser: $(VENV)/.installed-test $(VENV)/.installed-test-browser
	command -v chromium || apt-get install --yes --no-install-recommends chromium
	$(BIN)/python -m pytest -m slow tests/review

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# mypy reads the libraries of the tests' extras too.
lint: $(VENV)/.installed-test $(VENV)/.installed-lint
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/cam_cost.py
	$(BIN)/python benchmarks/refine_cost.py
	$(BIN)/python benchmarks/matting.py

# On a machine with a GPU, with whatever Python has camseg's libraries: nothing is installed. At most eight minutes.
bench-gpu:
	PYTHONPATH=. $(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py --out gpu_bench

# Writes the generated pages, then the site into site/.
docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py
	$(MAKE) site

# The site alone, from the pages as they are; a link that leads nowhere is an error.
site: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The source archive and the wheel made from it, in dist/; then the wheel is installed elsewhere and run.
package: $(VENV)/.installed-build
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*
	.ci/smoke dist/*.whl

# What camseg/studies/samples.py makes, for sample_data/.
samples: $(VENV)/.installed
	$(BIN)/python -c "from camseg.studies.demo import write_samples; write_samples('sample_data')"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# One of the extras in pyproject.toml: test, lint, build, docs.
$(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) demo site dist .pytest_cache .mypy_cache .ruff_cache build *.egg-info
