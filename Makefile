# The commands of the project; `make help` lists them.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET_DIR)/debug
JOBS ?= 2

.PHONY: help setup build image measure-ops measure-requests measure-switch test-vm test-wireguard cni-static demo test check fmt bench bench-bgp bench-cni bench-codec bench-dataplane bench-speaker bench-calc bench-policy bench-typha deny

help: ## lists the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## installs what is missing, by the names of Debian packages
	@scripts/setup

build: setup ## builds every program
	$(CARGO) build --workspace --bins -j$(JOBS)

cni-static: ## links the CNI plugins statically, as they are installed on nodes
	@for bin in calico calico-ipam; do \
	  $(CARGO) rustc --profile plugin -p cni --bin $$bin -j$(JOBS) -- -C target-feature=+crt-static -C relocation-model=static || exit 1; \
	done
	@mkdir -p $(TARGET_DIR)/release && cp --remove-destination $(TARGET_DIR)/plugin/calico $(TARGET_DIR)/plugin/calico-ipam $(TARGET_DIR)/release/

image: setup ## builds the container image localhost/ocicat:dev; OUTPUT=ocicat.tar saves it, too
	@JOBS=$(JOBS) images/build $(if $(OUTPUT),--output $(OUTPUT))

demo: build ## plays the demo: a cluster on this machine, told as a story
	@$(BIN)/demo

test: setup ## every check and test
	@JOBS=$(JOBS) scripts/test

test-vm: build ## plays every case of NetworkPolicy on a stock kernel (an hour or more); ENGINE=qemu for nftables (hours), CASES=cyc-001,cyc-021 for some
	OCICAT_NETPOL_CASES="$(CASES)" $(CARGO) test -p e2e --test network_policy -j$(JOBS) -- --ignored --nocapture on_a_stock_kernel_with_$(if $(filter qemu,$(ENGINE)),nftables,iptables)

test-wireguard: build ## switches WireGuard on and off in a cluster on a stock kernel, while pods talk (minutes)
	$(CARGO) test -p e2e --test wireguard -j$(JOBS) -- --ignored --nocapture switched_on_and_off

measure-ops: build ## upgrade, rollback, outage and node replacement under traffic, with figures; OUTAGE_SECONDS=600 for ten minutes
	$(CARGO) test -p e2e --test operating -j$(JOBS) -- --nocapture

measure-requests: build ## memory and processor of the programs of a node, with the shipped manifest; PROGRAMS=DIRECTORY for others than this build's
	scripts/measure-requests $(or $(PROGRAMS),$(BIN))

measure-switch: build ## a pool turned through IPIP, VXLAN and direct routing under traffic, in a virtual machine; ENGINE=uml for the other one
	$(CARGO) build -q -p e2e --example live-switch -j$(JOBS)
	$(BIN)/lab vm --engine $(or $(ENGINE),qemu) --timeout 3000 -- $(BIN)/examples/live-switch

check: ## format, lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -j$(JOBS) -- -D warnings

fmt: ## formats everything
	$(CARGO) fmt --all

bench: setup ## measures against peers, in one run
	@JOBS=$(JOBS) scripts/bench

bench-codec: setup ## measures BGP messages into types and back
	@$(CARGO) bench -q -p bgp-packet --bench codec -j$(JOBS)

bench-speaker: setup ## measures the BGP speaker without sockets
	@$(CARGO) bench -q -p bgp --bench speaker -j$(JOBS)

bench-bgp: setup ## measures the BGP speaker beside others; ARGS="--shape cold --subject ocicat,bird2 --runs 1" for a part
	@$(CARGO) build --release -p bench-bgp -p route-reflector -j$(JOBS)
	@$(TARGET_DIR)/release/bench-bgp --ocicat $(TARGET_DIR)/release/route-reflector $(ARGS)

bench-cni: setup cni-static ## measures the CNI plugin with agent, IPAM and policy beside Debian's ptp and bridge
	@$(CARGO) build -q --release -p lab -p felix -p bird-lite -p controllers -p ocicat --bins -j$(JOBS)
	@$(CARGO) run -q --release -p e2e --example bench-cni -j$(JOBS)

bench-dataplane: setup cni-static ## measures packets between pods of two nodes beside routes made by hand
	@$(CARGO) build -q --release -p lab -p felix -p bird-lite -p controllers -p ocicat --bins -j$(JOBS)
	@$(CARGO) run -q --release -p e2e --example bench-dataplane -j$(JOBS)

bench-calc: setup ## measures the policy calculation at 100 000 endpoints and 5 000 policies; ARGS="10000 500" for fewer
	@$(CARGO) run -q --release -p felix-calc --example bench-calc -j$(JOBS) -- $(ARGS)

bench-policy: setup ## measures policy in the kernel beside nft, iptables-restore and Calico's tree; ARGS="--section packets" for a part
	@$(CARGO) run -q --release -p bench-policy -j$(JOBS) -- $(ARGS)

bench-typha: setup ## measures typha with 2 000 clients and 100 000 endpoints over TLS; ARGS="200 10000" for fewer
	@$(CARGO) build -q --release -p typha --bins --examples -j$(JOBS)
	@ulimit -n 16384 && $(TARGET_DIR)/release/examples/bench-typha $(ARGS)

deny: ## licences, advisories, sources of what is linked
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check
