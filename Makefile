# The one door: what a person and CI run. Each target installs what it needs (scripts/setup) and builds what it runs.
#
#   make demo     a mirrored file system that loses its peer and its writer, every acknowledged byte checked
#   make test     unit and property tests, tests on real processes, a short simulation, the broken variants, a short soak
#   make check    format, lints, documentation, dependency direction, the rules of this repository
#   make sim      the simulator: SEEDS=n
#   make soak     kills, pauses and cut links of real processes: ROUNDS=n of one writer, SOAK_SECONDS=n of several
#   make fuzz     every fuzz target of the codecs: FUZZ_SECONDS=n each
#   make e2e      scenarios on a real kind cluster; e2e-levels: ten fail-overs; conformance: Kubernetes' suite of storage drivers
#   make bench    against the raw disk and qemu-storage-daemon; BENCH=quick for a short look
#   make images   container images, for docker; REGISTRY=... pushes them there, TAG=... names them
#   make manifests    the parts of the chart that are generated, and manifests/
#
# Programs that mount file systems and configure loop devices run as root: through sudo where the caller is not.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
SEEDS ?= 10000
ROUNDS ?= 200
# Ten minutes with two replicas, and ten with three.
SOAK_SECONDS ?= 1200
FUZZ_SECONDS ?= 60
BENCH ?= full
# Of e2e: nothing for all, --smoke for the short ones, --only NAME.
SCENARIOS ?=

# What `make test` runs of the simulation and of the soak: of one writer ten rounds or twenty seconds, whichever is first.
TEST_SEEDS ?= 2000
TEST_ROUNDS ?= 10
TEST_ROUNDS_SECONDS ?= 20
TEST_SOAK_SECONDS ?= 60

# One profile for tests, demo, soak and bench, so that each crate is compiled once.
profile := --release
programs := $(or $(CARGO_TARGET_DIR),target)/release
as_root := $(if $(filter 0,$(shell id -u)),,sudo -E)
# Test programs mount and configure loop devices too: cargo starts them by this.
runner := $(if $(as_root),--config 'target."cfg(all())".runner="sudo -E"')

.PHONY: e2e e2e-levels conformance help demo test check sim variants soak fuzz bench programs kube setup images manifests

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@scripts/setup base

# Cargo unifies features over what is built at once. The simulator asks lockstep-core for the broken variants: whatever
# depends on it is built apart from the programs, so that no program ever contains them.
with_simulator := lockstep-sim lockstep-e2e

programs: setup
	$(CARGO) build $(profile) -p lockstep-node -p lockstep-controller --bins
	$(CARGO) build $(profile) -p lockstep-e2e --bins

# What the tests of Kubernetes run. Built by whoever calls make, and found by the tests also where they run as root.
kube:
	@scripts/kube-programs build apiserver chart sanity

demo: programs
	$(as_root) $(programs)/demo

test: export LOCKSTEP_KUBE_PROGRAMS ?= $(shell scripts/kube-programs where)
test: programs kube
	$(CARGO) $(runner) test $(profile) --workspace $(addprefix --exclude ,$(with_simulator))
	$(CARGO) $(runner) test $(profile) $(addprefix --package ,$(with_simulator))
	$(MAKE) --no-print-directory sim SEEDS=$(TEST_SEEDS)
	$(MAKE) --no-print-directory variants
	$(as_root) $(programs)/soak --access single-writer --rounds $(TEST_ROUNDS) --seconds $(TEST_ROUNDS_SECONDS)
	$(as_root) $(programs)/soak --cut-links --seconds $(TEST_SOAK_SECONDS)

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(profile) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(profile) --workspace --no-deps
	$(CARGO) test $(profile) -p lockstep-e2e --test dependencies --test tidy

sim: setup
	$(CARGO) run $(profile) -p lockstep-sim -- run --seeds $(SEEDS)

variants: setup
	$(CARGO) run $(profile) -p lockstep-sim -- variants

soak: programs
	$(as_root) $(programs)/soak --access single-writer --rounds $(ROUNDS)
	$(as_root) $(programs)/soak --cut-links --seconds $(SOAK_SECONDS)

fuzz:
	@scripts/setup fuzz
	cd mirror/format; for target in $$($(CARGO) +nightly fuzz list); do \
		mkdir -p fuzz/corpus/$$target; \
		$(CARGO) +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench: export LOCKSTEP_KUBE_PROGRAMS ?= $(shell scripts/kube-programs where)
bench: programs kube
	@scripts/setup bench
	$(CARGO) build $(profile) -p lockstep-engine --example floor
	$(CARGO) build $(profile) -p lockstep-core --example policing_cost
	$(CARGO) build $(profile) -p lockstep-e2e --example lease_levels
	$(as_root) $(programs)/bench --profile $(BENCH)

# REGISTRY and TAG reach the script as make hands on what its command line and its environment set.
images:
	@scripts/images build

manifests: setup
	@scripts/kube-programs build chart
	@scripts/manifests render

e2e:
	scripts/e2e run $(SCENARIOS)

e2e-levels:
	scripts/e2e levels

conformance:
	scripts/e2e conformance
