#!/usr/bin/env bash
# Lists the Go files that gofmt would change, and fails if there are any.
set -euo pipefail

unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l)
if [[ -n "$unformatted" ]]; then
	echo "not formatted (run gofmt -w on them):"
	echo "$unformatted"
	exit 1
fi
