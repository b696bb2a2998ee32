# Each target sets up what it needs on a fresh Debian or Ubuntu machine; see launch/setup.sh.
VENV ?= .venv
WORKDIR ?= runs/demo
# The oracle of the tests. On a machine without the CPU build at hand, point TORCH at one to spare a large download.
TORCH ?= torch==2.13.0
PYTHON_IN_VENV = $(VENV)/bin/python
# Tests of a file share what is dear to make, so they stay together.
ON_TWO_CORES = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-deep check setup-demo setup-test setup-deep
demo: setup-demo
	$(PYTHON_IN_VENV) -m skillrl.main --config=configs/tiny.py --workdir=$(WORKDIR)

test: setup-test
	$(PYTHON_IN_VENV) -m pytest $(ON_TWO_CORES)

# What needs the TPU compiler, a container engine or minutes: every shipped config compiled for its slice without any
# TPU, and the docker backend on an engine of the tests' own.
test-deep: setup-deep
	$(PYTHON_IN_VENV) -m pytest -m deep $(ON_TWO_CORES)

check: setup-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

setup-demo:
	@launch/setup.sh $(VENV) cpu

setup-test:
	@launch/setup.sh $(VENV) cpu,hf,dev $(TORCH)

setup-deep:
	@launch/setup.sh $(VENV) cpu,hf,dev,suites,compile,docker,manifests $(TORCH)
