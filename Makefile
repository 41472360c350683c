# Each target calls go or .ci/run; nothing here that a plain command cannot do.
.DEFAULT_GOAL := help
.PHONY: help test race lint ci fuzz bench peers vuln

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

test: ## Run the tests
	go test ./...

race: ## Run the tests under the race detector
	.ci/run race

lint: ## Check formatting, vet and staticcheck
	.ci/run gofmt vet staticcheck

ci: ## Run everything that must pass before a change lands
	.ci/run

fuzz: ## Fuzz every target for a few seconds
	.ci/run fuzz

bench: ## Run the benchmarks; compare runs with benchstat
	go test -run '^$$' -bench . -benchmem ./...

peers: ## Measure the same work with nats.go, Watermill and jitney (10 minutes)
	cd bench && go test -run '^$$' -bench . -count 6 | tee peers.txt
	cd bench && go tool -modfile=../tools/go.mod benchstat -col /lib peers.txt
	cd bench && go run ./plot <peers.txt

vuln: ## Look for known vulnerabilities (needs the network)
	go tool -modfile=tools/go.mod govulncheck ./...
