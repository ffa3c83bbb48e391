# make demo   builds ctlab and plays the CoreDNS restart on this kernel (root or sudo)
# make test   runs every test, including those that need the kernel (root or sudo)
# make guest  plays the bundled labs on Debian's kernel in a QEMU guest
# make vagrant-labs  plays them in the guests of the Vagrantfile that are up, and fetches JUnit reports
# make lint   what CI checks before the tests

.PHONY: build static demo test lint clean guest vagrant-labs

build:
	go build -o ctlab ./cmd/ctlab

# A program that runs on any x86-64 Linux, for guests.
static:
	CGO_ENABLED=0 GOAMD64=v1 go build -buildvcs=false -trimpath -o bin/ctlab ./cmd/ctlab

guest:
	.ci/guest

vagrant-labs: static
	vm/labs

demo:
	.ci/demo

test:
	.ci/test

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./...
	go tool staticcheck ./...

clean:
	rm -rf ctlab bin
