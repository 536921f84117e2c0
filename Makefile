# AIStack. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# CI keeps its build outside the clone, so that the next clone finds it.
ifdef CI
export CARGO_TARGET_DIR ?= $(HOME)/.cache/aistack/target
else
export CARGO_TARGET_DIR ?= $(CURDIR)/target
endif
BIN := $(CARGO_TARGET_DIR)/release

##@ Use it

.PHONY: quickstart
quickstart: ## From nothing to a cited answer: installs, builds, starts, ingests, asks
	@hack/quickstart.sh

.PHONY: quickstart-k8s
quickstart-k8s: ## The same on a real Kubernetes on this machine, from charts and our own images (root, Go); STORE=tinykv
	@hack/quickstart-k8s.sh

.PHONY: build
build: ## Build every binary, optimised
	cargo build --release --workspace --bins

.PHONY: models
models: ## Fetch the quickstart's models into the model cache
	cargo xtask models

.PHONY: down
down: ## Stop the stack that the quickstart started
	$(BIN)/aistack down

##@ Work on it

.PHONY: test
test: ## Everything that CI runs: formatting, lints, tests, the peers' clients, the quickstart
	@hack/test.sh

.PHONY: lint
lint: ## Formatting and lints only
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	hack/gpu/nvcc.sh && cargo clippy --release -p tinykernels --features cuda --all-targets -- -D warnings

.PHONY: gen
gen: ## Write every generated file (CRDs, protocol code)
	cargo xtask gen

.PHONY: tidy
tidy: ## Check the gates of the house style
	cargo xtask tidy

.PHONY: test-gpu
test-gpu: ## On the machine with the GPU: every kernel against float64, under compute-sanitizer, in Rust, torch and JAX
	@hack/gpu/build.sh && hack/gpu/device.sh rust check jax sanitize

.PHONY: wheel
wheel: ## The Python package tinykernels: built, installed into a clean environment, tried there (needs no GPU)
	@hack/gpu/wheel.sh

##@ Measure it

.PHONY: bench-gpu
bench-gpu: ## On the machine with the GPU: every kernel beside its peer; writes docs/benchmarks/gpu.jsonl and its pictures
	@hack/gpu/build.sh && hack/gpu/device.sh bench && grep '"what"' out/gpu/bench.jsonl >docs/benchmarks/gpu.jsonl && python3 kernels/benches/gpu/plot.py

.PHONY: bench
bench: ## Run the benchmarks beside their peers; appends to docs/benchmarks/*.jsonl
	@hack/bench.sh

.PHONY: bench-tinykv
bench-tinykv: ## TinyKV beside etcd, three members of each (B1 to B10, half an hour); WORKLOADS=B1,B4 for some
	@e2e/peers/bench/tinykv.sh $(WORKLOADS)

.PHONY: bench-operator
bench-operator: ## The operator with 1,000 objects, and KubeRay's beside it (L1 to L7, root, half an hour); OBJECTS, ONLY=L1,L2
	@e2e/peers/bench/operator.sh

.PHONY: test-faults
test-faults: ## What goes wrong, through the whole stack: hostile clients, a full disk, kill -9 of everything
	@e2e/faults.sh

.PHONY: test-operator-faults
test-operator-faults: build ## 100 seeded schedules of faults on KVClusters under 50 clients; SCHEDULES, SEED
	@SCHEDULES=$${SCHEDULES:-100} cargo test --release -p e2e --test tier_two -- --nocapture --exact faults::no_schedule_of_faults_has_us_take_two_voters_or_fail_an_operation

.PHONY: test-operator
test-operator: build ## Bad manifests, KVClusters under load, a crowd of OBJECTS (1,000), on a control plane with hollow nodes
	@OBJECTS=$${OBJECTS:-1000} cargo test --release -p e2e --no-fail-fast

.PHONY: test-crash
test-crash: ## 1,000 kill -9 rounds against three TinyKV members, 200 against each store; ROUNDS, NODE_ROUNDS
	@hack/test-crash.sh

.PHONY: test-peers
test-peers: build ## ModelHub's suite on etcd and llama.cpp's server; logits beside Hugging Face's (big downloads)
	@e2e/peers/modelhub/run.sh
	@e2e/peers/transformers/run.sh

.PHONY: test-etcd
test-etcd: build ## etcd's own suites on TinyKV: common, common with every kind of cluster, e2e (an hour); writes e2e/peers/etcd/results
	@failed=; for suite in common common-full e2e; do \
	  e2e/peers/etcd/suite.sh $$suite $(BIN)/tinykv || failed=$$failed\ $$suite; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

.PHONY: test-page
test-page: build ## Every command of docs/tinykv.md in order, its four clients before and after a member is killed
	@e2e/peers/etcd/page.sh $(BIN)

.PHONY: test-kubernetes-storage
test-kubernetes-storage: build ## Kubernetes' own tests of its storage layer, on etcd and on TinyKV
	@e2e/peers/kubernetes/storage.sh $(BIN)/tinykv

.PHONY: test-robustness
test-robustness: build ## etcd's robustness models over three TinyKV nodes under faults; RUNS=100 TRAFFIC=… SEED=… FAULT=…
	@RESULTS=$${RESULTS:-e2e/peers/etcd/results/robustness.json} e2e/peers/etcd/robustness.sh $(BIN)/tinykv

.PHONY: fuzz
fuzz: ## Fuzz what parses foreign bytes (model files, the log, commands, snapshots, the gateway), FUZZ_SECONDS (300) each
	@hack/fuzz.sh

.PHONY: test-kubernetes
test-kubernetes: build ## Our kinds and manifests before a real API server, on etcd and on TinyKV (builds Kubernetes once)
	@e2e/kubernetes.sh

.PHONY: test-kubernetes-faults
test-kubernetes-faults: build ## A Kubernetes control plane on three etcds, then three TinyKVs, whose leader is killed again and again
	@e2e/kubernetes_faults.sh

.PHONY: test-charts
test-charts: build ## Packaging: both charts by helm 3 and 4 before a real API server, policies, rights, Argo CD's health checks
	@e2e/charts.sh $(BIN)/aistack-operator

.PHONY: test-k8s
test-k8s: build ## The platform on a real node: charts to an answer, kill -9 of every pod, drain, upgrade, deletion; STORE=tinykv
	@e2e/quickstart_k8s.sh walk

.PHONY: test-argocd
test-argocd: build ## The same platform from a Git repository by Argo CD's own controller: edits, drift, syncs that change nothing; STORE=tinykv
	@e2e/argocd.sh

.PHONY: test-storages
test-storages: build ## Backups in object storage: taken, kept, restored and refused, on servers of S3, Google's and Azure's protocol (Go, npm)
	@e2e/peers/storages/run.sh $(BIN)/tinykv

.PHONY: e2e
e2e: test-operator test-operator-faults test-charts test-k8s test-argocd ## All of these, and the last two again with Kubernetes on TinyKV (two hours)
	@STORE=tinykv e2e/quickstart_k8s.sh walk
	@STORE=tinykv e2e/argocd.sh

.PHONY: images
images: build ## Container images of the platform as an OCI archive in out/images, without a daemon, and their SBOM
	cargo xtask images

.PHONY: plane
plane: ## A Kubernetes API server on this machine; prints what points kubectl at it. NODE=1: and a node; STORE=tinykv: its store
	@PLANE_NODE=$(NODE) PLANE_STORE=$(STORE) hack/plane/plane.sh up

.PHONY: plane-down
plane-down: ## Stop it, and leave nothing behind
	@hack/plane/plane.sh down

.PHONY: setup
setup: ## Install the Debian packages that building and the quickstart need
	@hack/setup.sh run

.PHONY: setup-test
setup-test: ## Install what the tests need besides
	@hack/setup.sh test

.PHONY: help
help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-23s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
