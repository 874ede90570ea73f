# `make demo` and `make test` do all the set-up on a fresh machine with python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check slow evidence peers tools clean

demo: $(VENV)/demo.done
	$(BIN)/chunkinfer demo demo-output

# A process per core, which takes over what another has not come to. Of a folder, nearly all tests run in one process,
# and so the services and clusters that they share start once.
test: check
	$(BIN)/pytest -m "not slow or smoke" -n logical --maxprocesses 4 --dist worksteal

check: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Sweeps, killed processes and large volumes.
slow: $(VENV)/dev.done
	$(BIN)/pytest -m slow

# The tables in benchmarks/, made anew.
evidence: slow
	$(BIN)/python benchmarks/graph.py | tee benchmarks/graph.md
	$(BIN)/python benchmarks/memory.py | tee benchmarks/memory.md
	$(BIN)/python benchmarks/speed.py | tee benchmarks/speed.md
	$(BIN)/python benchmarks/tracing.py | tee benchmarks/tracing.md
	$(BIN)/python benchmarks/nist.py | tee benchmarks/nist.md
	$(BIN)/python benchmarks/znni.py | tee benchmarks/znni.md
	$(BIN)/python benchmarks/overlap.py | tee benchmarks/overlap.md
	$(BIN)/python benchmarks/exact.py | tee benchmarks/exact.md
	$(BIN)/python benchmarks/lengths.py | tee benchmarks/lengths.md
	$(BIN)/python benchmarks/pieces.py | tee benchmarks/pieces.md
	$(BIN)/python benchmarks/overhead.py | tee benchmarks/overhead.md
	$(BIN)/python benchmarks/start.py | tee benchmarks/start.md
	$(BIN)/python benchmarks/augmentation.py | tee benchmarks/augmentation.md
	$(BIN)/python benchmarks/scheduler.py | tee benchmarks/scheduler.md
	$(BIN)/python benchmarks/scheduler.py --simulate 10000000 | tee -a benchmarks/scheduler.md
	$(BIN)/python -W ignore benchmarks/identity.py | tee benchmarks/identity.md
	$(BIN)/python benchmarks/ways.py | tee benchmarks/ways.md
	$(BIN)/python benchmarks/ledger.py | tee benchmarks/ledger.md
	$(BIN)/python benchmarks/chaos.py | tee benchmarks/chaos.md
	$(BIN)/python benchmarks/chaos.py --store s3 | tee -a benchmarks/chaos.md
	$(BIN)/python benchmarks/torn.py | tee benchmarks/torn.md
	$(BIN)/python benchmarks/fuzz_stores.py | tee benchmarks/fuzz_stores.md
	$(BIN)/python benchmarks/fuzz_files.py --draws 1000 | tee benchmarks/fuzz_files.md
	$(BIN)/python benchmarks/hybrid.py | tee benchmarks/hybrid.md
	$(BIN)/python benchmarks/chain.py | tee benchmarks/chain.md
	$(BIN)/python benchmarks/reduce.py | tee benchmarks/reduce.md
	$(BIN)/python benchmarks/gpu.py

# Beside MONAI, nnU-Net, torch-em, a recipe in plain dask and chunkflow; PEERS says which Python has which of them.
peers: $(VENV)/dev.done
	$(BIN)/python benchmarks/peers.py $(PEERS) --plot docs/peers.png | tee benchmarks/peers.md

# Beside the tools that read and write the same stores, or cut the same affinities; TOOLS is the Python that has them:
# benchmarks/pyramid.py, ingest.py, interoperability.py, objects.py and meshes.py say how it is made.
TOOLS ?= tools/bin/python
tools: $(VENV)/dev.done
	$(BIN)/python benchmarks/interoperability.py --python $(TOOLS) | tee benchmarks/interoperability.md
	$(TOOLS) -W ignore benchmarks/pyramid.py | tee benchmarks/pyramid.md
	$(TOOLS) -W ignore benchmarks/ingest.py | tee benchmarks/ingest.md
	$(BIN)/python benchmarks/segmentation.py --python $(TOOLS) | tee benchmarks/segmentation.md
	$(BIN)/python benchmarks/objects.py --python $(TOOLS) | tee benchmarks/objects.md
	$(TOOLS) benchmarks/meshes.py | tee benchmarks/meshes.md

$(VENV)/demo.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo-output
