# lx: `make run` and `make test` are all that a newcomer needs.
#
# Variables: PREFIX and DESTDIR (install), FUZZTIME (fuzz), SOAKTIME (soak), BENCHFLAGS (bench;
# -short for a first look), RUN (test: only tests that match), LX_TEST_USER
# (test, bench as root: the ordinary user, made where it is missing), LX_LAB
# (lab-test: the folder of a lab).

PREFIX     ?= /usr/local
FUZZTIME   ?= 10s
SOAKTIME   ?= 5m
BENCHFLAGS ?=

# Go and lx want a home they can write to.
ifneq ($(shell [ -d "$$HOME" ] && [ -w "$$HOME" ] && echo yes),yes)
export HOME := $(CURDIR)/build/home
endif

SHARE := $(DESTDIR)$(PREFIX)/share

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/lxbridge/lx/cmd/internal/cli.version=$(VERSION) -X github.com/lxbridge/lx/cmd/internal/netcli.version=$(VERSION) -X github.com/lxbridge/lx/cmd/internal/devcli.version=$(VERSION)
GOBUILD := CGO_ENABLED=0 go build -buildvcs=false -trimpath

FOLDERS := cmd core devices mount netns portbroker integration

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build sample run test lab-test soak bench lint fuzz install go

build: go
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o build/ ./cmd/lx ./cmd/lxnet ./cmd/lxdev

sample:
	@$(GOBUILD) -o build/sampleshare ./integration/sampleshare

run: build sample
	@integration/run/run

test: build sample
	@integration/run/test

lab-test: go
	@test -n "$$LX_LAB" || { echo 'set LX_LAB to the folder of a lab (integration/labtest)' >&2; exit 1; }
	go test -tags lab -count 1 -timeout 40m -run '^TestLab' $$(grep -rl --include='*_test.go' '^//go:build lab$$' $(FOLDERS) | xargs -n1 dirname | sort -u | sed 's,^,./,')

soak: go
	LX_TEST_SOAK=$(SOAKTIME) go test -race -count 1 -timeout 24h -run '^TestSoak$$' $$(grep -rl --include='*_test.go' '^func TestSoak(' $(FOLDERS) | xargs -n1 dirname | sort -u | sed 's,^,./,')

bench: build
	@$(GOBUILD) -o build/bench ./integration/bench
	@integration/run/bench $(BENCHFLAGS)

lint: go
	@test -z "$$(gofmt -l $(FOLDERS))" || { gofmt -l $(FOLDERS); echo 'run gofmt -w on these'; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go run $(GOLANGCI) run ./...

fuzz: go
	@integration/run/fuzz $(FUZZTIME)

install: build
	for p in lx lxnet lxdev; do \
		install -D -m 755 build/$$p '$(DESTDIR)$(PREFIX)/bin/'$$p && build/$$p man '$(SHARE)/man/man1' && \
		build/$$p completion bash >build/$$p.bash && install -D -m 644 build/$$p.bash '$(SHARE)/bash-completion/completions/'$$p && \
		build/$$p completion zsh >build/_$$p && install -D -m 644 build/_$$p '$(SHARE)/zsh/site-functions/_'$$p && \
		build/$$p completion fish >build/$$p.fish && install -D -m 644 build/$$p.fish '$(SHARE)/fish/vendor_completions.d/'$$p.fish || exit 1; \
	done

go:
	@integration/run/need-go
