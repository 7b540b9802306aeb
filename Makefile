# Everything runs in a virtual environment of its own, .venv; `make setup` makes it once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Has onnxruntime-gpu, without onnxruntime beside it: docs/guide.md, "GPUs", says how.
GPU_PYTHON ?= python3

# For real use; see `make help`.
DEVICE  ?= cpu
NETWORK ?= resnet56
MODEL   ?= resnet56
DATA    ?= cifar10
METHOD  ?= thompson
SPEEDUP ?= 1.6
EPOCHS  ?= 40

# Of the demonstration of detectors; the anchors are what `pruner anchors --data shapes --image-size 96` finds.
SHAPES := --data shapes --image-size 96 --task detection --batch 8 --rate 0.02 \
  --anchors 9x10,13x11,14x15,17x17,20x19,22x24,28x27,35x37,49x48

.PHONY: help setup demo demo-detect test check fuzz oldest gpu-check kernels-check page-check format profile prune bench picture figures networks \
  docs notebooks clean

help: ## This list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12
	@echo
	@echo "make profile [DEVICE=cpu] [NETWORK=resnet56] [OUT=folder] [OPTIONS='--threads 2']"
	@echo "make prune WEIGHTS=file TABLE=folder OUT=folder [DATA_DIR=folder]"
	@echo "           [MODEL=resnet56] [DATA=cifar10] [SPEEDUP=1.6] [METHOD=thompson] [EPOCHS=40] [OPTIONS=…]"
	@echo "make bench [DATA_DIR=CIFAR-10 folder] [WEIGHTS_DIR=published ResNets] [TABLE=folder]"
	@echo "           [ANCHORS_DIR=published pruned architectures]"

setup: $(VENV)/.ready ## Make .venv and install everything into it

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make setup PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[cpu,pruner,share,dev]'
	@touch $@

demo: setup ## Profile this CPU for a small network, prune it to a latency budget, measure
	$(BIN)/latprof profile --network digits_resnet --budget 90s --out runs/demo/table
	$(BIN)/pruner train --model digits_resnet --data digits --epochs 20 --out runs/demo/dense.safetensors
	$(BIN)/pruner prune --model digits_resnet --weights runs/demo/dense.safetensors --data digits \
	  --table runs/demo/table --speedup 1.5 --episodes 60 --epochs 5 --out runs/demo/run

demo-detect: setup ## The same for a small detector, on pictures that are drawn here, by ABCP
	$(BIN)/latprof profile --network shapes_yolov3 --budget 60s --out runs/demo-detect/table
	$(BIN)/pruner train --model shapes_yolov3 $(SHAPES) --epochs 25 --out runs/demo-detect/dense.safetensors
	$(BIN)/pruner prune --model shapes_yolov3 $(SHAPES) --weights runs/demo-detect/dense.safetensors \
	  --table runs/demo-detect/table --speedup 1.8 --method abcp --depth --episodes 40 --epochs 10 \
	  --out runs/demo-detect/run

test: setup ## All tests that need neither a GPU nor a browser
	$(BIN)/pytest -n 2 --dist worksteal

check: setup ## Style, import rules, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal

fuzz: setup ## 500 random networks of all operators: cut, profiled and read from ONNX
	EXAMPLES=500 $(BIN)/pytest tests/pruner/test_operators.py -k random

oldest: ## All tests with the oldest versions that pyproject.toml allows, in .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -q uv
	.venv-oldest/bin/uv pip install -q --python .venv-oldest/bin/python --resolution lowest-direct \
	  -e '.[cpu,pruner,share,dev]'
	.venv-oldest/bin/pytest -n 2 --dist worksteal

gpu-check: ## The tests that need an NVIDIA GPU; fails if there is none or any was skipped
	@nvidia-smi -L || { echo "gpu-check FAILED: no NVIDIA driver answers; nothing was checked"; exit 1; }
	@mkdir -p build
	PYTHONPATH=. $(GPU_PYTHON) -m pytest -m gpu tests/gpu --junitxml=build/gpu-check.xml
	$(GPU_PYTHON) -c "import sys, xml.etree.ElementTree as E; \
	  s = next(E.parse('build/gpu-check.xml').iter('testsuite')).attrib; \
	  ran, skipped = int(s['tests']), int(s['skipped']); \
	  print(f'{ran - skipped} GPU checks ran, {skipped} skipped'); \
	  sys.exit(skipped > 0 or ran == 0)"

kernels-check: setup ## The kernels' tests under address and undefined-behaviour sanitizers; needs GCC
	@mkdir -p build
	$(BIN)/python -c "from pathlib import Path; from latprof.kernels.build import build; \
	  build(Path('build/sanitized.so'), ('-march=native', '-O1', '-g1', \
	        '-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'))"
	ASAN_OPTIONS=detect_leaks=0 LATPROF_KERNELS=$(CURDIR)/build/sanitized.so \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  $(BIN)/pytest tests/latprof/test_kernels.py tests/latprof/test_quantised_kernels.py

page-check: setup ## The reports in a real browser; needs Chromium, fails without
	$(BIN)/python -m pip install -q -e '.[browser]'
	$(BIN)/pytest -m browser tests/browser

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

profile: setup ## Measure a network on this device into a latency table
	$(BIN)/latprof profile --network $(NETWORK) --device $(DEVICE) $(if $(OUT),--out $(OUT)) $(OPTIONS)

prune: setup ## Prune a model to a latency budget, offline
	@test -n "$(WEIGHTS)" -a -n "$(TABLE)" -a -n "$(OUT)" || \
	  { echo "make prune needs WEIGHTS=, TABLE= and OUT=; see make help"; exit 1; }
	$(BIN)/pruner prune --model $(MODEL) --weights $(WEIGHTS) --data $(DATA) --table $(TABLE) \
	  $(if $(DATA_DIR),--data-dir $(DATA_DIR)) --speedup $(SPEEDUP) --method $(METHOD) --epochs $(EPOCHS) --out $(OUT) $(OPTIONS)

bench: setup ## Rerun the benchmarks behind the documents' figures, on an idle machine
	$(BIN)/python -m benchmarks.null_test
	$(BIN)/python -m benchmarks.slow_phases
	$(BIN)/python -m benchmarks.fresh_process
	$(BIN)/python -m benchmarks.busy_profile
	$(BIN)/python -m benchmarks.rule_cost
	$(BIN)/python -m benchmarks.table_error
	$(BIN)/python -m benchmarks.latency_model_speed
	$(BIN)/python -m benchmarks.interference
	$(BIN)/python -m benchmarks.cores
	$(BIN)/python -m benchmarks.revalidate
	$(BIN)/python -m benchmarks.learning_curve
	$(BIN)/python -m benchmarks.interpolation
	$(BIN)/python -m benchmarks.latency_error
	$(BIN)/python -m benchmarks.latency_error --threads 2
	$(BIN)/python -m benchmarks.repeatability
	$(BIN)/python -m benchmarks.kills
	$(BIN)/python -m benchmarks.corruption
	$(BIN)/python -m benchmarks.transfer
	$(BIN)/python -m benchmarks.devices
	$(BIN)/python -m benchmarks.transfer_replayed
	$(BIN)/python -m benchmarks.first_use
	$(BIN)/python -m benchmarks.found
	$(BIN)/python -m benchmarks.one_channel
	$(BIN)/python -m benchmarks.sparse_networks
	$(BIN)/python -m benchmarks.sparse_networks --threads 2
	$(BIN)/python -m benchmarks.sparse_networks --precision int8
	$(BIN)/python -m benchmarks.sparse_tables
	$(BIN)/python -m benchmarks.kernels
ifdef ANCHORS_DIR
	$(BIN)/python -m benchmarks.anchors --anchors-dir $(ANCHORS_DIR)
endif
ifdef WEIGHTS_DIR
	$(BIN)/python -m benchmarks.published_accuracy --data-dir $(DATA_DIR) --weights-dir $(WEIGHTS_DIR)
	$(BIN)/python -m benchmarks.surrogate record --data-dir $(DATA_DIR) --table $(TABLE) \
	  --weights $(WEIGHTS_DIR)/resnet56-4bfd9763.th
	for speedup in 2 3; do \
	  $(BIN)/python -m benchmarks.surrogate regret --table $(TABLE) --speedup $$speedup || exit 1; done
	for blocks in --depth --no-depth; do \
	  $(BIN)/python -m benchmarks.score_rank --data-dir $(DATA_DIR) --table $(TABLE) $$blocks \
	    --weights $(WEIGHTS_DIR)/resnet20-12fca82f.th || exit 1; done
	$(BIN)/python -m benchmarks.score_found --data-dir $(DATA_DIR) --table $(TABLE) \
	  --weights $(WEIGHTS_DIR)/resnet56-4bfd9763.th \
	  $(addprefix --comparison resnet56_amd_epyc_,1t 1t_avx2 1t_26_first_table)
	$(BIN)/python -m benchmarks.filter_selection --data-dir $(DATA_DIR) --table $(TABLE) \
	  --weights $(WEIGHTS_DIR)/resnet20-12fca82f.th
	$(BIN)/python -m benchmarks.compare --data-dir $(DATA_DIR) --table $(TABLE) --depth --speedup 2 --speedup 3 \
	  --method thompson --weights $(WEIGHTS_DIR)/resnet56-4bfd9763.th --out runs/compare_resnet56 \
	  --member resnet44=93.10% --member resnet32=92.63% --member resnet20=$(WEIGHTS_DIR)/resnet20-12fca82f.th
	$(BIN)/python -m benchmarks.compare --data-dir $(DATA_DIR) --table $(TABLE) --depth --speedup 1.5 --epochs 10 \
	  --model resnet20 --weights $(WEIGHTS_DIR)/resnet20-12fca82f.th --out runs/compare_resnet20 \
	  $(addprefix --method ,thompson lap amc greedy knapsack magnitude uniform random thompson:depth=false \
	    thompson:widths=false thompson:learning_rate=0.02 thompson:epochs=30)
	$(BIN)/python -m benchmarks.compare --data-dir $(DATA_DIR) --table $(TABLE) --speedup 2 --epochs 8 --unseen \
	  --model mobilenet_v1_32 --weights benchmarks/weights/mobilenet_v1_32.safetensors --method thompson \
	  --out runs/compare_mobilenet_v1_32
endif

picture: setup ## Draw the README's picture from the committed tables
	$(BIN)/python -m benchmarks.picture

figures: setup ## Write the tables of README and docs/results.md anew from benchmarks/results
	$(BIN)/python -m benchmarks.figures

networks: setup ## Trace the shipped networks again
	for model in $(basename $(notdir $(wildcard lookup_tables/networks/*.json))); do \
	  $(BIN)/pruner trace --model $$model --out lookup_tables/networks/$$model.json || exit 1; done

train-%: setup ## Train a small network for the benchmarks: train-mobilenet_v1_32, train-vgg16_32
	@test -n "$(DATA_DIR)" || { echo "make $@ needs DATA_DIR=, the folder that holds CIFAR-10"; exit 1; }
	$(BIN)/pruner train --model $* --data cifar10 --data-dir $(DATA_DIR) --epochs $(EPOCHS) --half \
	  --out runs/trained/$*.safetensors

docs: setup ## API pages from the docstrings, into build/docs
	$(BIN)/pdoc --output-directory build/docs lookup_tables latprof pruner

notebooks: setup ## Run the notebooks anew, output included, on an idle machine
	$(BIN)/jupyter-execute --inplace docs/notebooks/*.ipynb

clean: ## Remove the virtual environment, runs and caches
	rm -rf $(VENV) .venv-oldest runs build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
