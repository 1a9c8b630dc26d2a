# Every target sets up what it needs, on a Debian 12 machine with git, make and python3.11, as root; nothing is done twice.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STATE ?= .box
# A Go tool chain may stand outside PATH, or in the virtual environment
export PATH := $(CURDIR)/$(BIN):$(PATH):/usr/local/go/bin

hash = $(shell cat $(1) 2>/dev/null | sha256sum | cut -c1-16)
PROTOS = $(wildcard deviceplugin/*/*/*.proto deviceplugin/*/*/*/*.proto)
LOCKED = $(VENV)/.locked-$(call hash,requirements-dev.lock)
INSTALLED = $(VENV)/.installed-$(call hash,requirements-dev.lock setup.cfg pyproject.toml build_support/*.py $(PROTOS))

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: demo
demo: box ## a VPC, a real Kubernetes on it, eniway, an application, and every path walked
	@$(BIN)/python -m demo --state $(STATE)

.PHONY: down
down: ## end the demo's box
	@test ! -x $(BIN)/vpcbox || $(BIN)/vpcbox down --state $(STATE)

.PHONY: test
test: ## check, unit, property, netns and box tests
	@$(MAKE) check
	@$(MAKE) unit property netns
	@$(MAKE) boxtest

.PHONY: check
check: venv ## ruff, mypy, import contracts
	@ruff check --quiet .
	@ruff format --quiet --check . || { ruff format --check . || true; exit 1; }
	@mypy
	@mypy --explicit-package-bases tests
	@lint-imports --no-cache >build/imports.log 2>&1 || { cat build/imports.log; exit 1; }
	@echo "check: ruff, mypy and the import contracts hold"

.PHONY: unit property netns boxtest bench conformance soak
unit: venv
	@echo "unit tests"; pytest tests/unit -q -n 2

property: venv
	@echo "property tests"; pytest tests/property -q -n 2

netns: venv
	@echo "netns tests"; pytest tests/netns -q -n 2

boxtest: box
	@echo "box tests"; pytest tests/box -q -p no:xdist --timeout 900

bench: box ## the figures, measured
	@$(BIN)/python -m tests.bench

SUITE ?= cni
KIND ?= shared
conformance: box ## suites of others: SUITE=cni|e2e|cyclonus KIND=shared|exclusive|mixed
	@test "$(SUITE)" != cni || make/debian containerd build/containerd
	@$(BIN)/python -m tests.conformance --suite $(SUITE) --kind $(KIND) $(if $(FULL),--full)

.PHONY: tour
tour: box ## the tour's commands; eniway upgraded, deleted and applied again under 100 pods, nodes rebooted and cleaned
	@$(BIN)/pytest tests/tour -q -p no:xdist --timeout 1200

.PHONY: matrix
matrix: box ## who reaches whom by which path, in boxes with kube-proxy in both its modes
	@$(BIN)/python -m tests.conformance.matrix

PICTURES ?= build/pictures
.PHONY: dashboards
dashboards: box ## every query of every panel and rule, asked of a real Prometheus in a box under load: PICTURES=docs/pictures
	@make/debian prometheus build/prometheus
	@$(BIN)/python -m tests.dashboards build/prometheus/usr/bin --pictures $(PICTURES)

STEPS ?= 10000
soak: box ## pods come and go while daemons die; allocator and daemon under every fault of the cloud: STEPS=10000
	@$(BIN)/python -m tests.soak
	@$(BIN)/python -m tests.soak.books --steps $(STEPS) --log critical
	@GRPC_VERBOSITY=NONE $(BIN)/python -m tests.soak.daemon --steps $(STEPS) --log critical
	@GRPC_VERBOSITY=NONE $(BIN)/pytest tests/soak -q -p no:xdist --timeout 900

.PHONY: fresh
fresh: system ## demo and test in a Debian 12 root made from nothing
	@make/fresh

# What the others need. Each is quick and quiet when there is nothing to do.

.PHONY: box
box: components image

.PHONY: system
system:
	@make/system $(PYTHON)

.PHONY: venv
venv: $(INSTALLED)

$(LOCKED): | system
	@make/venv $(PYTHON) $(VENV) requirements-dev.lock
	@rm -f $(VENV)/.locked-*; touch $@

$(INSTALLED): $(LOCKED)
	@echo "venv: eniway, editable, with its stubs"
	@$(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-build-isolation --no-deps -e .
	@mkdir -p build; rm -f $(VENV)/.installed-*; touch $@

.PHONY: go
go: venv
	@make/go $(BIN)

.PHONY: components
components: go ## the real components of Kubernetes, built once
	@$(BIN)/vpcbox components >build/components
	@make/kubectl build/components $(BIN) $(STATE)

.PHONY: proto
proto: venv ## the gRPC stubs, again
	@$(BIN)/python -m build_support.stubs

.PHONY: relay
relay: venv ## build/cni/eniway, the static relay
	@$(BIN)/python -m cni.shim.build build/cni/eniway

.PHONY: arm
arm: venv ## build/cni/arm64/eniway, the relay for arm64, and its tests under qemu
	@make/system $(PYTHON) gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
	@$(BIN)/python -m cni.shim.build build/cni/arm64/eniway arm64
	@pytest tests/unit/cni/test_relay.py -q -n 2 -k arm64

.PHONY: image
image: venv ## build/eniway-image.tar
	@$(BIN)/python -m image.build

.PHONY: reproducible
reproducible: venv ## two builds of the image from nothing have one digest
	@make/reproducible $(BIN)/python

.PHONY: manifests
manifests: components ## what is generated of manifests/ and docs/, again
	@$(BIN)/python -m build_support.manifests
	@$(BIN)/python -m build_support.configuration
	@$(BIN)/python -m build_support.dashboards
	@$(BIN)/python -m build_support.metrics

.PHONY: clean
clean: down ## all that was made here; caches in $$ENIWAY_CACHE stay
	@rm -rf build dist $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -prune -exec rm -rf {} + -o \( -name '*_pb2.py' -o -name '*_pb2.pyi' \) -exec rm -f {} +
