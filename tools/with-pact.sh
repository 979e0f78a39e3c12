#!/usr/bin/env bash
# Runs a command with Pact's library in the search paths of the C compiler and of the
# program. It downloads the library first if it is missing. Tests that use the library
# have the tag contract.
#
#   with-pact.sh COMMAND...
#
# It does not set CGO_LDFLAGS, because Go would then compile each package again.
set -euo pipefail

library=$(go run ./tools/pact ffi)
folder=$(dirname "$library")
export LIBRARY_PATH="$folder${LIBRARY_PATH:+:$LIBRARY_PATH}" LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export CGO_ENABLED=1 PACT_DO_NOT_TRACK=true
exec "$@"
