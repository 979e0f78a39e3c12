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
SETUP := go run ./tools/engine
# The load generator; a server in a container wants an engine.
GENERATOR = exec $(if $(filter postgres,$(STORE)),$(SETUP)) $(BUILD)/load
# Packages whose tests start processes have `make test` to themselves, as have the
# charts', which want Helm.
PROCESS_TESTS := ./test/process/...
CHART_TESTS := ./test/charts/...
# Pact's library, brought here; its tests are Go's with the tag contract.
PACT_FFI = lib=$$(go run ./tools/pact ffi); folder=$$(dirname "$$lib"); \
	export CGO_ENABLED=1 CGO_LDFLAGS="-L$$folder -Wl,-rpath,$$folder" PACT_DO_NOT_TRACK=true
# Go links a test each time that it runs one, and with that library it takes 5 seconds.
PACT_TEST = mkdir -p "$(BUILD)"; go test -c -tags contract -o "$(CURDIR)/$(BUILD)/contract.test" ./test/contract; \
	cd test/contract && "$(CURDIR)/$(BUILD)/contract.test" -test.timeout 10m
# A release's version is its tag, and is in no file; what is not tagged is a rehearsal.
RELEASE ?= $(shell git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || echo v0.0.0-rehearsal)
REGISTRY ?=
HELM = helm=$$(go run ./tools/helm helm)
# Signs with the identity of the CI job that runs it.
COSIGN := go run github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
PACT_CLI = pact=$$(go run ./tools/pact cli)
# What a release is tested beside: the last one, or, while there is none, a commit.
PREVIOUS ?= $(shell git describe --tags --abbrev=0 HEAD 2>/dev/null || echo a8d6096f502f87c66dc18b3e88a9142c02b6a966)
# Who publishes what, to a Pact Broker: a service's version is its commit.
VERSION ?= $(shell git rev-parse HEAD)
BRANCH ?= $(shell git branch --show-current)

WIRE ?= http
DATA ?=
CALLERS ?= 16
STORE ?= sqlite
WORKLOAD ?= uniform
RATE ?= 0
SERVICE ?=
ENV ?=
AGAINST ?=
PUSH ?=
LOAD ?=
PORT ?= 8081
DURATION ?= 30s
FUZZTIME ?= 10s

.PHONY: help
help: ## List what make can do
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
test: ## Everything: check, also on PostgreSQL, contracts, charts, the real processes, and every exchange in containers
	@$(SETUP) $(MAKE) --no-print-directory check contract charts process exchanges

.PHONY: images
images: ## Make the container images, without an engine: make images [LOAD=1 into the local engine] [PUSH=registry/prefix]
	@go run ./deploy/image --out $(BUILD)/images $(if $(filter 1,$(LOAD)),--load,) $(if $(PUSH),--push=$(PUSH),)

.PHONY: integration
integration: ## Every exchange in containers, on every wire, under every fault, with a report to look at (5 minutes)
	@$(SETUP) $(MAKE) --no-print-directory exchanges

.PHONY: exchanges
exchanges: test-images
	@echo "== exchanges in containers"
	@rm -rf .reports/integration
	@status=0; $(TOOL) gotestsum --format testname --hide-summary skipped -- -count=1 -timeout 30m -parallel 6 ./test/integration \
		-args -report "$(CURDIR)/.reports/integration" || status=$$?; \
	echo ".reports/integration/index.html"; exit $$status

.PHONY: test-images
test-images:
	@echo "== the pair's images, and those of $(PREVIOUS)"
	@go run ./deploy/image --here --load --tag test --out $(BUILD)/test-images
	@rm -rf "$(BUILD)/previous" && git clone --quiet --shared --no-checkout . "$(BUILD)/previous" && git -C "$(BUILD)/previous" checkout --quiet "$(PREVIOUS)"
	@go run ./deploy/image --here --load --tag previous --out $(BUILD)/previous-images --source "$(BUILD)/previous"

.PHONY: integration-mutants
integration-mutants: ## Plant one bug after the other and see the integration tests notice it (15 minutes)
	@$(SETUP) go run ./tools/mutants

.PHONY: charts
charts: helm ## Test the Helm charts without a cluster, with Helm 3 and 4 (the first time builds both, some minutes)
	@echo "== charts"
	@go test -count=1 -timeout 10m $(CHART_TESTS)

# Whatever cluster KUBECONFIG names; IMAGE_LOAD, with images of the local engine as arguments, puts them into it.
KIND := kind
KIND_CLUSTER := roundtrip-e2e
KIND_CONFIG := $(CURDIR)/$(BUILD)/kind-kubeconfig

.PHONY: e2e
e2e: ## The charts on a real cluster, rollouts under load: make e2e [KUBECONFIG=file] [IMAGE_LOAD=command]; without, that of make kind-up (10 minutes)
	@if [[ -z "$${KUBECONFIG:-}" ]]; then export KUBECONFIG="$(KIND_CONFIG)" IMAGE_LOAD="$(KIND) load docker-image --name $(KIND_CLUSTER)"; fi; \
	[[ -s "$$KUBECONFIG" ]] || { echo "on which cluster? make kind-up, or KUBECONFIG=file"; exit 2; }; \
	command -v kubectl >/dev/null || { echo "kubectl is missing: https://kubernetes.io/docs/tasks/tools"; exit 2; }; \
	$(MAKE) --no-print-directory helm; \
	echo "== charts on a cluster"; $(SETUP) go test -count=1 -timeout 30m -v ./test/e2e

.PHONY: kind-up
kind-up: ## Make a cluster with kind, for make e2e
	@command -v $(KIND) >/dev/null || { echo "kind is missing: https://kind.sigs.k8s.io/docs/user/quick-start/#installation"; exit 2; }
	@mkdir -p $(BUILD); $(KIND) create cluster --name $(KIND_CLUSTER) --kubeconfig "$(KIND_CONFIG)" --wait 2m

.PHONY: kind-down
kind-down: ## Remove that cluster
	@$(KIND) delete cluster --name $(KIND_CLUSTER) --kubeconfig "$(KIND_CONFIG)"; rm -f "$(KIND_CONFIG)"

.PHONY: values
values: ## Write the table of the charts' values anew, after a change of a values.yaml
	@go test -count=1 -run '^TestTheTableOfValuesIsUpToDate$$' ./test/charts -update

.PHONY: helm
helm:
	@go run ./tools/helm helm >/dev/null
	@go run ./tools/helm helm3 >/dev/null

.PHONY: packages
packages: helm ## Package the charts into .build/packages, as the version of RELEASE=v1.2.3 and for images in REGISTRY
	@[[ "$(RELEASE)" =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$$ ]] || { echo "$(RELEASE) is no version such as v1.2.3"; exit 2; }
	@rm -rf $(BUILD)/charts $(BUILD)/packages; mkdir -p $(BUILD)/packages; cp -R deploy/helm $(BUILD)/charts
	@for file in $(BUILD)/charts/*/Chart.yaml $(BUILD)/charts/*/values.yaml; do \
		sed -e 's|^\( *version:\) 0\.0\.0$$|\1 $(RELEASE:v%=%)|; s|^appVersion: latest$$|appVersion: $(RELEASE)|' \
			-e 's|^  registry: ""$$|  registry: "$(REGISTRY)"|' "$$file" >"$$file.new"; mv "$$file.new" "$$file"; \
	done
	@$(HELM); for chart in inventory orders roundtrip; do \
		"$$helm" lint --quiet --strict "$(BUILD)/charts/$$chart"; \
		"$$helm" package --destination $(BUILD)/packages "$(BUILD)/charts/$$chart"; \
		"$$helm" template a "$(BUILD)/packages/$$chart-$(RELEASE:v%=%).tgz" | grep -q 'roundtrip/.*:$(RELEASE)"' \
			|| { echo "the package of $$chart does not run $(RELEASE)"; exit 1; }; \
	done 2> >(grep -v 'found symbolic link' >&2)

.PHONY: release-dry-run
release-dry-run: images packages ## Make all that a release publishes, and publish nothing: make release-dry-run [RELEASE=v1.2.3]
	@[[ "$(RELEASE)" == *-* ]] || grep -q '^## $(RELEASE:v%=%) ' CHANGELOG.md || { echo "CHANGELOG.md says nothing of $(RELEASE:v%=%): give what is unreleased that heading, with the date"; exit 1; }
	@echo "== $(RELEASE), not published"; ls -l $(BUILD)/images/*.cdx.json $(BUILD)/packages

.PHONY: release
release: release-dry-run ## Publish a release, signed, as release.yml does: make release REGISTRY=ghcr.io/somebody
	@[[ -n "$(REGISTRY)" ]] || { echo "where to? REGISTRY=ghcr.io/somebody"; exit 2; }
	@[[ -z "$$(git status --porcelain)" && "$$(git rev-parse "$(RELEASE)^{commit}")" == "$$(git rev-parse HEAD)" ]] \
		|| { echo "this is not a clean checkout of $(RELEASE)"; exit 2; }
	@go run ./deploy/image --out $(BUILD)/images --version="$(RELEASE)" --push="$(REGISTRY)/roundtrip" | tee $(BUILD)/pushed
	@grep -F '@sha256:' $(BUILD)/pushed | while read -r image platform; do \
		$(COSIGN) sign --yes "$$image" </dev/null; \
		[[ "$$platform" == index ]] && continue; \
		service=$${image%@*}; \
		$(COSIGN) attest --yes --type cyclonedx --predicate "$(BUILD)/images/$${service##*/}-$${platform/\//-}.cdx.json" "$$image" </dev/null; \
	done
	@$(HELM); for chart in inventory orders roundtrip; do \
		"$$helm" push "$(BUILD)/packages/$$chart-$(RELEASE:v%=%).tgz" "oci://$(REGISTRY)/roundtrip/charts" 2>&1 | tee $(BUILD)/pushed; \
		$(COSIGN) sign --yes "$(REGISTRY)/roundtrip/charts/$$chart@$$(sed -nE 's/^Digest: //p' $(BUILD)/pushed)"; \
	done

.PHONY: contract
contract: ## Verify the pact from both sides, on every wire, and that it catches every mutant (30 seconds)
	@echo "== contracts"
	@mkdir -p .reports && rm -f .reports/contract.txt
	@$(PACT_FFI); unset PACT_BROKER_BASE_URL; $(PACT_TEST) -report "$(CURDIR)/.reports/contract.txt"; cat "$(CURDIR)/.reports/contract.txt"

.PHONY: pacts
pacts: ## Write contracts/pacts anew, after a change of what orders relies on
	@$(PACT_FFI); $(PACT_TEST) -test.run '^TestOrdersReliesOnWhatThePactSays$$' -update

.PHONY: contract-publish
contract-publish: broker ## Publish the pact to a Pact Broker (PACT_BROKER_BASE_URL, PACT_BROKER_TOKEN)
	@$(PACT_CLI); "$$pact" broker publish contracts/pacts --consumer-app-version "$(VERSION)" --branch "$(BRANCH)"

.PHONY: contract-verify
contract-verify: broker ## Verify the pacts that a Pact Broker has against this inventory, and publish the results
	@mkdir -p .reports
	@$(PACT_FFI); PACT_PROVIDER_VERSION="$(VERSION)" PACT_PROVIDER_BRANCH="$(BRANCH)" $(TOOL) gotestsum --junitfile .reports/contract.xml -- \
		-count=1 -timeout 10m -tags contract -run '^TestInventoryAnswersAsTheBrokersPactsSay$$' ./test/contract

.PHONY: can-i-deploy
can-i-deploy: ## May this be deployed: make can-i-deploy SERVICE=orders ENV=production, or, from git alone, AGAINST=v1.2.3
	@[[ "$(SERVICE)" == orders || "$(SERVICE)" == inventory ]] || { echo "which service? SERVICE=orders or SERVICE=inventory"; exit 2; }
	@[[ -n "$(ENV)$(AGAINST)" ]] || { echo "into what? ENV=an environment of the Pact Broker's, or AGAINST=the git ref that runs there"; exit 2; }
ifneq ($(AGAINST),)
	@$(PACT_FFI); go run ./tools/candeploy --service "$(SERVICE)" "$(AGAINST)"
else
	@$(MAKE) --no-print-directory broker
	@$(PACT_CLI); "$$pact" broker can-i-deploy --pacticipant "$(SERVICE)" --version "$(VERSION)" --to-environment "$(ENV)"
endif

.PHONY: record-deployment
record-deployment: broker ## Tell the Pact Broker what runs where: make record-deployment SERVICE=orders ENV=production
	@[[ -n "$(SERVICE)" && -n "$(ENV)" ]] || { echo "what runs where? SERVICE=orders ENV=production"; exit 2; }
	@$(PACT_CLI); "$$pact" broker record-deployment --pacticipant "$(SERVICE)" --version "$(VERSION)" --environment "$(ENV)"

.PHONY: broker
broker:
	@[[ -n "$${PACT_BROKER_BASE_URL:-}" ]] || { echo "where is the Pact Broker? Set PACT_BROKER_BASE_URL, and PACT_BROKER_TOKEN if it wants one"; exit 2; }

.PHONY: stub
stub: ## Run a stub of inventory on PORT (8081), made of the pact, for whoever works on orders or a shop
	@echo "== answers what the pact has; contracts/README.md shows a request"
	@$(PACT_CLI); exec "$$pact" stub --file contracts/pacts/orders-inventory.json --port $(PORT)

.PHONY: breaking
breaking: ## Look for changes of the contracts since the last tag, else the commit before, that would break a caller
	@mkdir -p "$(BUILD)"; base=$$(git describe --tags --abbrev=0 HEAD 2>/dev/null || git rev-parse HEAD^); echo "== contracts against $$base"; \
	$(TOOL) buf breaking --against ".git#ref=$$base"; \
	for document in inventory orders; do \
		git show "$$base:contracts/openapi/$$document.yaml" >"$(BUILD)/$$document-before.yaml"; \
		$(TOOL) oasdiff breaking --fail-on ERR "$(BUILD)/$$document-before.yaml" "contracts/openapi/$$document.yaml"; \
	done

.PHONY: doctor
doctor: ## Say what is there, what is missing, and the command that mends it
	@go run ./tools/doctor

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
	@[[ -n "$${ROUNDTRIP_ENGINE:-}" ]] || echo "!! What needs a container (PostgreSQL) or the library of Pact is LEFT OUT; make test brings both."
	@go test -timeout 20m $(RACE) $$(go list ./... | grep -vE '/test/(process|integration|charts|e2e)$$')

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
load: build-load ## Put load on a new pair: make load WORKLOAD=uniform|hot|mixed [STORE=postgres] [WIRE=grpc|nats] [CALLERS=16] [RATE=n] [DURATION=30s]
	@$(GENERATOR) run $(WORKLOAD) --bin $(BUILD) --store $(STORE) --wire $(WIRE) --callers $(CALLERS) --rate $(RATE) --duration $(DURATION)

.PHONY: replay
replay: build-load ## Put real invoices through the pair: make replay DATA=file.csv.gz [STORE=postgres] [WIRE=grpc|nats] [CALLERS=16]
	@[[ -n "$(DATA)" ]] || { echo "which file? make replay DATA=online-retail.csv.gz"; exit 2; }
	@$(GENERATOR) run invoices --bin $(BUILD) --store $(STORE) --wire $(WIRE) --callers $(CALLERS) --data "$(DATA)"

.PHONY: bench
bench: STORE := postgres
bench: build-load ## Compare stores, callers, batches and wires, and what limits them, in one table (8 minutes; Linux)
	@$(GENERATOR) bench --bin $(BUILD)

.PHONY: build-load
build-load: build
	@$(GO_BUILD) -o $(BUILD)/load ./test/load

.PHONY: generate
generate: ## Generate the code of the proto contract, and lint it (the first time builds buf, some minutes)
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
clean: ## Remove what was built or brought and what runs and tests left, also the pair's data
	@rm -rf .build .data .reports .tools
