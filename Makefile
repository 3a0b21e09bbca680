# Two commands do everything on a machine with Python 3.11 and a package registry:
#   make demo    try it            make test    all tests
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-needs test check bench s3 lock clean

# uv is itself pinned; it installs what requirements.lock names, and nothing else.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# What the demo needs and does not bring yet; see demo-needs.
DEMO_INPUT ?=
DETECTOR_WEIGHTS ?=
SMOLVLM_MODEL ?=

demo: $(VENV)/.installed demo-needs
	$(BIN)/shopframe annotate --config conf/demo.yaml --input "$(DEMO_INPUT)" \
	  --set detector.weights="$(DETECTOR_WEIGHTS)" --set smolvlm.model="$(SMOLVLM_MODEL)"
	@echo "look at: out/demo/previews (pictures), out/demo/json (one file a person), out/demo/consolidated (Parquet)"

demo-needs:
	@if [ -z "$(DEMO_INPUT)" ] || [ -z "$(DETECTOR_WEIGHTS)" ] || [ -z "$(SMOLVLM_MODEL)" ]; then \
	  echo "The demo brings no images and no models yet. Give all three:"; \
	  echo "  make demo DEMO_INPUT=FOLDER DETECTOR_WEIGHTS=FILE SMOLVLM_MODEL=FOLDER"; \
	  echo "DEMO_INPUT        photographs with people: a folder of JPEGs, a tar, a bucket prefix"; \
	  echo "DETECTOR_WEIGHTS  a YOLOv8 checkpoint, or yolov8n.pt to have ultralytics download it"; \
	  echo "SMOLVLM_MODEL     a SmolVLM folder, or HuggingFaceTB/SmolVLM2-256M-Video-Instruct from the hub"; \
	  exit 2; \
	fi

test: $(VENV)/.installed
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.detect
	$(BIN)/python -m benchmarks.vlm

# A SeaweedFS server on this machine, with credentials, until Ctrl-C.
s3: $(VENV)/.installed
	$(BIN)/python -m tests.servers.seaweedfs

lock: $(VENV)/.installed
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --quiet -o requirements.lock

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
