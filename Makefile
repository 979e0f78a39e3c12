# Roundtrip's commands. `make` alone lists them.
#
# Go and make are all that is needed; -race, which `make check` uses, also wants
# a C compiler, and `make test` an engine for containers, which it installs and
# starts where it may. Development tools are pinned in tools.mod and built by Go.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --warn-undefined-variables
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Binaries are static: images hold nothing else.
BUILD := .build
GO_BUILD := CGO_ENABLED=0 go build -trimpath
TOOL := go tool -modfile=tools.mod

# Empty, or -race where there is a C compiler to link the race detector.
RACE := $(if $(shell command -v "$$(go env CC)"),-race,)
# Runs a command with an engine and the images that its tests need.
SETUP := go run ./test/containers/setup
# The load generator; a server in a container wants an engine.
LOAD = exec $(if $(filter postgres,$(STORE)),$(SETUP)) $(BUILD)/load
# Packages whose tests start processes have `make test` to themselves.
PROCESS_TESTS := ./test/process/...

WIRE ?= http
DATA ?=
CALLERS ?= 16
STORE ?= sqlite
WORKLOAD ?= uniform
RATE ?= 0
DURATION ?= 30s
FUZZTIME ?= 10s

.PHONY: help
help: ## List what make can do
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Run the pair here, on SQLite under .data/; Ctrl-C stops it: make run [WIRE=http|grpc|nats]
	@$(GO_BUILD) -o $(BUILD)/run ./run
	@exec $(BUILD)/run --bin $(BUILD) --data .data --wire $(WIRE)

.PHONY: build
build: ## Build both services into .build/
	@$(GO_BUILD) -o $(BUILD)/ ./services/inventory ./services/orders

.PHONY: check
check: format vet tidy unit ## Format, vet, staticcheck, tidy, import rules, unit and property tests (2 minutes)

.PHONY: test
test: ## Everything: check, also on PostgreSQL, then the tests of the real processes
	@$(SETUP) $(MAKE) --no-print-directory check process

.PHONY: engine
engine: ## Bring an engine for containers, and the images, and leave it running
	@$(SETUP)

.PHONY: format
format:
	@echo "== gofmt"
	@unformatted=$$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l); \
	if [[ -n $$unformatted ]]; then echo "not formatted (run gofmt -w on them):"; echo "$$unformatted"; exit 1; fi

.PHONY: vet
vet:
	@echo "== vet, staticcheck"
	@go vet ./...
	@go vet -tags failpoints ./...
	@$(TOOL) staticcheck ./...
	@$(TOOL) staticcheck -tags failpoints ./...

.PHONY: tidy
tidy:
	@echo "== go.mod is tidy"
	@go mod tidy -diff
	@go mod verify >/dev/null

.PHONY: unit
unit: race-detector
	@echo "== unit and property tests"
	@[[ -n "$${ROUNDTRIP_ENGINE:-}" ]] || echo "!! What needs a container (PostgreSQL) is LEFT OUT where no engine runs; make test brings one."
	@go test -timeout 20m $(RACE) $$(go list ./... | grep -v '/test/process$$')

.PHONY: process
process:
	@echo "== process tests"
	@go test -count=1 -timeout 30m -parallel 4 $(PROCESS_TESTS)

.PHONY: race-detector
race-detector:
ifeq ($(RACE),)
	@echo "!! LEFT OUT: the race detector. It needs a C compiler (Debian: apt-get install gcc; macOS: xcode-select --install)."
	@[[ -z "$${CI:-}" ]] || { echo "!! In CI nothing is left out."; exit 1; }
endif

.PHONY: load
load: build-load ## Put load on a new pair: make load WORKLOAD=uniform|hot|mixed [STORE=postgres] [CALLERS=16] [RATE=n] [DURATION=30s]
	@$(LOAD) run $(WORKLOAD) --bin $(BUILD) --store $(STORE) --callers $(CALLERS) --rate $(RATE) --duration $(DURATION)

.PHONY: replay
replay: build-load ## Put real invoices through the pair: make replay DATA=file.csv.gz [STORE=postgres] [CALLERS=16]
	@[[ -n "$(DATA)" ]] || { echo "which file? make replay DATA=online-retail.csv.gz"; exit 2; }
	@$(LOAD) run invoices --bin $(BUILD) --store $(STORE) --callers $(CALLERS) --data "$(DATA)"

.PHONY: bench
bench: STORE := postgres
bench: build-load ## Compare stores, callers and batches, and what limits them, in one table (8 minutes; Linux)
	@$(LOAD) bench --bin $(BUILD)

.PHONY: build-load
build-load: build
	@$(GO_BUILD) -o $(BUILD)/load ./test/load

.PHONY: generate
generate: ## Generate the code of the proto contract, and lint it
	@$(TOOL) buf lint
	@$(TOOL) buf generate

.PHONY: fuzz
fuzz: ## Fuzz every decoder for FUZZTIME (10s) each
	@git grep -lE '^func Fuzz' -- '*_test.go' | while read -r file; do \
		sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$$file" | while read -r target; do \
			echo "== $$target ($$(dirname "$$file"))"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$file")"; \
		done; \
	done

.PHONY: clean
clean: ## Remove what was built and what runs and tests left, also the pair's data
	@rm -rf .build .data .reports
