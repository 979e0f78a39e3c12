# Roundtrip's commands. `make` alone lists them.
#
# You need Go and make. -race, which `make check` uses, also needs a C compiler.
# `make test` needs an engine for containers; if it may, it installs and starts one.
# Development tools are pinned in tools.mod and built by Go.
#
# A command of more than one line is a program in tools/. It reads variables from the
# environment: make exports those of its command line, as in make fuzz FUZZTIME=1m.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --warn-undefined-variables
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Binaries are static, because the images have no libraries.
BUILD := .build
GO_BUILD := CGO_ENABLED=0 go build -trimpath
TOOL := go tool -modfile=tools.mod
# Runs checks and test suites, in parallel if possible, and starts what they need.
TEST := $(GO_BUILD) -o $(BUILD)/test ./tools/test && exec $(BUILD)/test
# The load generator. A PostgreSQL server in a container needs an engine.
LOAD_TEST = exec $(if $(filter postgres,$(STORE)),go run ./tools/engine) $(BUILD)/load

WIRE ?= http
DATA ?=
CALLERS ?= 16
STORE ?= sqlite
WORKLOAD ?= uniform
RATE ?= 0
PUSH ?=
LOAD ?=
PORT ?= 8081
DURATION ?= 30s

.PHONY: help
help: ## List the targets and their variables
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {sub(/:.*/, "", $$1); printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Run it

.PHONY: run
run: build ## Run the pair on SQLite under .data/: [WIRE=http|grpc|nats]
	@$(GO_BUILD) -o $(BUILD)/run ./run
	@exec $(BUILD)/run --bin $(BUILD) --data .data --wire $(WIRE)

.PHONY: build
build: ## Build both services into .build/
	@$(GO_BUILD) -o $(BUILD)/ ./services/inventory ./services/orders

.PHONY: stub
stub: ## Run a stub of inventory, made from the pact: [PORT=8081]
	@echo "== answers the requests of the pact; contracts/README.md shows one"
	@pact=$$(go run ./tools/pact cli); exec "$$pact" stub --file contracts/pacts/orders-inventory.json --port $(PORT)

##@ Test it

.PHONY: doctor
doctor: ## Show what this machine has, what is missing, and how to get it
	@go run ./tools/doctor

.PHONY: check
check: ## Format, lint, unit tests; needs only Go (1 minute once built)
	@$(TEST) check

.PHONY: test
test: ## Everything, also with PostgreSQL and in containers (15 minutes, the first time 30)
	@$(TEST) all

.PHONY: format lint tidy unit process
format:
	@$(TEST) format
lint: ## Only the linters
	@$(TEST) lint
tidy:
	@$(TEST) tidy
unit: ## Only the unit and property tests
	@$(TEST) unit unit-postgres
process: ## Only the tests that kill the real processes at each step (4 minutes)
	@$(TEST) process

.PHONY: integration exchanges
integration: ## Only the tests in containers, with an HTML report (5 minutes)
	@$(TEST) exchanges
exchanges: integration

.PHONY: integration-mutants
integration-mutants: ## Check that the tests in containers find planted bugs (15 minutes)
	@go run ./tools/engine go run ./tools/mutants

.PHONY: engine
engine: ## Install and start an engine for containers, and get the images
	@go run ./tools/engine

.PHONY: test-images
test-images:
	@$(TEST) images

.PHONY: vulnerabilities
vulnerabilities: ## Find known vulnerabilities in called code; asks vuln.go.dev
	@go tool -modfile=tools/lint/go.mod govulncheck ./...

.PHONY: fuzz
fuzz: ## Fuzz every decoder: [FUZZTIME=10s, for each]
	@tools/fuzz.sh

.PHONY: load
load: build-load ## Put load on a new pair: [WORKLOAD= STORE= WIRE= CALLERS= RATE= DURATION=]
	@$(LOAD_TEST) run $(WORKLOAD) --bin $(BUILD) --store $(STORE) --wire $(WIRE) --callers $(CALLERS) --rate $(RATE) --duration $(DURATION)

.PHONY: replay
replay: build-load ## Replay real invoices: DATA=file.csv.gz [STORE= WIRE= CALLERS=]
	@[[ -n "$(DATA)" ]] || { echo "which file? make replay DATA=online-retail.csv.gz"; exit 2; }
	@$(LOAD_TEST) run invoices --bin $(BUILD) --store $(STORE) --wire $(WIRE) --callers $(CALLERS) --data "$(DATA)"

.PHONY: bench
bench: STORE := postgres
bench: build-load ## Compare stores, callers, batches, wires in a table (8 minutes; Linux)
	@$(LOAD_TEST) bench --bin $(BUILD)

.PHONY: build-load
build-load: build
	@$(GO_BUILD) -o $(BUILD)/load ./test/load

##@ Change a contract

.PHONY: generate
generate: ## Generate the proto contract's code and lint it (first, buf is built)
	@$(TOOL) buf lint
	@$(TOOL) buf generate

.PHONY: contract
contract: ## Verify the pact from both sides, and check that it catches mutants
	@$(TEST) contract

.PHONY: pacts
pacts: ## Rewrite contracts/pacts after a change of what orders relies on
	@tools/with-pact.sh go test -timeout 10m -tags contract -run '^TestOrdersReliesOnWhatThePactSays$$' ./test/contract -update

.PHONY: breaking
breaking: ## Find changes since the last tag or commit that break a caller
	@tools/breaking.sh

.PHONY: contract-publish
contract-publish: ## Publish the pact: PACT_BROKER_BASE_URL= [PACT_BROKER_TOKEN=]
	@tools/broker.sh publish

.PHONY: contract-verify
contract-verify: ## Verify the broker's pacts, and publish the results
	@tools/broker.sh verify

##@ Deploy it

.PHONY: images
images: ## Make the images: [LOAD=1 into the local engine] [PUSH=registry/prefix]
	@go run ./deploy/image --out $(BUILD)/images $(if $(filter 1,$(LOAD)),--load,) $(if $(PUSH),--push=$(PUSH),)

.PHONY: values
values: ## Rewrite the table of the charts' values
	@go test -run '^TestValuesTableIsUpToDate$$' ./test/charts -update

.PHONY: charts
charts: ## Test the charts without a cluster: [HELM3=1 also with Helm 3]
	@$(TEST) charts

.PHONY: helm
helm:
	@$(TEST) helm helm3

.PHONY: e2e
e2e: ## Test the charts on a cluster: [KUBECONFIG= IMAGE_LOAD=] (10 minutes)
	@tools/e2e.sh

.PHONY: kind-up
kind-up: ## Make a cluster with kind, for make e2e
	@tools/e2e.sh up

.PHONY: kind-down
kind-down: ## Remove that cluster
	@tools/e2e.sh down

.PHONY: can-i-deploy
can-i-deploy: ## Check compatibility: SERVICE=orders ENV=production or AGAINST=git-ref
	@tools/can-i-deploy.sh

.PHONY: record-deployment
record-deployment: ## Tell the broker what is deployed: SERVICE=orders ENV=production
	@tools/broker.sh deployed

##@ Release it

.PHONY: packages
packages: ## Package the charts: [RELEASE=v1.2.3] [REGISTRY=ghcr.io/OWNER]
	@tools/release/packages.sh

.PHONY: release-dry-run
release-dry-run: images packages ## Build a release without publishing: [RELEASE=v1.2.3]
	@tools/release/rehearse.sh

.PHONY: release
release: release-dry-run ## Publish a release, signed: REGISTRY=ghcr.io/OWNER
	@tools/release/publish.sh

##@ Clean up

.PHONY: clean
clean: ## Remove everything built, downloaded or left behind, also data
	@rm -rf .build .data .reports .tools
