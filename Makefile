# make demo   builds ctlab and plays the CoreDNS restart on this kernel (sudo, iptables)
# make test   runs every test, including those that need the kernel (sudo, iptables)

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: build demo test lint tools clean

build:
	go build -o ctlab ./cmd/ctlab

demo: tools build
	$(SUDO) ./ctlab run labs/coredns-restart.yaml

test: tools
	./.ci/test

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./...
	go tool staticcheck ./...

# iptables is all that is needed beside Go
tools:
	@command -v iptables-restore >/dev/null || test -x /usr/sbin/iptables-restore || \
	  { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq iptables; } >/dev/null

clean:
	rm -f ctlab
