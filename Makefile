# make demo   builds ctlab and plays the CoreDNS restart on this kernel (root or sudo)
# make test   runs every test, including those that need the kernel (root or sudo)
# make lint   what CI checks before the tests

.PHONY: build demo test lint clean

build:
	go build -o ctlab ./cmd/ctlab

demo:
	.ci/demo

test:
	.ci/test

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./...
	go tool staticcheck ./...

clean:
	rm -f ctlab
