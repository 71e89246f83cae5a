# make help lists what there is. Without make: bash install.sh, then the line that stands below the target.
PYTHON ?= python3
SHELL := /bin/bash
RUN := .venv/bin/python

.PHONY: help demo run install test check test-slurm test-faults
.DEFAULT_GOAL := help

help:
	@echo "make demo         installs, writes the sample corpus and runs every stage on it: about ten minutes"
	@echo "make run DATA=…   your own text (archives, text, tables) through the same stages; says disk, memory and time first"
	@echo "                    SIZE=tiny|14m|125m|350m|1.3b (125m)   NAME=… (after DATA)   VOCAB=… (by the text)"
	@echo "                    CHAT=chat.jsonl: fine-tuning on it   DRY_RUN=1: the estimate alone"
	@echo "make install      .venv and the packages; PYTHON=python3.12 chooses, an active environment's torch is kept"
	@echo "make test         the test suite"
	@echo "make check        format, lint, types"
	@echo "make test-slurm   the batch scripts on a two-node Slurm cluster on this machine; INSTALL=1 installs Slurm (root, Debian)"
	@echo "make test-faults  every fault in its full count, about an hour; goes on where it ended"
	@echo "                    ONLY=kills,signals,damage,disk,elastic,pulse,guard   MINUTES=20   CASES=3 of each"
	@echo
	@echo "Without make:     bash install.sh && .venv/bin/python narae/chain.py demo"
	@echo "Where things go:  artifacts/, or the folder that NARAE_ARTIFACTS names"

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt install.sh
	@PYTHON="$(PYTHON)" bash install.sh

.venv/.installed-dev: pyproject.toml constraints.txt install.sh
	@PYTHON="$(PYTHON)" bash install.sh dev

demo: .venv/.installed
	@$(RUN) narae/chain.py demo

run: .venv/.installed
	@test -n "$(DATA)" || { echo "make run needs DATA=folder-or-file, e.g. make run DATA=~/books SIZE=125m" >&2; exit 2; }
	@$(RUN) narae/chain.py run --data "$(DATA)" $(if $(SIZE),--size "$(SIZE)") $(if $(NAME),--name "$(NAME)") \
	  $(if $(CHAT),--chat "$(CHAT)") $(if $(VOCAB),--vocab_size "$(VOCAB)") $(if $(DRY_RUN),--dry_run)

test: .venv/.installed-dev
	@HF_HUB_OFFLINE=1 $(RUN) -m pytest -n 2 --dist loadfile --durations=15

check: .venv/.installed-dev
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

test-slurm:
	@if [ -z "$(INSTALL)" ] && ! PATH="$$PATH:/usr/sbin" command -v slurmctld >/dev/null; then \
	  echo "skipped: there is no Slurm here; make test-slurm INSTALL=1 installs Debian's and runs the tests (as root)"; \
	else \
	  $(MAKE) --no-print-directory .venv/.installed-dev && \
	  NARAE_TEST_SLURM=1 HF_HUB_OFFLINE=1 $(RUN) -m pytest tests/slurm; \
	fi

# Faults injected for real. make test takes a sample of each.
FAULTS := tests/faults tests/narae/test_pulse.py tests/pretrain/test_guard.py

test-faults: .venv/.installed-dev
	@NARAE_TEST_FAULTS=1 NARAE_TEST_FULL=1 HF_HUB_OFFLINE=1 NARAE_FAULTS_ONLY="$(ONLY)" \
	  NARAE_FAULTS_MINUTES="$(MINUTES)" NARAE_FAULTS_CASES="$(CASES)" $(RUN) -m pytest -s $(FAULTS)
