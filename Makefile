# Needs Python 3.11+ and make; every target sets up .venv by itself.
#
#   make demo        fuse the scene that ships; the report is out/demo_report.html
#   make test        the test suite (real scenes: HSI_FUSE_DATA=folder)
#   make check       ruff and mypy
#   make docs        the documentation, in out/docs (warnings are errors)
#   make benchmark   quality on simulated pairs, under 20 minutes (BENCHMARK="options of benchmarks.fusion")
#   make benchmark-full   every protocol, three seeds: two to three hours
#   make benchmark-batch   thirty small scenes, killed twenty times (BENCHMARK="options of benchmarks.batch")
#   make benchmark-scale   time, memory and seams on large scenes (BENCHMARK="options of benchmarks.scale")
#   make benchmark-sabotage   is the verdict right: good and spoilt runs, about 10 minutes
#   make benchmark-report   what the report costs in a run, and for products of growing size
#   make benchmark-refinement   uafl and ssc over coupled on misregistered pairs (BENCHMARK="options of benchmarks.refinement")
#   make benchmark-spectra   fused spectra against field spectra, abundances against references
#   make benchmark-draft   what `draft` costs over interpolating and writing
#   make gpu-check   time, memory and agreement of the presets on the processor and the GPU, 512 x 512 pixels
#   make benchmark-fresco   partial overlap: both products within and outside of it (BENCHMARK="options of benchmarks.fresco")
#   make benchmark-registration   error on displaced pairs (BENCHMARK="options of benchmarks.registration")
#   make benchmark-wrong-guides   references of other places: is each refused, and no right one?
#
# A smaller download, for machines without a GPU:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON    ?= python3
VENV      ?= .venv
PIP_FLAGS ?=
BENCHMARK ?=
BIN       := $(VENV)/bin
READY     := $(VENV)/.ready
SCENE     := sample_scenes/village

.PHONY: help demo test check docs benchmark benchmark-scale benchmark-sabotage benchmark-report benchmark-full benchmark-batch benchmark-refinement benchmark-fresco benchmark-registration benchmark-spectra benchmark-draft benchmark-wrong-guides gpu-check clean

help:
	@sed -n 's/^#   //p' Makefile

# torch first: resolved alone it is the pinned build, and nothing that depends on it can choose another
$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed (make PYTHON=python3.11 ...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	@mkdir -p out
	$(BIN)/hsi-fuse run $(SCENE)/hsi.hdr $(SCENE)/guide.tif -o out/demo.tif --overwrite
	@echo "The product: out/demo.tif; its report: $(CURDIR)/out/demo_report.html"

# one thread a worker: two workers that both want all cores only wait for each other
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_FLAGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q docs out/docs
	@echo "$(CURDIR)/out/docs/index.html"

benchmark: $(READY)
	$(BIN)/python -m benchmarks.fusion --suite subset -o out/benchmark $(BENCHMARK)

benchmark-full: $(READY)
	$(BIN)/python -m benchmarks.fusion --suite full -o out/benchmark-full $(BENCHMARK)

benchmark-batch: $(READY)
	$(BIN)/python -m benchmarks.batch $(BENCHMARK)

benchmark-scale: $(READY)
	$(BIN)/python -m benchmarks.scale $(BENCHMARK)
	$(BIN)/python -m benchmarks.race

benchmark-sabotage: $(READY)
	$(BIN)/python -m benchmarks.sabotage $(BENCHMARK)

benchmark-report: $(READY)
	$(BIN)/python -m benchmarks.report_cost share $(BENCHMARK)
	$(BIN)/python -m benchmarks.report_cost product $(BENCHMARK)

benchmark-refinement: $(READY)
	$(BIN)/python -m benchmarks.refinement $(BENCHMARK)

benchmark-spectra: $(READY)
	$(BIN)/python -m benchmarks.spectra
	$(BIN)/python -m benchmarks.unmixing

benchmark-draft: $(READY)
	$(BIN)/python -m benchmarks.draft_time $(BENCHMARK)

benchmark-fresco: $(READY)
	$(BIN)/python -m benchmarks.fresco $(BENCHMARK)

benchmark-registration: $(READY)
	$(BIN)/python -m benchmarks.registration $(BENCHMARK)

gpu-check: $(READY)
	$(BIN)/python -m benchmarks.devices $(BENCHMARK)

benchmark-wrong-guides: $(READY)
	$(BIN)/python -m benchmarks.wrong_guides $(BENCHMARK)

clean:
	rm -rf $(VENV) out
