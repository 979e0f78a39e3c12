#!/usr/bin/env bash
# Checks whether a service of this tree may be deployed. SERVICE is orders or inventory.
# Set one of two variables. AGAINST is the git ref that the other service runs; this
# check needs only git. ENV is an environment that a Pact Broker knows.
set -euo pipefail

service=${SERVICE:-}
[[ "$service" == orders || "$service" == inventory ]] || { echo "set SERVICE=orders or SERVICE=inventory"; exit 2; }
if [[ -n "${AGAINST:-}" ]]; then
	exec tools/with-pact.sh go run ./tools/candeploy --service "$service" "$AGAINST"
fi
[[ -n "${ENV:-}" ]] || { echo "set ENV to an environment of the Pact Broker, or AGAINST to the git ref that the other service runs"; exit 2; }
exec tools/broker.sh can-i-deploy
