# Every target sets up what it needs, so any of them can be the first command in a fresh checkout.

PYTHON ?= python3
EXTRAS ?= dev
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
comma := ,
# One stamp for each choice of extras, so that asking for more installs more.
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

DEMO := demo_out
SANITIZED := build/sanitized

.DEFAULT_GOAL := help
.PHONY: help setup demo ext test test-sanitize test-gpu lint format

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s%s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=$(PYTHON) makes the environment in $(VENV); it has to be Python 3.11, 3.12 or 3.13."

setup: $(STAMP)  ## make the environment, .venv, and nothing else

demo: $(STAMP)  ## cluster 700 annotated blood cells and compare with the annotation
	@mkdir -p $(DEMO)
	@$(BIN)/python -c 'import importlib.util, pathlib, shutil; \
	  scanpy = pathlib.Path(importlib.util.find_spec("scanpy").origin).parent; \
	  shutil.copyfile(scanpy / "datasets/10x_pbmc68k_reduced.h5ad", "$(DEMO)/cells.h5ad")'
	$(BIN)/sccagn-scale cluster $(DEMO)/cells.h5ad --layer raw -o $(DEMO)/clustered.h5ad \
	  --json $(DEMO)/run.json --plots $(DEMO)/plots
	@echo
	$(BIN)/sccagn-scale evaluate $(DEMO)/clustered.h5ad --truth bulk_labels \
	  --json $(DEMO)/metrics.json --plots $(DEMO)/plots

ext: $(STAMP)  ## compile and install the faster operators of cpp_ext (a C++ compiler is needed; CUDA where there is nvcc)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt 'setuptools>=77'
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --force-reinstall --no-deps ./cpp_ext

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS)

# Python itself is not built for the sanitizer, so that has to be loaded before it, and what Python leaves behind is no leak.
# A test asks for more memory than there is, which the sanitizer is not to stop at.
test-sanitize: $(STAMP)  ## run the operators' tests with the extension under address and undefined-behaviour sanitizers
	rm -rf $(SANITIZED)
	SCCAGN_SANITIZE=1 SCCAGN_CUDA=0 $(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation \
	  --no-deps --no-index --target $(SANITIZED) ./cpp_ext
	for isa in avx512 avx2 baseline; do \
	  LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH=$(SANITIZED) SCCAGN_ISA=$$isa \
	  $(BIN)/python -m pytest -q -s -p no:xdist tests/ops || exit 1; \
	done

test-gpu: $(STAMP)  ## on a machine with a GPU: compile the operators for it, test them there and time them
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch finds no GPU here")'
	SCCAGN_CUDA=1 $(MAKE) ext
	$(BIN)/python -m pytest tests/ops tests/ext
	$(BIN)/python -m benchmarks kernels --device cuda

lint: $(STAMP)  ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## put files into the common format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stamp comes last: an installation that was interrupted is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "There is no $(PYTHON); name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@
