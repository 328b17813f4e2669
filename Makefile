# `make` lists the targets: the text after ## is their description.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test lint check e2e web deploy-check bench sanitize docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run ## set up, start a default drive in ./ocssd-drive and say how to connect to it
	@exec $(BIN)/ocssd-tcpd

test: $(VENV)/test ## set up and run all tests but the slow suites
	$(BIN)/pytest

lint: $(VENV)/test ## formatting, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

check: lint test ## what a change has to pass: lint and test

e2e: $(VENV)/test ## boot a Linux guest and use the drive from it
	$(BIN)/pytest tests/e2e -p no:cacheprovider

web: $(VENV)/test ## open the live page in a browser (needs Debian's chromium and chromium-driver)
	$(BIN)/pytest tests/e2e_web -p no:cacheprovider

# The interpreter itself is not instrumented, so the run-time libraries have to be there before it.
SANITIZED := build/sanitized
sanitize: $(VENV)/test ## run the tests that compare the engines with the compiled one under ASan and UBSan: two minutes
	CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
	  $(BIN)/python setup.py -q build --build-base build/sanitizer --build-lib $(SANITIZED)
	test -e $(SANITIZED)/ocssd_tcp/accel/_twin.*.so
	LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc OCSSD_TCP_ACCEL=require timeout 600 \
	  $(BIN)/python -m pytest -p no:cacheprovider -o pythonpath="$(SANITIZED) ." \
	  tests/property/test_engines.py tests/property/test_events.py tests/protocol/test_transport_data.py

deploy-check: $(VENV)/deploy ## build and run the image, check the files of deploy/ (needs root, buildah, podman, runc, mmdebstrap)
	$(BIN)/pytest tests/deploy -p no:cacheprovider

bench: $(VENV)/test ## measure the drive on this machine: stage by stage, and over loopback by ocssd bench
	$(BIN)/pytest tests/bench -p no:cacheprovider -s

docs: $(VENV)/run ## write the generated pages of docs/
	$(BIN)/python -m ocssd_tcp.config.sample --markdown > docs/configuration.md

clean: ## remove what the other targets made, but no drive
	rm -rf $(VENV) build dist .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/run

$(VENV)/deploy: $(VENV)/test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[deploy]'
	@touch $@
