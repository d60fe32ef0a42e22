# The environment is created on first use and reused; `make clean` removes it and the build files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch, oneDNN and MKL compute as on the oldest supported processors, so that no figure depends on a newer one.
OLDEST_CPU := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE

.PHONY: help demo test test-lowest check chaos docs gallery format schemas bench bench-gpu clean
.DEFAULT_GOAL := help

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/run ## train CIM and the baselines on digits over nuisance backgrounds, and compare them
	$(BIN)/cim-dg demo

test: $(VENV)/test ## all tests, slow ones included; harness tests if DOMAINBED_ROOT and WILDS_ROOT are set
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
	OMP_NUM_THREADS=1 $(OLDEST_CPU) $(BIN)/python -m pytest -n 2 --dist worksteal -m 'figures and not slow'

test-lowest: ## the everyday tests with the lowest versions in pyproject.toml (except torch), in another environment
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/helpers/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt --editable '.[test]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow'

check: $(VENV)/test ## the pre-commit hooks (lint, format), the types, the layers, and the sdist and wheel
	$(BIN)/pre-commit run --all-files
	rm -rf build/lib && $(BIN)/python setup.py -q build_py --build-lib build/lib
	$(BIN)/mypy -p cim_dg
	$(BIN)/mypy tests benchmarks
	PYTHONPATH=build/lib $(BIN)/lint-imports --no-cache
	rm -rf build/dist && $(BIN)/python -m build --outdir build/dist > build/dist.log || { cat build/dist.log; exit 1; }
	$(BIN)/twine check --strict build/dist/*

chaos: $(VENV)/test ## kill 100 processes of sweeps, give 2,000 bad inputs, and count what is lost; the real DomainBed where DOMAINBED_ROOT is set
	OMP_NUM_THREADS=1 $(BIN)/python tests/helpers/chaos.py --kills 100 --inputs 2000

docs: $(VENV)/docs ## build the documentation site in build/docs; a broken link or a missing docstring is an error
	rm -rf build/docs docs/generated
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going docs build/docs
	$(BIN)/python docs/check_links.py build/docs
	@echo "build/docs/index.html"

gallery: $(VENV)/run ## run the demo and put its pictures and its report into docs/gallery
	$(BIN)/python docs/gallery.py

format: $(VENV)/test ## put the code into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: $(VENV)/run ## write the JSON schemas of the YAML files
	$(BIN)/python docs/schemas.py

bench: $(VENV)/test ## all benchmarks, as ratios to a baseline in the same run
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

bench-gpu: $(VENV)/test ## measures on a GPU, in less than 8 minutes, and prints Markdown tables; exit code 2 without a GPU
	@$(BIN)/python -m benchmarks.gpu

clean: ## remove the environments and all build files
	rm -rf $(VENV) .venv-lowest build dist *.egg-info

# pip, not uv: only pip finds torch's wheels on the local disk.
$(VENV)/run: setup.py pyproject.toml startup/build_backend.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test: $(VENV)/run
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/docs: $(VENV)/run
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
