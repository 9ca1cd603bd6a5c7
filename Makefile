# What a newcomer types. The machine needs make and Python 3.11-3.13, nothing else: every target sets
# up .venv first, and again when pyproject.toml, constraints.txt or the Python changed, when the
# checkout was moved, or when the last set-up was interrupted.

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:

# Given by the user or not: only a Python that was not chosen by hand is looked for under more names.
ifneq ($(filter environment command override,$(firstword $(origin PYTHON))),)
PYTHONS := "$(PYTHON)"
PYTHON_CHOSEN := yes
else
PYTHON := python3
PYTHONS := python3 python3.13 python3.12 python3.11
PYTHON_CHOSEN :=
endif

PIP_ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 2
REPORT ?= demo-report

# The caller's Python and pip settings must not leak into .venv (but gpu-check takes Python as it is).
ifneq ($(MAKECMDGOALS),gpu-check)
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONSTARTUP PYTHONWARNINGS
unexport PIP_PREFIX PIP_TARGET PIP_USER __PYVENV_LAUNCHER__
endif

# The tools' caches are in .venv, too: a clean checkout stays clean.
export HYPOTHESIS_STORAGE_DIRECTORY := .venv/cache/hypothesis
export MYPY_CACHE_DIR := .venv/cache/mypy
export RUFF_CACHE_DIR := .venv/cache/ruff

.PHONY: help
help: ## this list
	@echo 'usage: make TARGET [PYTHON=python3.12] [PIP_ARGS=...] [PYTEST_ARGS=...] [JOBS=2]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'Without a GPU the CPU build of torch is enough, and much smaller. Where its packages are'
	@echo 'is told by the installation page of PyTorch; hand the index on with'
	@echo "  make demo PIP_ARGS='--extra-index-url ...'"

# --- the environment ----------------------------------------------------------------------------

.PHONY: env
env: .venv/.installed ## set up .venv, with everything that the other targets need

# Fails for an unsuitable Python; else prints where it is (for that of an environment: of its base,
# because the environment may be the one that is about to be removed).
CHECK_PYTHON := import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit(1); print(sys._base_executable)

# The bare environment, and a record of the Python and the folder that it was made with. The record
# is written last: without it the next run starts afresh. `.installing` is there while pip works.
.venv/.origin: FORCE
	@test ! -e .venv/.installing || { echo 'make: the last set-up was interrupted'; rm -rf .venv; }; \
	if [ -z "$(PYTHON_CHOSEN)" ] && [ "$$(sed -n 3p $@ 2>/dev/null)" = "$$(pwd -P)" ] \
	    && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi; \
	python=; \
	for name in $(PYTHONS); do \
	    python=$$("$$name" -c '$(CHECK_PYTHON)' 2>/dev/null) && break; \
	done; \
	if [ -z "$$python" ]; then \
	    for name in $(PYTHONS); do echo "make: $$name: $$("$$name" -V 2>&1 | tail -n 1)"; done >&2; \
	    echo 'make: Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=/path/to/python3.12' >&2; \
	    exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "make: $$python can not make environments (it has no ensurepip): install its venv" >&2; \
	    echo '      package (Debian, Ubuntu: apt-get install python3-venv), or name another Python' >&2; \
	    exit 1; \
	fi; \
	origin="$$("$$python" -c 'import sys; print(sys.version.split()[0]); print(sys.prefix)'; pwd -P)"; \
	if [ "$$origin" != "$$(cat $@ 2>/dev/null)" ] || ! .venv/bin/python -c '' 2>/dev/null; then \
	    echo "make: setting up .venv with $$python ($$(echo "$$origin" | head -n 1))"; \
	    rm -rf .venv && "$$python" -m venv .venv || exit 1; \
	    printf '%s\n' "$$origin" > $@; \
	fi

# One pip run, all versions from constraints.txt. The pin of torch matters most: asked for just
# `torch`, pip takes the newest CUDA build, gigabytes of it, even where a CPU build is at hand.
.venv/.installed: .venv/.origin pyproject.toml constraints.txt
	@touch .venv/.installing
	.venv/bin/python -m pip install --disable-pip-version-check --no-input --no-user \
	    --constraint constraints.txt $(PIP_ARGS) --editable '.[dev]'
	@rm .venv/.installing && touch $@

.PHONY: FORCE
FORCE:

# --- for everybody ------------------------------------------------------------------------------

.PHONY: demo
demo: .venv/.installed ## compare independent ways of computing the same systems; writes $(REPORT)
	.venv/bin/alchemi-bridge parity --output '$(REPORT)'

.PHONY: doctor
doctor: .venv/.installed ## say what is installed here, which devices there are, and what works
	.venv/bin/alchemi-bridge doctor

.PHONY: gromacs
gromacs: .venv/.installed ## fetch a stock GROMACS into the cache (Debian's packages, no root), for decks and tests
	.venv/bin/python -m alchemi_bridge.engines.gromacs_packages

# Names the pinned torch, or pip may take another build for what nvalchemi needs.
.PHONY: nvalchemi
nvalchemi: .venv/.installed ## add nvalchemi to .venv (900 MB), for the tests of that engine, which are skipped without it
	.venv/bin/python -m pip install --disable-pip-version-check --no-input --no-user \
	    --constraint constraints.txt $(PIP_ARGS) torch --editable '.[nvalchemi]'

.PHONY: ray
ray: .venv/.installed ## add Ray to .venv (240 MB), for the tests of ensembles on it, which are skipped without it
	.venv/bin/python -m pip install --disable-pip-version-check --no-input --no-user \
	    --constraint constraints.txt $(PIP_ARGS) torch --editable '.[ray]'

# --- tests --------------------------------------------------------------------------------------

# one thread per worker: the systems are small, and the workers share the cores
test test-slow: export OMP_NUM_THREADS := 1
test test-slow: export MKL_NUM_THREADS := 1

.PHONY: test
test: .venv/.installed ## the fast tests (no GPU needed)
	.venv/bin/python -m pytest -o cache_dir=.venv/cache/pytest -m 'not slow and not gpu' -n $(JOBS) --timeout 300 $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: .venv/.installed ## the long tests (no GPU needed)
	.venv/bin/python -m pytest -o cache_dir=.venv/cache/pytest -m 'slow and not gpu' -n $(JOBS) --timeout 1800 $(PYTEST_ARGS)

CHECK_CUDA := import importlib.util, sys; \
	importlib.util.find_spec("torch") or sys.exit(f"make gpu-check: no torch in {sys.executable}"); \
	import torch; \
	torch.cuda.is_available() or sys.exit(f"make gpu-check: torch {torch.__version__} of {sys.executable} sees no CUDA device")

# Only these files are collected: others need test tools that a GPU machine may lack.
GPU_TESTS = $(shell grep -lE 'mark\.gpu|DEVICES' tests/test_*.py)

# Takes the Python as it is, with its torch: nothing is installed, no network is used. It needs the
# package's dependencies and pytest. Tests that fail do not keep the benchmark from running: what was
# measured goes to benchmarks/results/, named after the GPU.
.PHONY: gpu-check
gpu-check: ## tests and benchmark that need a CUDA device, with $(PYTHON) as it is: installs nothing
	@"$(PYTHON)" -c '$(CHECK_CUDA)'
	@status=0; \
	"$(PYTHON)" -m pytest -p no:cacheprovider -m gpu $(GPU_TESTS) $(PYTEST_ARGS) || status=$$?; \
	"$(PYTHON)" -m alchemi_bridge.cli.main bench --device cuda --record benchmarks/results || status=$$?; \
	exit $$status

# --- kernels ------------------------------------------------------------------------------------

.PHONY: kernels
kernels: .venv/.installed ## compile the kernels for GPUs (nvcc, NVRTC) and for the host; no GPU needed
	.venv/bin/python -m alchemi_bridge.native.gate

# --- style and structure ------------------------------------------------------------------------

.PHONY: lint check-ruff check-format check-types check-spelling check-imports
lint: check-ruff check-format check-types check-spelling check-imports ## all checks of style, types and structure

check-ruff: .venv/.installed
	.venv/bin/ruff check .

check-format: .venv/.installed
	.venv/bin/ruff format --check .

check-types: .venv/.installed
	.venv/bin/mypy

check-spelling: .venv/.installed
	.venv/bin/codespell

check-imports: .venv/.installed
	.venv/bin/lint-imports --cache-dir .venv/cache/import-linter

.PHONY: format
format: .venv/.installed ## put the code into the project's format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# --- packaging ----------------------------------------------------------------------------------

# In the folder of the installed wheel, which `-c` puts first: its sources are found, and no others.
CHECK_WHEEL := from pathlib import Path; from alchemi_bridge.engines import plugins; \
	from alchemi_bridge.native import sources; home = Path("alchemi_bridge").resolve(); \
	found = [sources.folder(), plugins.folder()]; \
	raise SystemExit(found != [home / "kernels", home / "plugins"] and f"make: wheel: found {found}")

.PHONY: wheel
wheel: .venv/.installed ## build dist/*.whl and check that it holds the whole package, kernels and plugins
	rm -rf dist
	.venv/bin/python -m pip wheel --disable-pip-version-check $(PIP_ARGS) --no-deps --wheel-dir dist .
	.venv/bin/python -m pip install --disable-pip-version-check --no-user --no-deps --no-compile --quiet \
	    --target dist/check dist/*.whl
	@mkdir dist/expected && cp -R alchemi_bridge dist/expected/ && cp -R kernels plugins dist/expected/alchemi_bridge/
	@diff -r -q -x '*.pyc' -x __pycache__ dist/expected/alchemi_bridge dist/check/alchemi_bridge \
	    || { echo 'make: not the same in package and wheel'; exit 1; }
	@cd dist/check && ../../.venv/bin/python -c '$(CHECK_WHEEL)'
	@rm -rf dist/check dist/expected

.PHONY: clean
clean: ## remove everything that the other targets made
	rm -rf .venv dist '$(REPORT)'
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
