# make env    the environment alone, in .venv
# make demo   the main job on drawn pictures, from nothing, offline
# make test   the tests
# make test-short   some of the tests, two cases of each, in an environment of its own; PYTHON=python3.13 for another Python
# make lint   formatters and linters, of code and of prose
# make docs   the documentation, as a site in build/docs
# make bench  the benchmarks, on the demo; BENCH="--pictures-dir DIR ..." for others (python benchmarks/bench.py --help)
# make torture   tests in their long form: a thousand kills in place of some forty, ten thousand faults, forty networks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CORES ?= 2
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: env demo test test-short run-short docs bench torture lint lock conda-env clean

# torchvision's wheel asks for the torch that was there first: the CPU build on machines without CUDA.
$(READY): requirements.lock setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the packages of requirements.lock into $(VENV): 2 GB, a few minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)

env: $(READY)

demo: $(READY)
	pipeline data fetch demo
	snakemake --cores $(CORES) results/demo_map.json
	snakemake --cores $(CORES) results/demo_heads.json --config 'baselines=["random"]'
	@pipeline show results/demo_heads.json results/demo_map.json

# Four at a time for two cores, since tests wait for processes that they start; one thread each, since more would wait
# for one another.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(TEST)

SHORT := $(addprefix tests/,golden metrics io dataset patches activations head scoring stages recipes/test_catalogue.py)

# What measures memory, or trains for long, says nothing more of another Python.
LEFT_OUT := $(addprefix tests/head/,test_fit_memory.py test_fit_rows.py) tests/stages/test_pretrain.py

test-short:
	$(MAKE) env VENV=build/short
	$(MAKE) run-short VENV=build/short

run-short:
	PIPELINE_SHORT=1 $(TEST) $(SHORT) $(addprefix --ignore=,$(LEFT_OUT))

# What else has a long form.
LONG := $(shell grep -rlE --include 'test_*.py' 'TORTURE|mark\.long' tests | grep -v ^tests/fault)

docs: $(READY)
	sphinx-build -W -q -b html docs build/docs
	@echo build/docs/index.html

bench: demo
	python benchmarks/bench.py $(BENCH)

torture: $(READY)
	PIPELINE_TORTURE=1 python -m pytest tests/fault $(LONG) --timeout=0 -s

lint: $(READY)
	ruff check pipeline tests benchmarks tools
	ruff format --check pipeline tests benchmarks tools
	snakefmt --check Snakefile stages
	snakemake --lint
	lint-imports
	mypy
	python tools/check_prose.py
	sphinx-build -W -q -b html docs build/docs

# Pins from the floors of setup.cfg, in an environment of its own. torch and torchvision first: newer ones
# would bring gigabytes of CUDA to machines without it.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet torch==2.13.0
	build/lock/bin/pip install --quiet torchvision==0.28.0
	build/lock/bin/pip install --quiet --editable '.[test]'
	echo "# Exact pins of everything that the project and its tests run on; made by: make lock" > requirements.lock
	echo "# No hashes: torch's CPU and CUDA builds of one version have different ones." >> requirements.lock
	build/lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' >> requirements.lock

# Snakemake copies the file elsewhere, so it cannot point to requirements.lock.
conda-env: requirements.lock
	sed -n '1,/- pip:/p' envs/pipeline.yaml > envs/pipeline.yaml.partial
	grep -v '^#' requirements.lock | sed 's/^/      - /' >> envs/pipeline.yaml.partial
	mv envs/pipeline.yaml.partial envs/pipeline.yaml

clean:
	rm -rf cache results logs build .snakemake
