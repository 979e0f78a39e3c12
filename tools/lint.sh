#!/usr/bin/env bash
# Runs golangci-lint, which contains go vet and staticcheck. The linter has its own
# go.mod, because it is large. It is built once for each version of the linter and of Go.
# `tools/lint.sh build` only builds it.
set -euo pipefail
cd "$(dirname "$0")/.."

linter=$PWD/.tools/golangci-lint-$(go env GOVERSION)-$(cat tools/lint/go.mod tools/lint/go.sum | cksum | cut -d' ' -f1)
if [[ ! -x $linter ]]; then
	echo "== golangci-lint: building it; this takes some minutes the first time"
	CGO_ENABLED=0 go build -C tools/lint -trimpath -o "$linter" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
fi
[[ ${1:-} == build ]] && exit

# The tag contract adds files that need cgo. -race reuses the packages that the unit
# tests have compiled.
if command -v "$(go env CC)" >/dev/null; then
	CGO_ENABLED=1 GOFLAGS="$(go env GOFLAGS) -race" "$linter" run --allow-parallel-runners --build-tags contract ./...
else
	echo "!! LEFT OUT: the linter in test/contract, which needs a C compiler"
	CGO_ENABLED=0 "$linter" run --allow-parallel-runners ./...
fi
# The tag failpoints changes the files of this package only.
"$linter" run --allow-parallel-runners --build-tags failpoints ./internal/failpoint
