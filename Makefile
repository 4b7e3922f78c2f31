# Everything starts here; `make` alone lists it. Set-up happens by itself (tools/setup.sh), once.
#
#   make course PORT=9000      another port             make course BROWSER=none    print the address only
#   make clean ALL=1           workspace/ as well, with the learner's answers

SHELL := /bin/sh
PYTHON_IN_VENV := .venv/bin/python
PORT ?= 0
ADDRESS ?= 127.0.0.1
export BROWSER

.DEFAULT_GOAL := help
.PHONY: help course demo test test-vm soak lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

course: ## JupyterLab on chapter 0; your notebooks are in workspace/
	@tools/setup.sh
	@$(PYTHON_IN_VENV) -I -m mycontainer.bench.prepare
	@exec $(PYTHON_IN_VENV) -I -m mycontainer.lab.course --port $(PORT) --address $(ADDRESS)

demo: ## a container seen from inside and from outside, side by side, in seconds
	@tools/setup.sh
	@$(PYTHON_IN_VENV) -I -m mycontainer.cli.demo

test: ## the linters and all tests, notebooks too: as root (if you are) and as an ordinary user
	@tools/test.sh

test-vm: ## the tests of cgroup version 2, in a virtual machine (needs qemu; part of `make test` where it is)
	@tools/setup.sh --tests
	@tools/test-vm.sh

soak: ## the tests that take long
	@tools/test.sh --soak

lint: ## ruff, mypy, import-linter, shellcheck
	@tools/setup.sh --tests
	@tools/lint.sh

clean: ## take away everything of ours but workspace/ (ALL=1: that too)
	@tools/clean.sh $(if $(ALL),--all)
