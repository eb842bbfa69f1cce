# make demo: from nothing to a dataset. make test: from nothing to the tests. DEVICE=gpu for a machine with NVIDIA GPUs.
PYTHON ?= python3.11
DEVICE ?= cpu
VENV   ?= .venv
DEMO   ?= demo
BIN    := $(VENV)/bin
RUN    := $(BIN)/python -m kailin_ray

SHARD  := assets/pubmed20n0014.xml.gz
DEMO_GPU := $(if $(filter gpu,$(DEVICE)),cluster=gpu,)

.PHONY: setup assets demo test test-all check bench clean

# The stamp holds the checksums of what was installed: nothing to do while they are the same.
setup:
	@requirements/setup.sh $(PYTHON) $(VENV) $(DEVICE)

assets: setup
	$(RUN) fetch

demo: assets
	$(RUN) ingest source.path=$(SHARD) out=$(DEMO)/corpus
	$(RUN) select corpus=$(DEMO)/corpus out=$(DEMO)/documents filters.require_mesh=true
	$(RUN) index documents=$(DEMO)/documents out=$(DEMO)/index limit=500
	$(RUN) distill documents=$(DEMO)/documents index=$(DEMO)/index mesh=assets/mesh.tsv out=$(DEMO)/run limit=48 retrieval=brief $(DEMO_GPU)
	@test -d $(DEMO)/dataset || $(RUN) publish run=$(DEMO)/run out=$(DEMO)/dataset
	@$(RUN) report run=$(DEMO)/run examples=3 summary=false
	@echo
	@echo "The dataset: $(DEMO)/dataset   (open $(DEMO)/dataset/README.md, or: datasets.load_dataset('$(DEMO)/dataset', 'sft'))"

# Of several tests that take minutes each, one of a kind; test-all: all of them. In two processes: one has the Ray session
# and the engines. See CONTRIBUTING.md.
TESTS := $(BIN)/python -m pytest --numprocesses=2

test: assets
	$(TESTS) -m "not slow"

test-all: assets
	$(TESTS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: demo
	$(BIN)/python benchmarks/speed/throughput.py

clean:
	rm -rf $(DEMO) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
