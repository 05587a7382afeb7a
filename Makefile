# tickgate: everything a developer or a pipeline runs. `make` lists the targets.

GO            ?= go
BIN           ?= bin
FUZZTIME      ?= 10s
BENCH         ?= .
TESTFLAGS     ?=
TESTTIMEOUT   ?= 20m
# Tests wait more than they work: more of them at a time than there are processors.
PARALLEL      ?= 6
# The longest first, so that the others run beside it.
PACKAGES      ?= ./proxy ./...
# Where "make compare" leaves its report, and flags for it.
OUT           ?= $(BIN)/compare
ARGS          ?=
SCALE         ?= 1
SPEED         ?= true
# Without git, or outside of a clone, the version is "dev".
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS       ?= -s -w -X main.version=$(VERSION)

# Pinned, so that a new release of a tool does not break an old commit.
GOFUMPT       := mvdan.cc/gofumpt@v0.9.2
STATICCHECK   := honnef.co/go/tools/cmd/staticcheck@v0.7.0

SCRIPTS       := $(wildcard scripts/*.sh) .ci/run

# The version is stamped above; Go's own stamping fails where git is absent.
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false

.DEFAULT_GOAL := help
.PHONY: help build run test race race-all race-needs test-redis test-openssl lint fmt vet staticcheck arch shell bench compare benchmarks-doc bench-proxy bench-tls bench-tickload bench-idle bench-relay check-tunnels churn fuzz docs check-load accept clean go c-compiler redis-server openssl bench-handshakes check-tls scan-tls

help: ## show this list
	@printf '\n  tickgate\n\n'
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  \033[36mmake %-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\n  Variables: FUZZTIME=%s BENCH=%s TESTFLAGS= VERSION=%s\n\n' '$(FUZZTIME)' '$(BENCH)' '$(VERSION)'

build: go ## build bin/tickgate and bin/tickload
	@mkdir -p $(BIN)
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/tickgate ./cmd/tickload

run: build ## start the demonstration: HTTP on 8080, TLS on 8443, admin on 9180
	@exec $(BIN)/tickgate run --demo

test: go ## run all tests
	$(GO) test -parallel $(PARALLEL) -timeout $(TESTTIMEOUT) $(TESTFLAGS) $(PACKAGES)

# Two packages at a time, as the detector makes each slow enough for deadlines in tests.
race: go c-compiler ## run all tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -p 2 -parallel $(PARALLEL) -timeout $(TESTTIMEOUT) $(TESTFLAGS) $(PACKAGES)

race-all: race-needs ## all tests under the race detector, those of test-redis and test-openssl among them
	$(GO) vet -tags redis,openssl ./internal/ticketstore ./proxy ./tlsterm
	CGO_ENABLED=1 $(GO) test -race -tags redis,openssl -p 2 -parallel $(PARALLEL) -timeout $(TESTTIMEOUT) $(TESTFLAGS) $(PACKAGES)

race-needs: go c-compiler redis-server openssl

test-redis: go c-compiler redis-server ## run the tests that need a redis-server, with the race detector
	$(GO) vet -tags redis ./internal/ticketstore ./proxy
	CGO_ENABLED=1 $(GO) test -race -count=1 -tags redis -timeout $(TESTTIMEOUT) $(TESTFLAGS) ./internal/ticketstore
	CGO_ENABLED=1 $(GO) test -race -count=1 -tags redis -run Redis -timeout $(TESTTIMEOUT) $(TESTFLAGS) ./proxy

test-openssl: go c-compiler openssl ## run the tests that need the program openssl, with the race detector
	$(GO) vet -tags openssl ./tlsterm
	CGO_ENABLED=1 $(GO) test -race -count=1 -tags openssl -run OpenSSL -timeout $(TESTTIMEOUT) $(TESTFLAGS) ./tlsterm

lint: fmt vet staticcheck arch shell ## check formatting, vet, staticcheck, architecture, scripts

fmt: go
	@echo 'gofmt'; out=$$(gofmt -l $$(find . -name '*.go' -not -path './.*')) && { test -z "$$out" || { echo "not formatted:"; echo "$$out"; exit 1; }; }
	@echo 'gofumpt'; out=$$($(GO) run $(GOFUMPT) -l .) && { test -z "$$out" || { echo "run: go run $(GOFUMPT) -w ."; echo "$$out"; exit 1; }; }

vet: go
	$(GO) vet ./...

staticcheck: go
	$(GO) run $(STATICCHECK) ./...

arch: go
	$(GO) test ./internal/arch

shell:
	@for f in $(SCRIPTS); do bash -n "$$f" || exit 1; done
	@if command -v shellcheck >/dev/null; then echo shellcheck; shellcheck $(SCRIPTS); fi

bench: go ## run the benchmarks of the packages (BENCH=regexp)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

compare: build ## compare tickgate with nginx, HAProxy and net/http: a page with plots (ARGS=flags, OUT=folder)
	OUT='$(OUT)' scripts/compare.sh $(ARGS)

benchmarks-doc: build ## put the report of the last "make compare" into docs/benchmarks.md
	$(BIN)/tickload compare -from $(OUT)/report.json -doc docs/benchmarks.md >/dev/null

bench-proxy: build ## compare CPU and memory with nginx, HAProxy and net/http
	scripts/bench-proxy.sh

bench-tls: build ## the same over TLS
	TLS=1 scripts/bench-proxy.sh

bench-handshakes: build ## compare handshakes with nginx and net/http: CPU, p99 at half speed; fails above the bars
	scripts/bench-tls.sh

bench-tickload: build ## compare what tickload http costs with wrk
	scripts/bench-tickload.sh

bench-idle: build ## compare the memory of idle connections and tunnels
	scripts/bench-idle.sh

bench-relay: build ## compare CPU per relayed message
	scripts/bench-relay.sh

check-tunnels: build ## tunnels over reloads and a drain; critical routes under a flood
	scripts/tunnels-under-reload.sh
	scripts/drain-tunnels.sh
	scripts/critical-under-flood.sh

check-tls: build ## sessions over restarts and processes; rotations, bad OCSP responders, attacks and floods: 25 minutes
	scripts/tls-resume.sh
	scripts/tls-rotation.sh
	scripts/tls-ocsp.sh
	scripts/tls-attack.sh
	scripts/tls-flood.sh

scan-tls: build ## what testssl.sh and sslscan say of both presets
	scripts/tls-scan.sh

churn: build ## 30 minutes of misbehaving clients, then look for leaks (MINUTES=30)
	scripts/churn.sh

check-load: build ## reload and drain under load; 2 GiB bodies in bounded memory
	scripts/reload-under-load.sh
	scripts/big-bodies.sh

# What is not supported yet (3), and what the machine leaves open (4), is told and does not
# fail. SPEED=false is for a machine whose speed says nothing.
accept: build ## the acceptance list (SCALE=0.01 is short, SPEED=false judges losses only)
	@code=0; $(BIN)/tickload accept -scale $(SCALE) -speed=$(SPEED) -tickgate $(BIN)/tickgate -out $(BIN)/accept.md || code=$$?; \
		case $$code in 0 | 3 | 4) echo "exit code $$code; report in $(BIN)/accept.md" ;; *) exit $$code ;; esac

fuzz: go ## run each fuzz target for FUZZTIME
	@set -e; grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | sort | while read -r file; do \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$$file"); do \
			echo "fuzz $$(dirname "$$file") $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null; \
		done; \
	done

docs: go ## regenerate docs/config.md and docs/metrics.md
	@mkdir -p $(BIN)
	$(GO) run ./internal/configdoc >$(BIN)/config.md && mv $(BIN)/config.md docs/config.md
	$(GO) run ./internal/metricsdoc >$(BIN)/metrics.md && mv $(BIN)/metrics.md docs/metrics.md

clean: ## remove what was built
	rm -rf $(BIN)

# A fresh machine needs Go; modules and tools come by themselves.
go:
	@command -v $(GO) >/dev/null || { echo 'Go 1.26 or newer is needed: https://go.dev/dl/' >&2; exit 1; }

# The race detector needs a C compiler.
c-compiler:
	@command -v "$$($(GO) env CC)" >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev; \
		else echo 'The race detector needs a C compiler: apt-get install gcc libc6-dev' >&2; exit 1; fi; }

# The tests with the build tag redis start a server of their own.
redis-server:
	@command -v redis-server >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server; \
		else echo 'A Redis server is needed: apt-get install redis-server' >&2; exit 1; fi; }

# The tests with the build tag openssl ask a responder of its own.
openssl:
	@command -v openssl >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssl; \
		else echo 'OpenSSL is needed: apt-get install openssl' >&2; exit 1; fi; }
