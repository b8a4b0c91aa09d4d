# make help lists the targets. PYTHON=python3.12 chooses the interpreter the first time.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help install quickstart test install-all lint miniature truth chaos cluster browser huggingface docs tutorials lock clean
ifndef TOGETHER # what `test` runs beside each other
.NOTPARALLEL:
endif

OUT ?= out/quickstart
BIN := .venv/bin
# Two files of tests at once, the longest first (tests/conftest.py); PYTEST="-x -k sweep" runs what you like instead.
PYTEST ?= -n 2 --dist loadfile --no-loadscope-reorder

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

install: ## set up .venv with kleiber in it: .venv/bin/kleiber, or `source .venv/bin/activate`
	@.ci/step install .ci/install data,notebook,track

quickstart: install ## set up .venv, then train, fit, forecast, test the forecast and report (OUT=out/quickstart)
	@.ci/step "kleiber sweep quickstart --out $(OUT)" $(BIN)/kleiber sweep quickstart --out $(OUT)

test: install-all ## set up .venv, then lint, check types, run the experiment miniature and the tests
	@$(MAKE) --no-print-directory TOGETHER=1 -j 2 lint miniature # mypy keeps one core, and miniature has pauses
	@.ci/step tests $(BIN)/python -m pytest $(PYTEST)

install-all:
	@.ci/step install .ci/install all

lint: install-all ## ruff (rules and format) and mypy
	@.ci/step "ruff check" $(BIN)/python -m ruff check .
	@.ci/step "ruff format" $(BIN)/python -m ruff format --check .
	@.ci/step mypy $(BIN)/python -m mypy

miniature: install-all ## the whole way in about a minute: plan, train, fit, forecast, test, report, and resume
	@.ci/step miniature .ci/miniature

truth: install-all ## does the fit find planted laws, inside its own intervals, as often as it says?
	@.ci/step truth env PYTHONPATH=tests $(BIN)/python -m truth

chaos: install-all ## kill, damage, fill, freeze: the failure tests R1 to R24 in their long form, into docs/reliability.md
	@.ci/step chain env KLEIBER_CHAIN_STEPS=2000 $(BIN)/python -m pytest -q tests/test_chain.py
	@.ci/step chaos env PYTHONPATH=tests $(BIN)/python -m chaos --write docs/reliability.md

cluster: install-all ## one sweep on a Slurm of two nodes, made here; needs root, and on Debian slurmctld, slurmd, slurm-client, munge
	@.ci/step cluster $(BIN)/python -m pytest -m cluster tests/launch

huggingface: ## models and adapters beside transformers and peft, scores beside lm-evaluation-harness, in .venv-huggingface (7 GB)
	@VENV=.venv-huggingface .ci/step install .ci/install huggingface,dev
	@.ci/step huggingface env HF_HUB_OFFLINE=1 .venv-huggingface/bin/python -m pytest -m huggingface tests/huggingface

docs: ## set up .venv with mkdocs in it, then build the site of docs/ into build/site/index.html, every link checked
	@.ci/step install .ci/install docs
	@.ci/step "mkdocs build --strict" env NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html; with its search: $(BIN)/python -m http.server --directory build/site"

tutorials: install-all ## run docs/tutorials, and write what is printed into them
	@.ci/step tutorials $(BIN)/python tests/tutorial.py

browser: install-all ## the page of kleiber watch in Chromium, over a sweep that runs; needs chromium (Debian: apt-get install chromium)
	@.ci/step browser $(BIN)/python -m pytest -m cluster tests/launch/test_page.py

lock: install-all ## renew constraints.txt: the newest versions that fit together, for Python 3.11 and later
	@.ci/lock

clean: ## remove .venv and the tools' caches; results in out/ stay
	rm -rf .venv .venv-huggingface .mypy_cache .ruff_cache .pytest_cache .hypothesis build kleiber.egg-info
	find model train parallel scaling experiments kleiber tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
