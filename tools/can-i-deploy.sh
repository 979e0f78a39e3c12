#!/usr/bin/env bash
# Says whether a service of this tree may be deployed: beside what runs at AGAINST (a
# git ref), from git alone, or into ENV, an environment that a Pact Broker knows.
# SERVICE is orders or inventory.
set -euo pipefail

service=${SERVICE:-}
[[ "$service" == orders || "$service" == inventory ]] || { echo "which service? SERVICE=orders or SERVICE=inventory"; exit 2; }
if [[ -n "${AGAINST:-}" ]]; then
	exec tools/with-pact.sh go run ./tools/candeploy --service "$service" "$AGAINST"
fi
[[ -n "${ENV:-}" ]] || { echo "into what? ENV=an environment of the Pact Broker's, or AGAINST=the git ref that runs there"; exit 2; }
exec tools/broker.sh can-i-deploy
