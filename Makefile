# What one does in this checkout; `make` lists it. Rust and a C compiler have to be there.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Tools that cargo builds stay in the checkout.
TOOLS := target/tools
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)
CARGO_DENY := $(or $(shell PATH="$(PATH)" command -v cargo-deny),$(TOOLS)/bin/cargo-deny)
CARGO_DENY_VERSION := 0.20.2
CARGO_DEB_VERSION := 3.8.0

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: ## Serve the demo; it prints what to paste to subscribe and to send
	cargo run --release

.PHONY: test
test: tools ## Run every test, those with the official SDKs among them
	cargo test --features failpoints --no-fail-fast

# Cycles of kill -9 and seeds of the model in `make soak`.
CYCLES := 1000
SEEDS := 100000

.PHONY: soak
soak: ## Kill weir and run its model far longer; CYCLES=1000 SEEDS=100000
	WEIR_MODEL_SEEDS=$(SEEDS) cargo test --release --features failpoints --lib model -- --nocapture
	WEIR_CRASH_CYCLES=$(CYCLES) cargo test --release --features failpoints --test crash -- --nocapture

.PHONY: tools
tools: ## Install what the tests run: SDKs, an MQTT client, Prometheus, balancers
	@for install in tests/*/install; do $$install; done

.PHONY: docs
docs: ## Write anew the pages of docs/ that are generated from the code
	WEIR_WRITE_DOCS=1 cargo test --features failpoints --test docs

.PHONY: lint
lint: $(CARGO_DENY) ## Check format, lints, dependencies and docs
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo deny --locked check --hide-inclusion-graph bans licenses sources
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps

.PHONY: bench
bench: ## Measure each stage, and all of them end to end
	cargo bench

.PHONY: deb
deb: $(TOOLS)/bin/cargo-deb ## Build the Debian package, target/debian/weir_*.deb
	cargo build --release --locked --bin weir
	deploy/debian/prepare target/release/weir target/deb
	cargo deb --locked --no-build

.PHONY: load
load: tools ## Run a load test; SCRIPT=limit, and load-tests/run --help
	load-tests/run $(SCRIPT)

# What `make load` runs.
SCRIPT := smoke

# Devices in `make idle`.
DEVICES := 5000

.PHONY: idle
idle: ## Measure the memory of an idle device, over TCP and TLS; DEVICES=5000
	cargo build --release
	cargo run --example idle_devices -- target/release/weir $(DEVICES)

# In the dev profile: a minute of compiling instead of several, and a check still takes 3 s.
$(TOOLS)/bin/cargo-deny:
	CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --debug \
		--version $(CARGO_DENY_VERSION) --locked --root $(TOOLS)

$(TOOLS)/bin/cargo-deb:
	CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deb --debug \
		--version $(CARGO_DEB_VERSION) --locked --root $(TOOLS)
