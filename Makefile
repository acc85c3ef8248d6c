# `make help` lists all commands.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# The program and the embedded cluster's tools share packages in the Go build cache only if they are built with the same
# flags. local/internal/toolchain/gobuild.go has the same flags, and the reasons for them.
export GOFLAGS := -trimpath '-gcflags=all=-dwarf=false -l'
export GOTOOLCHAIN := local
export CGO_ENABLED := 0

STACK ?= dev
CONFIG ?= Pulumi.$(STACK).yaml
TOOL = go -C local run ./cmd/tool
FRONT_TOOLS = HAPROXY=$$($(TOOL) haproxy) OLLAMA_DECODER=$(CURDIR)/bin/ollama-decoder && export HAPROXY OLLAMA_DECODER

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: up
up: bin/local ## Start a real cluster on this machine, deploy Pulumi.local.yaml (or CONFIG=file.yaml), and query it
	bin/local up $(if $(filter command line environment,$(origin CONFIG)),--config $(CONFIG))

.PHONY: down
down: bin/local ## Stop the cluster and remove everything that it left on the machine, except the built tools
	bin/local down

# Many tests wait for other programs, so more of them run at a time than there are cores. `make lint` vets.
.PHONY: test
test: ## Run the tests, which need no cluster
	@tools/debian-packages.sh dash
	@mkdir -p bin && go build -C test/decoder -o ../../bin/ollama-decoder .
	@$(FRONT_TOOLS) && PROMTOOL=$$($(TOOL) promtool) JSON_EXPORTER=$$($(TOOL) json-exporter) && \
	OAUTH2_PROXY=$$($(TOOL) oauth2-proxy) ISSUER=$$($(TOOL) issuer) && export PROMTOOL JSON_EXPORTER OAUTH2_PROXY ISSUER && \
	go test -vet=off -parallel 16 ./... && go -C local test -vet=off ./... && go -C test/charts test -vet=off ./...

.PHONY: attack
attack: ## Attack the front at full size, and the config with random values (30 minutes, as root)
	@mkdir -p bin && go build -C test/decoder -o ../../bin/ollama-decoder .
	@$(FRONT_TOOLS) && go test -tags attack -run TestAttack -count=1 -v -timeout 60m ./components && \
	FRONT_FUZZ=200000 go test -run TestTheFrontJudgesWhatTheServerReads -count=1 -v -timeout 60m ./components && \
	CONFIG_FUZZ=20000 go test -run TestAnyConfigIsRefusedByKeyOrPlanned -count=1 -v ./stacks

.PHONY: e2e
e2e: bin/local ## Test the whole product on the embedded cluster: real engine, pods and Ollama (as root)
	OLLAMA_BIN=$$($(TOOL) ollama) go -C local test -count=1 -v ./registry
	go test -tags e2e -count=1 -timeout 80m -v -run TestTheWholeStack ./test/e2e

.PHONY: bench
bench: bin/local ## Measure the front, its queue, a plain autoscaler and a simulated fleet (as root)
	go test -tags e2e -count=1 -timeout 60m -v -run TestBench ./test/e2e

.PHONY: render
render: ## Print the Kubernetes objects of a stack, secrets redacted (STACK=prod [CONFIG=file.yaml])
	@go run ./cmd/render -stack $(STACK) -config $(CONFIG)

.PHONY: plan
plan: ## Print how a stack's models use the GPU memory, and whether they fit (STACK=prod [CONFIG=file.yaml])
	@go run ./cmd/plan -stack $(STACK) -config $(CONFIG)

.PHONY: lock
lock: ## Write models.lock.yaml for all stacks (STACK=name for one; more options in docs/memory.md)
	@go run ./cmd/lock $(if $(filter command line environment,$(origin STACK)),-stack $(STACK)) $(if $(filter command line environment,$(origin CONFIG)),-config $(CONFIG)) \
	  $(if $(CHECK),-check) $(if $(REGISTRY),-registry $(REGISTRY)) $(if $(CA),-ca $(CA)) $(if $(GGUF),-gguf $(GGUF))

.PHONY: verify
verify: bin/local ## Show the state of the embedded cluster, and query the endpoint
	bin/local status
	bin/local ask

.PHONY: lint
lint: ## Check every file with the checker for its type
	@tools/debian-packages.sh shellcheck yamllint
	@mkdir -p bin && go build -C tools -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	@STATICCHECK=$(CURDIR)/bin/staticcheck tools/lint.sh

# Always run: Go itself knows what is up to date.
.PHONY: bin/local
bin/local:
	@mkdir -p bin
	@go build -C local -o ../bin/local ./cmd/local
