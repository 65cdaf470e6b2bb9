# The two commands of the README, and what they stand on.
#
#   make demo    set up .venv, run experiments/quickstart.toml, print the table and the report's path
#   make test    set up .venv-test, check style, types, contracts and generated code, run the tests
#   make test-compose    build the images, run the quickstart as containers, look for its report
#   make test-compose-lava  the same with a fifth client on SLAYER and Lava's chip (experiments/loihi.toml)
#   make test-arm64      a real round with a client in a container of 64-bit Arm (Docker; emulated elsewhere)
#   make test-bare       set up .venv-bare as a board has it (Python 3.10, no torch), run what runs there
#   make setup-lava      set up .venv-lava, where lava-dl's SLAYER and Lava's simulation run (Python 3.10)
#   make test-lava       there: tests/lava (minutes), and a client's torch code on lava-dl's torch 2.3
#   make test-deploy     set up .venv-deploy, put a client onto a container with systemd and SSH, and take it away
#
# PYTHON       the interpreter to set up with (3.11 or newer for make test)
# BARE_PYTHON  the interpreter of make test-bare
# LAVA_PYTHON  the interpreter of make setup-lava
# ARM64_IMAGE  where the client of make test-arm64 is installed: 64-bit Arm, Python 3.11 with pip
# ARM64_PLATFORM  of that image; empty where it names none
# TORCH_INDEX  a package index that offers CPU builds of torch, tried beside the usual one

PYTHON ?= python3
BARE_PYTHON ?= python3.10
LAVA_PYTHON ?= python3.10
ARM64_IMAGE ?= python:3.11-slim-bookworm
ARM64_PLATFORM ?= linux/arm64
TORCH_INDEX ?=
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"Leakwatt needs Python 3.11 or newer here: make PYTHON=python3.11 ...")'
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.PHONY: help demo test test-compose test-compose-lava test-arm64 test-bare setup-lava test-lava test-deploy clean

help:
	@sed -n 's/^#   //p' Makefile

demo: .venv/.ready
	.venv/bin/leakwatt run experiments/quickstart.toml

test: .venv-test/.ready
	.venv-test/bin/python tools/check.py

.venv/.ready: pyproject.toml deploy/constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP_INSTALL) --constraint deploy/constraints.txt --editable '.[demo]'
	touch $@

.venv-test/.ready: pyproject.toml deploy/constraints-test.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python $(PIP_INSTALL) --constraint deploy/constraints-test.txt --editable '.[test]'
	touch $@

test-compose-lava: export COMPOSE_PROFILES = lava
test-compose-lava: export LEAKWATT_EXPERIMENT = loihi.toml
test-compose-lava: export LEAKWATT_CLIENTS = 5

test-compose test-compose-lava:
	$(COMPOSE) down --volumes
	$(COMPOSE) build $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX))
	$(COMPOSE) run --rm --entrypoint rm init -rf /runs/compose-test
	LEAKWATT_RUN=compose-test $(COMPOSE) up
	test -s runs/compose-test/report/index.html
	$(COMPOSE) down --volumes

test-arm64: .venv-test/.ready
	.venv-test/bin/python -m tests.board.arm64 --image $(ARM64_IMAGE) --platform "$(ARM64_PLATFORM)"

test-bare: .venv-bare/.ready
	.venv-bare/bin/python -m pytest tests/unit tests/property tests/contract tests/golden tests/hygiene

.venv-bare/.ready: pyproject.toml
	$(BARE_PYTHON) -m venv .venv-bare
	.venv-bare/bin/python $(PIP_INSTALL) --editable . pytest pytest-timeout hypothesis
	touch $@

test-deploy: .venv-deploy/.ready
	.venv-deploy/bin/python $(PIP_INSTALL) --no-deps --force-reinstall .
	TORCH_INDEX=$(TORCH_INDEX) .venv-deploy/bin/python tests/board/deploy.py

.venv-deploy/.ready: pyproject.toml deploy/constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python $(PIP_INSTALL) --constraint deploy/constraints.txt '.[edge-torch,export-onnx,data,deploy]'
	touch $@

setup-lava: .venv-lava/.ready

test-lava: .venv-lava/.ready
	.venv-lava/bin/python -m pytest tests/lava
	.venv-lava/bin/python -m pytest tests/golden $(addprefix tests/contract/test_,neurons.py models.py learning_rules.py backends.py)

.venv-lava/.ready: pyproject.toml deploy/constraints-lava.txt
	$(LAVA_PYTHON) -m venv .venv-lava
	.venv-lava/bin/python $(PIP_INSTALL) --constraint deploy/constraints-lava.txt \
		--editable '.[edge-lava]' pytest-timeout hypothesis
	touch $@

clean:
	rm -rf .venv .venv-test .venv-bare .venv-lava .venv-deploy build dist
