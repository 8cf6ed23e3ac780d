# Thaw's commands. Needed: Python 3.11, 3.12 or 3.13 with venv, git, make. `make help` lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# One process of tests more than there are cores, and at most four: a third of the time they wait for stages and for each other.
WORKERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? cores + 1 : 4)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo repro check test long story browser bench docs zoo screenshots repository project sshd lock audit mutants

# DVC runs `python` as it finds it on PATH: every recipe below sees the environment's own.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
unexport PYTHONHOME PYTHONPATH

help: ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  %-9s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## create .venv if there is none; install requirements.lock and the command `thaw` into it

demo: repository install ## install, run the whole pipeline on the sample images, print how well each step did
	python -m thaw repro
	python -m thaw summary

repro: repository install ## run what is out of date in the pipeline (ARGS="unfreeze@top" runs up to one stage)
	python -m thaw repro $(ARGS)

check: $(VENV)/.installed-dev ## lint, spelling, types and params.yaml, without running a test
	ruff check .
	ruff format --check .
	codespell
	mypy
	python -m thaw check

test: repository browser sshd check ## everything in check, then all tests but `make long` (ARGS="tests/unit -x" narrows them)
	pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore=tests/long $(ARGS)

long: repository $(VENV)/.installed-dev ## tests of several minutes each: trials, sweeps, the jobs of CI, the story of a team
	pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/long $(ARGS)

story: repository $(VENV)/.installed-dev ## a team of three with trials, CI, a merge and a version, told step by step; takes minutes
	python -m tests.long.team

project: repository $(VENV)/.installed-dev ## where params and images are your own: a project's tests, and not Thaw's
	thaw check
	pytest thaw/template/tests $(ARGS)

browser: ## see to it that Chromium and its driver are here, which the tests of the report drive
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  if ! command -v apt-get >/dev/null || { [ "$$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; }; then \
	    echo "the tests of the report need chromium and chromedriver on PATH; on Debian and Ubuntu:" \
	      "sudo apt-get install chromium chromium-driver" >&2; exit 1; \
	  fi; \
	  as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo -n"; \
	  echo "installing chromium and chromium-driver"; \
	  $$as_root apt-get -qq update && $$as_root env DEBIAN_FRONTEND=noninteractive \
	    apt-get -qq install -y --no-install-recommends chromium chromium-driver >/dev/null; }

sshd: ## see to it that OpenSSH's server is here, which the tests of remotes start on a port of their own
	@command -v sshd >/dev/null || test -x /usr/sbin/sshd || { \
	  if ! command -v apt-get >/dev/null || { [ "$$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; }; then \
	    echo "the tests of remotes need OpenSSH's server; on Debian and Ubuntu: sudo apt-get install openssh-server" >&2; \
	    exit 1; \
	  fi; \
	  as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo -n"; \
	  echo "installing openssh-server"; \
	  $$as_root apt-get -qq update && $$as_root env DEBIAN_FRONTEND=noninteractive \
	    apt-get -qq install -y --no-install-recommends openssh-server >/dev/null; }

screenshots: $(VENV)/.installed-dev browser ## draw docs/images anew from reports/index.html and models/export
	python -m tests.browser.screenshots

bench: repository $(VENV)/.installed-dev ## run every measurement in bench/ for docs/benchmarks.md, but not the demo; takes hours
	@set -e; for file in bench/[a-z]*.py; do \
	  name=$$(basename "$$file" .py); echo "python -m bench.$$name" >&2; python -m "bench.$$name"; done

zoo: $(VENV)/.installed-dev ## cut every architecture of the zoo and write docs/backbones.md anew; takes minutes
	python -m tests.zoo

docs: $(VENV)/.installed ## write docs/guide/params.md and the table of decision 0023 anew from the code
	python -m tests.contract.params_page
	python -m tests.contract.layers_page

lock: $(VENV)/tools/.installed ## write the lock files anew from requirements*.txt (ARGS=--upgrade takes newer releases of what no line pins)
	$(COMPILE) requirements-dev.txt --output-file requirements-dev.lock
	$(COMPILE) requirements.txt --constraints requirements-dev.lock --output-file requirements.lock
	$(COMPILE) requirements-build.txt --constraints requirements-dev.lock --output-file requirements-build.lock
	$(COMPILE) requirements-tools.txt --output-file requirements-tools.lock
	@for file in $(LOCKS); do \
	  { echo "# Written by \`make lock\` from $${file%.lock}.txt: every package, also those that others need, by SHA-256."; \
	    echo "--only-binary :all:"; echo "--no-binary $(SOURCE)"; sed '/^\(#\|--\)/d' $$file; } >$$file.new && mv $$file.new $$file; done

audit: $(VENV)/.installed-dev $(VENV)/tools/.installed ## ask for known vulnerabilities of what is locked; needs the network, and fails without an answer
	python -m tests.contract.audit $(VENV)/tools/bin/pip-audit

# mutmut lies in a cache of uv's and not in .venv: no test and no job of CI needs it.
mutants: $(VENV)/.installed-dev $(VENV)/tools/.installed ## change the code in 65 places of each of nine files and count what tests notice; takes an hour or more
	$(VENV)/tools/bin/uv run --no-project --no-config --quiet --with mutmut==3.8.1 python -m tests.mutation $(ARGS)

# Wheels alone, whose hashes are known. $(SOURCE) has none; what builds it is locked as well.
SOURCE := antlr4-python3-runtime
LOCKS := requirements-build.lock requirements.lock requirements-dev.lock requirements-tools.lock
COMPILE = $(VENV)/tools/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-header --only-binary :all: --no-binary $(SOURCE) $(ARGS)
LOCKED := python -m pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation

# The command `thaw` of .venv runs the code of this folder; the pins of requirements.lock decide over the ranges.
$(VENV)/.installed: requirements.lock requirements-build.lock pyproject.toml thaw/version.py | $(BIN)/python
	$(LOCKED) -r requirements-build.lock
	$(LOCKED) -r requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(LOCKED) -r requirements-dev.lock
	@touch $@

# Without $(VENV)/.installed: what makes the lock must not need it.
$(VENV)/tools/.installed: requirements-tools.lock | $(BIN)/python
	"$(BIN)/python" -m venv $(VENV)/tools
	$(VENV)/tools/bin/$(LOCKED) -r requirements-tools.lock
	@touch $@

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "Thaw needs Python 3.11, 3.12 or 3.13, and found '$(PYTHON)'; install one, or name it:" \
	    "make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) could not create $(VENV); on Debian and Ubuntu the package python3-venv is missing" >&2; exit 1; }

repository:
	@git rev-parse --git-dir >/dev/null || { \
	  echo "this folder is not a git repository, and DVC needs one; clone Thaw with git, or run" \
	    "\`git init && git add --all && git commit -m start\` here" >&2; exit 1; }
	@test -f .dvc/config || { \
	  echo ".dvc/config is missing; restore it with \`git checkout -- .dvc\`" >&2; exit 1; }
