# trainworks: `make demo` runs the main job, `make test` passes the tests; both set up what is missing first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# one worker more than there are processors, as many tests wait for a clock or for others
PYTEST = $(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready
CASE ?=
RUNS ?= runs
SET ?=
IMAGE ?= trainworks:0.1.0
BASE ?=
TORCH_INDEX ?=
SOURCE ?=
DIGEST = from configs.code import code_record; from configs.folder import digest; print(digest(code_record()["files"]))

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-evaluation nightly transfer test check bench golden pictures image lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make the virtual environment and install from the lock

$(READY): requirements.lock requirements-data.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or name it: make PYTHON=..." >&2; exit 2; }
	@echo "setting up $(VENV) from requirements.lock: about 3 minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-data.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## run the main job: a language model, a classifier and a diffusion model, and one page about them (about 13 minutes on 2 cores)
	for name in lm cnn diffusion; do $(BIN)/trainworks run configs/demo-$$name.yaml --runs $(RUNS) || exit $$?; done
	$(BIN)/trainworks overview $(RUNS)/demo-lm $(RUNS)/demo-cnn $(RUNS)/demo-diffusion -o $(RUNS)/overview.html

demo-evaluation: $(READY)  ## evaluate: five folds of a small CNN, perplexity beside baselines, drawn images beside real ones, on one page
	$(BIN)/trainworks run configs/demo-folds.yaml --runs $(RUNS)
	$(BIN)/trainworks run configs/demo-lm.yaml --runs $(RUNS) --name demo-perplexity train.steps=150 train.schedule.warmup_steps=20 \
	  'train.optimizer={kind: muon, learning_rate: 0.02, aside_rate: 0.4, weight_decay: 0.1}' task.model.num_layers=2 \
	  task.evaluation.stride_tokens=64 task.evaluation.sampling.max_tokens=40
	$(BIN)/trainworks run configs/demo-diffusion.yaml --runs $(RUNS) --name demo-drawing train.steps=350 train.validate_every_steps=175 \
	  'train.optimizer={kind: muon, learning_rate: 0.02, aside_rate: 0.2, weight_decay: 0.01}' \
	  'task.model.multipliers=[1,2]' task.drawing.steps=10 task.evaluation.judge=demo-folds/folds/0-0 \
	  'task.evaluation.features={kind: run, run: demo-folds/folds/0-0}'
	$(BIN)/trainworks overview $(RUNS)/demo-folds $(RUNS)/demo-perplexity $(RUNS)/demo-drawing -o $(RUNS)/evaluation.html

nightly: $(READY)  ## run the nightly suite and gate it; the first time: make nightly SET=--set-baseline
	$(BIN)/trainworks nightly configs/nightly.yaml --runs $(RUNS) $(SET)

transfer: $(READY)  ## pretrain on Shakespeare, then tell genres from the pretrained body and from a fresh one, three seeds each
	$(BIN)/trainworks run configs/passages.yaml --runs $(RUNS)
	for seed in 0 1 2; do for name in genre genre-fresh; do \
	  $(BIN)/trainworks run configs/$$name.yaml --runs $(RUNS) --name $$name-$$seed seed=$$seed \
	    data.tokenizer.path=$(RUNS)/passages/data/tokenizer.json || exit $$?; done; done
	$(BIN)/trainworks overview $(RUNS)/passages $(RUNS)/genre-0 $(RUNS)/genre-1 $(RUNS)/genre-2 \
	  $(RUNS)/genre-fresh-0 $(RUNS)/genre-fresh-1 $(RUNS)/genre-fresh-2 -o $(RUNS)/transfer.html

test: $(READY)  ## run every test
	$(PYTEST)

check: $(READY)  ## format, lint, types, import directions, unit and contract tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(PYTEST) tests/unit tests/contract

bench: $(READY)  ## run the benchmarks, or those whose name starts with CASE (make bench CASE=loop/)
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-bench.lock
	$(BIN)/python -m benchmarks $(CASE)

golden: $(READY)  ## write the golden files and the configuration's JSON schema again
	$(BIN)/python -m tests.golden

pictures: $(READY)  ## photograph the pages of $(RUNS) for the README, with Chromium (after make demo and make demo-evaluation)
	$(BIN)/python -m tests.browser.pictures $(RUNS)

image: $(READY)  ## build the image (for CPUs: make image BASE=python:3.11-slim-bookworm TORCH_INDEX=https://download.pytorch.org/whl/cpu)
	docker build --tag $(IMAGE) $(if $(BASE),--build-arg BASE=$(BASE)) --build-arg TORCH_INDEX=$(TORCH_INDEX) \
	  --build-arg VERSION=$$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("trainworks"))') \
	  --build-arg COMMIT=$$(git describe --always --abbrev=40 --dirty) --build-arg SOURCE=$(SOURCE) \
	  --build-arg CODE=$$($(BIN)/python -c '$(DIGEST)') .

lock:  ## resolve the dependencies anew and write requirements.lock
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --editable '.[dev,store]'
	{ echo "# Every package that trainworks and its tests run with, on Python 3.11. Made by: make lock"; \
	  $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//' | sort -f; } > requirements.lock
	rm -rf $(VENV)-lock

clean:  ## remove the virtual environment, caches and runs
	rm -rf $(VENV) $(VENV)-lock $(RUNS) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
