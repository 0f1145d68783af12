# What to run: `make help` lists it. `make up` and `make test` are the two that
# a newcomer needs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# One setting for every build, so that nothing is compiled twice.
export CGO_ENABLED := 0
export GOFLAGS ?= -buildvcs=false

# Flags of `make up`, such as ARGS="--scenario scenarios/small.yaml --speed 60".
ARGS ?=
# How long each fuzz target runs with `make fuzz`.
FUZZTIME ?= 30s

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: build $(if $(findstring --join-host,$(ARGS)),node) ## Build and start the local cluster, its day and its page (ARGS="…" are passed on)
	@exec bin/neap up $(ARGS)

.PHONY: build
build: deps ui ## Build bin/neap, the control plane and the scheduler
	@hack/build.sh

.PHONY: node
node: ## Build and install what `neap up --join-host` needs besides
	@hack/deps.sh node
	@hack/build.sh node

.PHONY: deps
deps:
	@hack/deps.sh build

.PHONY: ui
ui: ui/dist/index.html ## Build the page that is embedded in bin/neap

ui/node_modules/.package-lock.json: ui/package.json ui/package-lock.json
	@echo "fetching the page's packages"
	@cd ui && npm ci --no-audit --no-fund --loglevel=error </dev/null
	@touch $@

ui/dist/index.html: ui/node_modules/.package-lock.json $(shell find ui -path ui/node_modules -prune -o -path ui/dist -prune -o -type f -print 2>/dev/null)
	@echo "building the page"
	@cd ui && npm run --silent build </dev/null
	@touch $@

.PHONY: test
test: ## Run every test; installs what it needs as root on Debian, else says what is missing
	@hack/test.sh

.PHONY: check
check: lint ## What a commit must pass: lint and the short tests
	@go test -short -timeout 10m $$(go list ./... | grep -v -e /cmd/neap-cluster -e /cmd/neap-scheduler -e /kube/scheduler -e /test/)

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@hack/lint.sh

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (30s)
	@hack/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: build ## Measure every bar and print it (bench/README.md)
	@status=0; for b in $$(bin/neap bench --list); do echo "== neap bench $$b"; bin/neap bench $$b || status=1; done; exit $$status

.PHONY: soak
soak: build ## Place 100,000 pods on GPUs with schedulers killed and pods racing, under audit (an hour)
	@NEAP_GPU_PLACEMENTS=100000 go test ./test/kube -count=1 -timeout 4h -v -run '^TestNoGPUIsGivenAwayTwice$$'

.PHONY: soak-agent
soak-agent: ## Run the agent while pods come and go, under the race detector (an hour, as root)
	@CGO_ENABLED=1 NEAP_AGENT_SOAK=$${NEAP_AGENT_SOAK:-1h} go test -race ./host/agent -count=1 -timeout 2h -v -run '^TestPodsComeAndGo$$'

.PHONY: hardware
hardware: ## Try GPU sharing on this machine's GPU, or say what is missing for it
	@mkdir -p bin && go build -o bin/ ./cmd/neap-agent && bin/neap-agent probe
	@go test -tags hardware -count=1 -timeout 10m -v ./test/hardware

.PHONY: vuln
vuln: ## Look the modules up in Go's vulnerability database
	@hack/vuln.sh

.PHONY: clean
clean: ## Remove what was built (not the state of `make up`)
	@rm -rf bin ui/node_modules
	@find ui/dist -mindepth 1 ! -name .gitkeep -delete 2>/dev/null || true
