# lx: `make run` and `make test` are all that a newcomer needs.
#
# Variables: PREFIX and DESTDIR (install), FUZZTIME (fuzz), BENCHFLAGS (bench;
# -short for a first look), RUN (test: only tests that match), LX_TEST_USER
# (test, bench as root: the ordinary user, made where it is missing).

PREFIX     ?= /usr/local
FUZZTIME   ?= 10s
BENCHFLAGS ?=

# Go and lx want a home they can write to.
ifneq ($(shell [ -d "$$HOME" ] && [ -w "$$HOME" ] && echo yes),yes)
export HOME := $(CURDIR)/build/home
endif

SHARE := $(DESTDIR)$(PREFIX)/share

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/lxbridge/lx/cmd/internal/cli.version=$(VERSION)
GOBUILD := CGO_ENABLED=0 go build -buildvcs=false -trimpath

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build run test bench lint fuzz install go

build: go
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o build/lx ./cmd/lx

run: build
	@$(GOBUILD) -o build/sampleshare ./integration/sampleshare
	@integration/run/run

test: build
	@integration/run/test

bench: build
	@$(GOBUILD) -o build/bench ./integration/bench
	@integration/run/bench $(BENCHFLAGS)

lint: go
	@test -z "$$(gofmt -l cmd core mount integration)" || { gofmt -l cmd core mount integration; echo 'run gofmt -w on these'; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go run $(GOLANGCI) run ./...

fuzz: go
	@integration/run/fuzz $(FUZZTIME)

install: build
	install -D -m 755 build/lx '$(DESTDIR)$(PREFIX)/bin/lx'
	build/lx man '$(SHARE)/man/man1'
	build/lx completion bash >build/lx.bash && install -D -m 644 build/lx.bash '$(SHARE)/bash-completion/completions/lx'
	build/lx completion zsh >build/_lx && install -D -m 644 build/_lx '$(SHARE)/zsh/site-functions/_lx'
	build/lx completion fish >build/lx.fish && install -D -m 644 build/lx.fish '$(SHARE)/fish/vendor_completions.d/lx.fish'

go:
	@integration/run/need-go
