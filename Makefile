# SPDX-License-Identifier: GPL-3.0-or-later
# One place for the project's commands; each line is also what CI runs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
RUN := tools/run

.PHONY: help
help: ## Show the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 14

.PHONY: lab
lab: ## Everything a fresh Debian or Ubuntu machine needs, the pilot on a lab host, then assess and scale_regional
	@tests/lab/make-lab

.PHONY: lab-up
lab-up: ## Only the lab with the pilot on it
	@$(RUN) python tests/lab/lab.py up
	@$(RUN) ansible-playbook -i inventories/lab tests/lab/pilot.yml

.PHONY: lab-down
lab-down: ## Take all of the lab away
	@$(RUN) python tests/lab/lab.py down

.PHONY: lint
lint: ## Style of everything: YAML, Python, shell, Ansible
	@tools/check lint

.PHONY: unit
unit: ## Unit tests
	@$(RUN) python tests/lab/lab.py packages
	@$(RUN) pytest tests/unit -q

.PHONY: engine
engine: ## Module tests against real containers on this machine's engine
	@$(RUN) pytest tests/integration/real -q

.PHONY: sanity
sanity: ## ansible-test sanity on a copy of the tree
	@tools/check sanity

.PHONY: docs
docs: ## Documentation and changelog checks, generated tables
	@tools/check docs

.PHONY: artefact
artefact: ## Build the collection, install it in an empty place, and load every playbook and module from there
	@tools/check artefact

.PHONY: molecule
molecule: ## One scenario: make molecule S=hapi
	@tools/check molecule $(S)

.PHONY: e2e
e2e: ## The verbs on the lab, under load, with kills and wrong input
	@$(RUN) pytest tests/integration/lab -q -m "not full"

.PHONY: bench
bench: ## One benchmark: make bench B=roll
	@test -f "tests/bench/$(B).py" || { echo "make bench B=<name>; there are: $(notdir $(basename $(filter-out %/_result.py,$(wildcard tests/bench/*.py))))" >&2; exit 2; }
	@$(RUN) python tests/bench/$(B).py

.PHONY: test
test: ## What CI runs
	@tools/check test

.PHONY: test-all
test-all: ## Every variant, kill point and drill
	@tools/check test-all
