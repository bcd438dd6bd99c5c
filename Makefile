# lx: build, run, test. `make run` and `make test` are all a newcomer needs.

PREFIX  ?= /usr/local
FUZZTIME ?= 10s
export GOFLAGS ?= -buildvcs=false

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/lxbridge/lx/cmd/internal/cli.version=$(VERSION)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build run test bench lint fuzz install go

build: go
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o build/lx ./cmd/lx

# A bash in lx with a share of a real smbd mounted; without a terminal the same
# as a script.
run: build
	@integration/run/run

# All tests, as root and as an ordinary user; installs what it needs (as root).
test: build
	@integration/run/test

# Figures beside native calls and peers. BENCHFLAGS=-short for a first look.
bench: build
	@integration/run/bench $(BENCHFLAGS)

lint: go
	@test -z "$$(gofmt -l cmd core mount integration)" || { gofmt -l cmd core mount integration; echo 'run gofmt -w on these'; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go run $(GOLANGCI) run ./...

fuzz: go
	@integration/run/fuzz $(FUZZTIME)

install: build
	install -D -m 755 build/lx $(DESTDIR)$(PREFIX)/bin/lx
	build/lx man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	build/lx completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/lx
	build/lx completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_lx
	build/lx completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/lx.fish

go:
	@integration/run/need-go
