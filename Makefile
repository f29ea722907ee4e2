# make help lists the targets. Settings: SCALE, JOBS, ARGS, DRYRUN.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
SCALE ?= laptop
JOBS ?= 1
ARGS ?=
DRYRUN ?=
PY := .venv/bin/python
# glibc hands large blocks back to the system at once and fetches them again each step: a few percent of a CPU run
export MALLOC_TRIM_THRESHOLD_ ?= 4294967296
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
STAMP := .venv/.stamp
# ARGS is read as a shell reads words: quotes hold together what has blanks, and each word is quoted again for the shell
in_args = $(if $(ARGS),$(shell printf '%s' '$(subst ','\'',$(ARGS))' | xargs bash -c 'for x; do $(1); done' _))
WORDS := $(call in_args,printf "%q " "$$x")
ifeq ($(WORDS),)
$(if $(ARGS),$(error ARGS = $(ARGS) cannot be read, see above))
endif
FLAGS := $(call in_args,[[ $$x != -* ]] || printf "%q " "$$x")
SETTINGS := $(call in_args,[[ $$x == -* ]] || printf "%q " "$$x")
OUTPUTS := $(or $(call in_args,[[ $$x != outputs=* ]] || { x=$${x//\"}; printf "%q" "$${x/#outputs=\~/outputs=$$HOME}"; }),outputs=outputs)
OUTPUTS := $(patsubst outputs=%,%,$(OUTPUTS))
LAUNCHER = $(if $(filter 1,$(JOBS)),,hydra/launcher=local hydra.launcher.n_jobs=$(JOBS))
TRAIN = $(PY) -m rootfree.train
# what to run, unless DRYRUN only asks what would be run
RUN = $(TRAIN) $(FLAGS) $(1) $(if $(DRYRUN),plan=true,$(LAUNCHER)) $(SETTINGS)
# one's own runs, beside them, compared with what is published
REPORT = $(if $(DRYRUN),:,$(PY) -m rootfree report $(OUTPUTS)/report --outputs $(OUTPUTS) --published results)

# a run that failed (1) is told at the end: the others are reported; whatever else ends the training ends it all
REPRODUCE = status=0; for preset in $(2); do \
	$(call RUN,+experiments/$(1)=$$preset) || { status=$$?; test $$status = 1 || exit $$status; }; \
	done; $(REPORT); exit $$status

.PHONY: help setup lint types test test-slow test-torch smoke reproduce-cnn reproduce-vit reproduce-precision reproduce-ablation
.PHONY: reproduce-language reproduce-graph sweep
.PHONY: status search publish restore report check-report theory bench gpu-check pack unpack wandb-sync clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'
	@echo
	@echo "  SCALE=smoke|laptop|gpu_hour|gpu|paper  size of a study (default laptop); all presets: ls experiments/*"
	@echo "  JOBS=n                runs at a time, each on one thread (default 1; one per core is fastest)"
	@echo "  ARGS='key=value'      settings passed on, such as trainer.epochs=3; with blanks: ARGS=\"'outputs=/my runs'\""
	@echo "  DRYRUN=1              only say what would run, what is done, and how long it takes"

setup: $(STAMP) ## create .venv with the locked packages (nothing to do the second time)

$(STAMP): requirements.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.lock
	.venv/bin/pip install -q --no-deps --no-build-isolation -e .
	touch $@

lint: setup ## ruff: format and lint
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

types: setup ## mypy
	.venv/bin/mypy

test: setup ## all tests, two at a time, no network
	$(PY) -m pytest -n 2 --dist worksteal $(WORDS)

# the wheel without extras in an environment that is removed at the end; with pip's index of CPU builds TORCH=2.6.0+cpu
test-torch: ## optimizer tests on another torch, up to 8 GB: make test-torch TORCH=2.6.0 PYTHON=python3.10
	$(if $(TORCH),,$(error which torch? make test-torch TORCH=2.6.0))
	env=$$(mktemp -d); trap 'rm -rf "$$env"' EXIT; $(PYTHON) -m venv $$env; \
	$$env/bin/pip install -q torch==$(TORCH) hydra-core numpy pytest; $$env/bin/pip wheel -q --no-deps -w $$env/wheel .; \
	$$env/bin/pip install -q $$env/wheel/*.whl; $$env/bin/pytest tests/test_optim_*.py $(WORDS)

test-slow: setup ## simulations of the statistics, and every cell of every preset
	$(PY) -m pytest -m slow

smoke: setup ## both studies at their smallest, in a minute or two
	rm -rf outputs/smoke
	$(MAKE) reproduce-cnn reproduce-vit SCALE=smoke JOBS=2 ARGS="outputs=outputs/smoke $${ARGS:-}"

# a study is its preset and, where there is one, that of its untuned defaults
STUDY_PRESETS = $(SCALE) $(basename $(notdir $(wildcard experiments/$(1)/$(SCALE)_defaults.yaml)))
reproduce-cnn: setup ## the CNN study: train, collect, report
	$(call REPRODUCE,cnn,$(call STUDY_PRESETS,cnn))

reproduce-vit: setup ## the vision-transformer study: train, collect, report
	$(call REPRODUCE,vit,$(call STUDY_PRESETS,vit))

reproduce-language: setup ## the study of text, LSTM and GPT: train, collect, report
	$(call REPRODUCE,language,$(call STUDY_PRESETS,language))

reproduce-graph: setup ## the study of a graph network: train, collect, report
	$(call REPRODUCE,graph,$(call STUDY_PRESETS,graph))

PRECISION = $(SCALE) $(if $(filter laptop,$(SCALE)),laptop_baselines laptop_bitwise laptop_matrix laptop_released laptop_long)
reproduce-precision: setup ## what a bfloat16 state does: train, collect, report
	$(call REPRODUCE,precision,$(PRECISION))

NAME ?= $(sort $(basename $(notdir $(wildcard experiments/ablation/*.yaml))))
reproduce-ablation: setup ## all ablations, or some (NAME="init damping"): train, collect, report
	$(call REPRODUCE,ablation,$(NAME))

sweep: setup ## any grid: make sweep ARGS="model=resnet8,resnet18 optimizer=sgd,adamw seed=range(3)"
	status=0; $(call RUN,-m) || { status=$$?; test $$status = 1 || exit $$status; }; $(REPORT); exit $$status

status: setup ## show the status of runs, while they are trained or after (ARGS=outputs=<folder>)
	$(PY) -m rootfree status $(OUTPUTS)

SEARCH = hydra/sweeper=halton optimizer=$(OPT) $(if $(DATA),dataset=$(DATA)) $(if $(MODEL),model=$(MODEL))
SEARCH += $(if $(BUDGET),hydra.sweeper.budget=$(BUDGET)) $(if $(HALVING),hydra.sweeper.halving=true)
search: setup ## tune: make search OPT=rf_rmsprop,sgd DATA=cifar10 MODEL=resnet18 BUDGET=24 JOBS=2 ARGS="trainer.epochs=12"
	$(call RUN,-m $(SEARCH))

publish: setup ## merge finished runs into results/ (ARGS=outputs=<folder>), and rewrite what follows from its tables
	! ls $(OUTPUTS)/*/summary.json >/dev/null 2>&1 || $(PY) -m rootfree collect $(OUTPUTS) --into results --merge
	$(PY) -m rootfree report results --readme README.md

restore: setup ## rebuild run folders from results/, so that published runs are not trained again
	$(PY) -m rootfree restore results $(OUTPUTS)

pack: ## the runs that ended, without checkpoints, into runs.tar.gz, for another machine (ARGS=outputs=<folder>)
	cd $(OUTPUTS) && tar -czf $(CURDIR)/runs.tar.gz --exclude=checkpoint.pt --exclude=wandb $$(dirname */summary.json)

unpack: ## what pack took, into the outputs; a file that is there stays as it is
	mkdir -p $(OUTPUTS) && tar -xzf runs.tar.gz --skip-old-files -C $(OUTPUTS)

wandb-sync: setup ## upload what W&B recorded offline
	.venv/bin/wandb sync --append $(OUTPUTS)/*/wandb/offline-run-*

report: setup ## pages of the published results into build/report/, or of your runs (ARGS=outputs=<folder>) beside them
	$(if $(findstring outputs=,$(ARGS)),$(REPORT),$(PY) -m rootfree report results --into build/report)

check-report: setup ## whether the words and verdicts in results/ and the README are what the published tables say
	rm -rf build/check && mkdir -p build/check && cp -r results README.md build/check
	$(PY) -m rootfree report build/check/results --readme build/check/README.md
	diff -r -x '*.png' results build/check/results
	diff README.md build/check/README.md

theory: setup ## exact and Monte-Carlo checks of what the paper states, into results/theory.csv (half a minute)
	$(PY) scripts/theory.py $(WORDS)

bench: setup ## time optimizers and training loop against their peers, into results/bench*.csv
	$(PY) scripts/bench.py $(WORDS)
	$(PY) scripts/bench_training.py
	$(PY) scripts/bench_sweeps.py
	$(PY) scripts/bench_analysis.py

gpu-check: setup ## check and time all on a GPU, in at most 8 minutes, into results/gpu.csv; without one the CPU half
	$(PY) scripts/gpu_check.py $(WORDS)

clean: ## remove caches and smoke runs; never results/ or other outputs
	rm -rf outputs/smoke .pytest_cache .mypy_cache .ruff_cache build dist
	find rootfree scripts tests -name __pycache__ -type d -exec rm -rf {} +
