#!/usr/bin/env bash
# Runs golangci-lint, which contains go vet and staticcheck. It has a go.mod of its
# own, because it is large, and is built once for each version of itself and of Go.
# `tools/lint.sh build` only builds it.
set -euo pipefail
cd "$(dirname "$0")/.."

linter=$PWD/.tools/golangci-lint-$(go env GOVERSION)-$(cat tools/lint/go.mod tools/lint/go.sum | cksum | cut -d' ' -f1)
if [[ ! -x $linter ]]; then
	echo "== golangci-lint: building it, which takes some minutes the first time"
	CGO_ENABLED=0 go build -C tools/lint -trimpath -o "$linter" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
fi
[[ ${1:-} == build ]] && exit

# The tag contract adds files that need cgo. With -race, the unit tests have compiled
# the same packages.
if command -v "$(go env CC)" >/dev/null; then
	CGO_ENABLED=1 GOFLAGS="$(go env GOFLAGS) -race" "$linter" run --allow-parallel-runners --build-tags contract ./...
else
	echo "!! LEFT OUT: the linter in test/contract, which needs a C compiler"
	CGO_ENABLED=0 "$linter" run --allow-parallel-runners ./...
fi
# Of this package alone the tag failpoints changes the files.
"$linter" run --allow-parallel-runners --build-tags failpoints ./internal/failpoint
