# Flower's commands. Everything is installed into $(VENV), inside the checkout; nothing by hand.
#   PYTHON=...  which Python to use when $(VENV) is made (a command, a path, or a version such as 3.12)
#   ARGS=...    passed on to pytest (test, test-pure, test-all) or to the benchmarks (bench)

VENV ?= .venv
PYTHON ?=
ARGS ?=

PY := $(VENV)/bin/python
VERSIONS := 3.11 3.12 3.13
# A module with a .pxd beside it is compiled.
PXD := $(shell find flower -name '*.pxd')
CORE := $(PXD) $(wildcard $(PXD:.pxd=.py))

.DEFAULT_GOAL := help
.PHONY: help build demo test test-pure test-all check format lint types layering docs bench mutants promises clean distclean

help:
	@echo "make demo       set up, build, and run the demonstration"
	@echo "make test       set up, build, and run all tests"
	@echo "make check      format, lint, types, layering, docs, tests compiled and uncompiled"
	@echo "make test-pure  the tests on the uncompiled sources"
	@echo "make test-all   the tests on each of Python $(VERSIONS) that is here"
	@echo "make format     rewrite the sources in the project's format"
	@echo "make docs       build the documentation into build/docs"
	@echo "make bench      run the benchmarks"
	@echo "make mutants    plant faults in the core, and see that the explored tests find them"
	@echo "make promises   measure what the testing kit promises"
	@echo "make build      set up and compile, no more"
	@echo "make clean      remove what was built; make distclean: and the environments"

# ---------------------------------------------------------------- set-up and build

$(PY):
	@python=$$(sh tools/python.sh $(PYTHON)) && echo "setting up $(VENV) with $$python" && \
	    "$$python" -m venv --clear $(VENV)

# The checkout itself is put on the path by a .pth file: pip's editable install would compile everything once more.
$(VENV)/.installed: setup.cfg pyproject.toml tools/requirements.py | $(PY)
	@$(PY) tools/requirements.py dev > $(VENV)/requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	@$(PY) -c "import os, sysconfig; open(sysconfig.get_path('purelib') + '/flower-checkout.pth', 'w').write(os.getcwd())"
	@touch $@

$(VENV)/.built: $(VENV)/.installed setup.py $(CORE)
	$(PY) setup.py --quiet egg_info build_ext --inplace
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	@$(PY) tools/requirements.py docs > $(VENV)/requirements-docs.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements-docs.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	@$(PY) tools/requirements.py bench > $(VENV)/requirements-bench.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements-bench.txt
	@touch $@

build: $(VENV)/.built

# ---------------------------------------------------------------- running

demo: build
	$(PY) examples/demo.py

bench: build $(VENV)/.bench
	$(PY) -m benchmarks $(ARGS)

# ---------------------------------------------------------------- checking

test: build
	$(PY) -m pytest $(ARGS)

# The packaging tests build a wheel of their own, the same in both modes.
test-pure: $(VENV)/.installed
	FLOWER_PURE=1 $(PY) -m pytest --ignore=tests/test_packaging.py -m "not compiled" $(ARGS)

test-all:
	@set -e; for version in $(VERSIONS); do \
	    if sh tools/python.sh $$version >/dev/null; then \
	        echo "== Python $$version"; \
	        $(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON=$$version; \
	    else \
	        echo "== Python $$version is not here: skipped"; \
	    fi; \
	done

lint: $(VENV)/.installed
	$(PY) -m ruff format --check --quiet . || { $(PY) -m ruff format --diff . ; exit 1; }
	$(PY) -m ruff check .

types: $(VENV)/.installed
	$(PY) -m mypy

layering: $(VENV)/.installed
	$(PY) -m pytest -q tests/test_layering.py tests/test_public_names.py

docs: $(VENV)/.docs
	FLOWER_PURE=1 $(PY) -m sphinx -E -W --keep-going -q -b html docs build/docs

# One after the other, the cheap ones first.
check:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory layering
	@$(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory test-pure
	@$(MAKE) --no-print-directory test

format: $(VENV)/.installed
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

# Faults planted in a copy of the core, one at a time: do the explored tests find them? Some minutes.
mutants: $(VENV)/.installed
	$(PY) tools/mutants.py $(ARGS)

# What the testing kit promises of its examples: found soon, shrunk to little, no false alarm. Some minutes.
promises: build
	$(PY) tools/promises.py $(ARGS)

# ---------------------------------------------------------------- tidying

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f $(VENV)/.built
	find flower \( -name '*.so' -o -name '*.c' -o -name '__pycache__' \) -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-*
