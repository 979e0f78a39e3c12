#!/usr/bin/env bash
# Runs a command with Pact's library where the C compiler and the program find it, and
# brings the library first where it is missing. The library's tests have the tag contract.
#
#   with-pact.sh COMMAND...
#
# CGO_LDFLAGS would do the same, but Go would compile each package again for it.
set -euo pipefail

library=$(go run ./tools/pact ffi)
folder=$(dirname "$library")
export LIBRARY_PATH="$folder${LIBRARY_PATH:+:$LIBRARY_PATH}" LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export CGO_ENABLED=1 PACT_DO_NOT_TRACK=true
exec "$@"
