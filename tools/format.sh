#!/usr/bin/env bash
# Fails, and lists them, if there are Go files that gofmt would change.
set -euo pipefail

unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l)
if [[ -n "$unformatted" ]]; then
	echo "not formatted (run gofmt -w on them):"
	echo "$unformatted"
	exit 1
fi
