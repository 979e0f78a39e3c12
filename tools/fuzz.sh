#!/usr/bin/env bash
# Runs each fuzz test for FUZZTIME. Default: 10s.
set -euo pipefail

git grep -lE '^func Fuzz' -- '*_test.go' | while read -r file; do
	sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file" | while read -r target; do
		echo "== $target ($(dirname "$file"))"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" "./$(dirname "$file")" </dev/null
	done
done
