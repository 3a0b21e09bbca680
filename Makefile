# On a machine with Python 3.11 and a package registry:
#   make demo    try it            make test         all tests
#   make check   lint and types    make test-fast    the tests that start no Ray
#                                  make test-interop readers that others wrote, in .venv-interop
#                                  make torture      rounds of faults, for hours: ROUNDS=10 SEED=1
PYTHON ?= python3.11
# Test processes; each starts a Ray cluster of its own, of about 1 GB. Three keep two cores busy, because a run
# waits half of its time: for Ray to start a worker, or for a quota.
PROCESSES ?= 3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast test-interop torture check bench s3 lock clean

# Where this is set, each process compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# uv is itself pinned; it installs what requirements.lock names, and nothing else. It compiles nothing: that took 90 CPU
# seconds, and the first imports of all that the tests import, a third of the modules, take 22 more without it.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: $(VENV)/.installed out/demo/scenes
	$(BIN)/shopframe annotate --config conf/demo.yaml
	$(BIN)/shopframe evaluate --config conf/demo.yaml --truth out/demo/scenes/truth.parquet
	$(BIN)/shopframe report --config conf/demo.yaml
	@echo "The frames are drawn, so the truth is known: the tables above compare. Look at"
	@echo "  out/demo/annotated/previews/      pictures with boxes and labels"
	@echo "  out/demo/annotated/json/          one document per person"
	@echo "  out/demo/annotated/consolidated/  Parquet and Delta Lake, one row per person"
	@echo "  out/demo/annotated/consolidated_frames/  likewise, one row per frame"
	@echo "  out/demo/annotated/evaluation/    plots of the comparison"
	@echo "and, above all, open this in a browser, which shows all of it:"
	@echo "  out/demo/annotated/report.html"

# Drawn aside and renamed, so that the folder is whole wherever it is. No model was trained on this seed.
out/demo/scenes: | $(VENV)/.installed
	mkdir -p $(@D)
	$(BIN)/python -m demo.scenes --output $@.making --frames 80 --frames-per-shard 10 --seed 7
	mv $@.making $@

# A module's tests stay together, since they share runs. tests/conftest.py puts the longest modules first.
IN_PARALLEL := -n $(PROCESSES) --dist loadscope --no-loadscope-reorder

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not ray and not slow"

# The readers don't fit into the project's environment. annomate-mcp has the page of VIA; nothing else of it is used.
INTEROP := .venv-interop
$(INTEROP)/.installed: tests/interop/requirements.txt | $(VENV)/.installed
	$(PYTHON) -m venv $(INTEROP)
	$(BIN)/uv pip sync --quiet --python $(INTEROP)/bin/python tests/interop/requirements.txt
	$(BIN)/uv pip install --quiet --python $(INTEROP)/bin/python --no-deps annomate-mcp==0.1.0
	touch $@

PYTEST_INTEROP := PYTHONPATH=. $(INTEROP)/bin/python -m pytest -c tests/interop/pytest.ini --rootdir . \
	--confcutdir tests/interop tests/interop
test-interop: $(INTEROP)/.installed
	$(PYTEST_INTEROP)

# Rounds of faults, each with another seed; a short round is part of `make test`. A part that fails doesn't stop the
# next ones, and make fails at the end.
ROUNDS ?= 10
SEED ?= 1
torture: $(VENV)/.installed $(INTEROP)/.installed
	trap 'exit 130' INT; export FAULT_ROUNDS=$(ROUNDS) FAULT_SEED=$(SEED); failed=0; \
	$(BIN)/python -m pytest -s -m long --ignore tests/faults || failed=1; \
	$(BIN)/python -m pytest -s tests/faults || failed=1; \
	$(BIN)/python -m pytest --hypothesis-seed=$(SEED) tests/corpus/test_properties.py || failed=1; \
	$(PYTEST_INTEROP) || failed=1; \
	exit $$failed

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# With BENCH="detect overhead" some of them; with BENCH=--quick only to see that all run.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks $(BENCH)

# A SeaweedFS server on this machine, with credentials, until Ctrl-C.
s3: $(VENV)/.installed
	$(BIN)/python -m tests.servers.seaweedfs

lock: $(VENV)/.installed
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra int8 --universal --generate-hashes --quiet -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra cluster --extra int8 --constraints requirements.lock \
		--python-version 3.11 --python-platform linux --generate-hashes --quiet -o requirements-cluster.lock
	$(BIN)/uv pip compile tests/interop/requirements.in --python-version 3.11 --universal --generate-hashes --quiet \
		-o tests/interop/requirements.txt

clean:
	rm -rf $(VENV) $(INTEROP) out .pytest_cache .mypy_cache .ruff_cache
