# The environment is made on first use and reused; `make clean` removes it and what it built.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch, oneDNN and MKL compute as on the oldest processors they serve, so that no figure belongs to a newer one.
OLDEST_CPU := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE

.PHONY: help demo test check format bench clean
.DEFAULT_GOAL := help

help: ## show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: $(VENV)/run ## train CIM and the baselines on digits over nuisance backgrounds, and compare them
	$(BIN)/cim-dg demo

test: $(VENV)/test ## all tests, slow ones included; harness tests where DOMAINBED_ROOT and WILDS_ROOT are set
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
	OMP_NUM_THREADS=1 $(OLDEST_CPU) $(BIN)/python -m pytest -n 2 --dist worksteal -m 'figures and not slow'

check: $(VENV)/test ## formatter, linter, and the type checker on the package as it is installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build/lib && $(BIN)/python setup.py -q build_py --build-lib build/lib
	MYPYPATH=build/lib $(BIN)/mypy -p cim_dg

format: $(VENV)/test ## put the code into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/test ## every benchmark, as ratios against a peer in the same run
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info

# pip, and not uv: where torch's wheels lie on the local disk, only pip finds them.
$(VENV)/run: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test: $(VENV)/run
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
