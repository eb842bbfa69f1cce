# make demo sets everything up and distils a dataset; make test sets everything up and runs the tests; make docs builds
# the documentation. DEVICE=gpu is for a machine with NVIDIA GPUs.
PYTHON ?= python3.11
DEVICE ?= cpu
VENV   ?= .venv
DEMO   ?= demo
BIN    := $(VENV)/bin
RUN    := $(BIN)/python -m kailin_ray

SHARD  := assets/pubmed20n0014.xml.gz
DEMO_GPU := $(if $(filter gpu,$(DEVICE)),cluster=gpu,)

.PHONY: setup assets demo test test-all check docs bench clean

# Does nothing while what was installed is up to date.
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

# Two processes: one has the Ray session and the engines. `test` leaves out tests that take minutes and resemble another
# one; `test-all` runs them too. See CONTRIBUTING.md.
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

# The documentation as a site: build/site/index.html. A broken link is an error. MkDocs has an environment of its own.
docs: $(VENV)-docs/bin/mkdocs
	rm -rf build/docs
	mkdir -p build/docs/benchmarks
	cp -r README.md CONTRIBUTING.md CHANGELOG.md AGENTS.md docs build/docs
	cp -r benchmarks/results build/docs/benchmarks
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --quiet --strict

$(VENV)-docs/bin/mkdocs: requirements/docs.lock requirements/install.sh
	$(PYTHON) -m venv --clear $(VENV)-docs
	requirements/install.sh $(VENV)-docs/bin/python docs
	touch $@

bench: demo
	$(BIN)/python benchmarks/speed/throughput.py --demo $(DEMO)

clean:
	rm -rf $(DEMO) $(VENV)-docs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
