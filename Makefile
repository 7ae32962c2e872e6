# cri-pouch: `make help` says what there is. Every target works without a terminal and without questions.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

GO          ?= go
PREFIX      ?= /usr/local
DESTDIR     ?=
BIN         := $(CURDIR)/bin
BUILD       := $(CURDIR)/build
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The tags of the product. netgo and osusergo keep libc's resolvers out of static binaries, seccomp links libseccomp in.
TAGS        := seccomp netgo osusergo
LDFLAGS     := -s -w -X main.version=$(VERSION)
STATIC      := -linkmode external -extldflags "-static"
UNIT         = $$($(GO) list ./... | grep -vE '/integration(/rich|/hostile|/chaos)?$$')
# How many times longer than here a test may take, for machines that are slow on purpose (see test-vm).
TEST_TIMEOUT ?= 20m
# Arguments for the test run, as: make test-integration RUN=TestReplace
RUN         ?=
TESTFLAGS   := $(if $(RUN),-run '$(RUN)')
REPORT       = $(GO) run ./integration/testreport

export CGO_ENABLED = 1

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- building ----------------------------------------------------------------------------------------------------------

.PHONY: deps
deps: ## install the Debian packages that are missing, build the CNI plugins (as root)
	@integration/scripts/deps.sh
	@integration/scripts/cni-plugins.sh

.PHONY: build
build: $(BIN)/cri-pouch $(BIN)/containerd-shim-pouch-v2 $(BIN)/pouch-init ## build the three binaries into bin/

# Go knows best what has changed: these targets always run and are quick when nothing did.
.PHONY: $(BIN)/cri-pouch $(BIN)/containerd-shim-pouch-v2 $(BIN)/pouch-init
$(BIN)/cri-pouch:
	CGO_ENABLED=0 $(GO) build -trimpath -tags "$(TAGS)" -ldflags '$(LDFLAGS)' -o $@ ./cmd/cri-pouch

$(BIN)/containerd-shim-pouch-v2:
	$(GO) build -trimpath -tags "$(TAGS)" -ldflags '$(LDFLAGS) $(STATIC)' -o $@ ./cmd/containerd-shim-pouch-v2

$(BIN)/pouch-init:
	@mkdir -p $(BIN)
	$(MAKE) --no-print-directory -C init OUT=$@

# The daemon looks for its helpers beside itself. The same program with its failpoints compiled in, for the tests that kill it at a named step.
.PHONY: build-tests
build-tests: build probe attacker
	CGO_ENABLED=0 $(GO) build -trimpath -tags "$(TAGS) failpoints" -ldflags '$(LDFLAGS)' -o $(BUILD)/failpoints/cri-pouch ./cmd/cri-pouch
	@ln -f $(BIN)/containerd-shim-pouch-v2 $(BIN)/pouch-init $(BUILD)/failpoints/

# The application of the tests of rich containers.
.PHONY: probe
probe:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(BUILD)/rich/probe ./integration/rich/probe

# What hostile containers run.
.PHONY: attacker
attacker:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(BUILD)/hostile/attacker ./integration/hostile/attacker

.PHONY: generate
generate: ## generate the code of cri/api and shim/api from their .proto files (needs protoc)
	$(GO) generate ./...

# ---- checking ----------------------------------------------------------------------------------------------------------

.PHONY: lint
lint: ## gofmt, go vet and staticcheck over everything, also with failpoints; shell scripts are parsed
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	  if [ -n "$$unformatted" ]; then echo "gofmt -w these files:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet -tags "$(TAGS)" ./...
	$(GO) vet -tags "$(TAGS) failpoints" ./internal/failpoint
	$(GO) run $(STATICCHECK) -tags "$(TAGS)" ./...
	cd integration/kubelet && $(GO) vet -tags "$(TAGS)" ./... && $(GO) run $(STATICCHECK) -tags "$(TAGS)" ./...
	@for script in $$(git ls-files -co --exclude-standard '*.sh' .ci/run); do bash -n "$$script"; done
	@echo "lint: clean"

.PHONY: test
test: test-unit test-integration test-hostile test-rich test-kubelet ## unit tests, then integration, hostile, rich and kubelet tests (as root); says what was skipped and why

.PHONY: test-unit
test-unit: ## unit tests of all packages under the race detector, and of pouch-init under sanitizers
	$(MAKE) --no-print-directory -C init test
	$(GO) test -race -tags "$(TAGS)" -timeout $(TEST_TIMEOUT) -json $(TESTFLAGS) $(UNIT) | $(REPORT)

.PHONY: test-integration
test-integration: build-tests ## integration tests against the built binaries, a registry, CNI and the kernel (as root)
	$(GO) test -tags "$(TAGS)" -count=1 -timeout $(TEST_TIMEOUT) -json $(TESTFLAGS) ./integration | $(REPORT)

.PHONY: rich-images rich-images-all
rich-images: ## build the root filesystems of the rich containers in `make test` into build/rich (as root; once, about 3 minutes)
	@integration/scripts/rich-images.sh test
rich-images-all: ## build those of the other inits and Debian releases too (as root; once, about 8 minutes)
	@integration/scripts/rich-images.sh all

TEST_RICH = $(GO) test -tags "$(TAGS)" -count=1 -timeout $(TEST_TIMEOUT) -json $(TESTFLAGS) ./integration/rich | $(REPORT)
.PHONY: test-rich test-rich-all
test-rich: build-tests rich-images ## rich containers with the inits of Debian 12, Debian 13's systemd and busybox (as root)
	$(TEST_RICH)
test-rich-all: build-tests rich-images-all ## the same, and with other inits and Debian releases (as root; long)
	$(TEST_RICH)

TEST_HOSTILE = $(GO) test -tags "$(TAGS)" -count=1 -timeout $(TEST_TIMEOUT) -json $(TESTFLAGS) ./integration/hostile | $(REPORT)
.PHONY: test-hostile
test-hostile: build-tests ## root in containers attacks the node, beside pods that have to be served (as root)
	$(TEST_HOSTILE)

.PHONY: bench-hostile
bench-hostile: build-tests ## how long pods wait for the runtime while others attack it, as a table (as root; on a quiet machine)
	CRI_POUCH_BENCH_HOSTILE=$(BUILD)/hostile/waits.md $(TEST_HOSTILE)
	@cat $(BUILD)/hostile/waits.md

.PHONY: kubernetes
kubernetes: ## build kubelet, control plane, kubectl and etcd from their Go modules into build/ (13 CPU minutes, then cached)
	@integration/scripts/kubernetes.sh $(BUILD)/kubernetes/bin

# Pods mostly wait: more of them at a time than there are CPUs.
.PHONY: test-kubelet
test-kubelet: build kubernetes probe rich-images ## tests under a real kubelet and API server on a node of their own (as root)
	cd integration/kubelet && $(GO) test -tags "$(TAGS)" -count=1 -parallel 6 -timeout $(TEST_TIMEOUT) -json $(TESTFLAGS) . | (cd ../.. && $(REPORT))

.PHONY: test-race
test-race: test-unit ## unit tests, then the integration tests against a daemon built with the race detector
	$(MAKE) --no-print-directory build-tests
	$(GO) build -race -tags "$(TAGS) failpoints" -ldflags '-X main.version=$(VERSION)' -o $(BUILD)/race/cri-pouch ./cmd/cri-pouch
	@ln -f $(BIN)/containerd-shim-pouch-v2 $(BIN)/pouch-init $(BUILD)/race/
	CRI_POUCH_TEST_DAEMON=$(BUILD)/race/cri-pouch \
	  $(GO) test -race -tags "$(TAGS)" -count=1 -timeout $(TEST_TIMEOUT) -json $(TESTFLAGS) ./integration | $(REPORT)

# Its clients mostly wait: more of them at a time than there are CPUs.
CHAOS       ?= 5m
.PHONY: chaos
chaos: build ## the daemon is killed at random moments under work, for as long as CHAOS says (5m), and nobody may notice (as root)
	CRI_POUCH_CHAOS=$(CHAOS) $(GO) test -tags "$(TAGS)" -count=1 -parallel 8 -timeout 0 -json ./integration/chaos | $(REPORT)

# How long each target is fuzzed, as: make fuzz FUZZ=10m
FUZZ        ?= 30s
.PHONY: fuzz
fuzz: ## every fuzz target of the packages, each for as long as FUZZ says (30s)
	@git grep -l '^func Fuzz' -- '*_test.go' | while read -r file; do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do \
	    echo "$$target of $$(dirname $$file)"; \
	    $(GO) test -tags "$(TAGS)" -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ) ./$$(dirname $$file) </dev/null | grep -v '^fuzz: '; \
	  done; \
	done

.PHONY: test-vm
test-vm: build-tests ## the integration suite in a virtual machine: cgroup v2, systemd, AppArmor (as root; slow, cached in build/vm)
	integration/vm/run.sh $(if $(RUN),-test.run '$(RUN)')

.PHONY: test-vm-rich
test-vm-rich: build-tests ## rich containers with systemd 252, 257 and the newest on cgroup v2, in the same machine
	integration/scripts/rich-images.sh systemd trixie forky
	VM_SUITE=integration/rich integration/vm/run.sh $(if $(RUN),-test.run '$(RUN)')

# The mode of the quickstart's rich container, as: make quickstart RICH=systemd (or sbin-init, dumb-init). QUICKSTART=-wait leaves it running.
RICH        ?=
QUICKSTART  ?=

.PHONY: quickstart
quickstart: deps build ## a pod with two containers, one of them replaced in place; RICH=systemd: examples/rich-systemd; ends clean (as root)
	@mkdir -p $(BUILD)
ifeq ($(RICH),)
	@$(GO) build -tags "$(TAGS)" -o $(BUILD)/quickstart ./integration/quickstart
	@$(BUILD)/quickstart -bin $(BIN) -cni-bin $(BUILD)/cni/bin $(QUICKSTART)
else
	@integration/scripts/rich-images.sh example-$(RICH)
	@$(GO) build -tags "$(TAGS)" -o $(BUILD)/quickstart-rich ./integration/quickstart/rich
	@$(BUILD)/quickstart-rich -bin $(BIN) -cni-bin $(BUILD)/cni/bin -images $(BUILD)/rich -example examples/rich-$(RICH) $(QUICKSTART)
endif

.PHONY: quickstart-kubelet
quickstart-kubelet: deps build kubernetes ## a one-node cluster: kubectl edits one image of a pod with two containers; ends clean (as root)
	@cd integration/kubelet && $(GO) build -tags "$(TAGS)" -o $(BUILD)/quickstart-kubelet ./quickstart
	@$(BUILD)/quickstart-kubelet -bin $(BIN) -cni-bin $(BUILD)/cni/bin -kubernetes $(BUILD)/kubernetes/bin

.PHONY: lab
lab: build ## a daemon on a throwaway root with a network and two images, for trying by hand; until Ctrl-C (as root)
	@mkdir -p $(BUILD)
	@$(GO) build -tags "$(TAGS)" -o $(BUILD)/labd ./integration/labd
	@exec $(BUILD)/labd -bin $(BIN) -cni-bin $(BUILD)/cni/bin

# What to measure otherwise, as: make bench BENCH='-rounds 3'
BENCH       ?= -write docs/performance.md

.PHONY: bench
bench: deps build ## measure cri-pouch beside containerd and runc, write the table of docs/performance.md (as root; on a quiet machine)
	@mkdir -p $(BUILD)
	@$(GO) build -tags "$(TAGS)" -o $(BUILD)/benchmark ./integration/benchmark
	@$(BUILD)/benchmark -bin $(BIN) -cni-bin $(BUILD)/cni/bin -peers $(BUILD)/peers $(BENCH)

.PHONY: bench-go
bench-go: ## Go benchmarks of the packages
	$(GO) test -tags "$(TAGS)" -run '^$$' -bench . -benchmem ./... | grep -v 'no test files'

# ---- using -------------------------------------------------------------------------------------------------------------

.PHONY: install
install: build ## install the binaries, the systemd unit and the default configuration (DESTDIR, PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/cri-pouch $(DESTDIR)/etc/cri-pouch/config.d
	install -m 0755 $(BIN)/cri-pouch $(DESTDIR)$(PREFIX)/bin/
	install -m 0755 $(BIN)/containerd-shim-pouch-v2 $(BIN)/pouch-init $(DESTDIR)$(PREFIX)/bin/
	[ ! -f deploy/cri-pouch.service ] || install -D -m 0644 deploy/cri-pouch.service $(DESTDIR)/etc/systemd/system/cri-pouch.service
	[ -f $(DESTDIR)/etc/cri-pouch/config.toml ] || $(BIN)/cri-pouch config default > $(DESTDIR)/etc/cri-pouch/config.toml

.PHONY: clean
clean: ## remove bin/ and build/ (also the cached virtual machine)
	rm -rf $(BIN) $(BUILD)
