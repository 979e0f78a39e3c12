#!/usr/bin/env bash
# Talks to a Pact Broker: PACT_BROKER_BASE_URL says where it is, PACT_BROKER_TOKEN is
# for one that wants it. VERSION and BRANCH are what it is told of, else those of git.
#
#   broker.sh publish                   publish the pact
#   broker.sh verify                    verify the broker's pacts, and publish the results
#   broker.sh can-i-deploy              ask whether SERVICE may be deployed into ENV
#   broker.sh deployed                  tell that SERVICE runs in ENV
set -euo pipefail

[[ -n "${PACT_BROKER_BASE_URL:-}" ]] || { echo "where is the Pact Broker? Set PACT_BROKER_BASE_URL, and PACT_BROKER_TOKEN if it wants one"; exit 2; }
service=${SERVICE:-} environment=${ENV:-}
version=${VERSION:-$(git rev-parse HEAD)}
branch=${BRANCH:-$(git branch --show-current)}
if [[ "$1" == verify ]]; then
	mkdir -p .reports
	export PACT_PROVIDER_VERSION=$version PACT_PROVIDER_BRANCH=$branch
	# What the broker has is not seen by Go's cache of results.
	exec tools/with-pact.sh go tool -modfile=tools.mod gotestsum --junitfile .reports/contract.xml -- \
		-count=1 -timeout 10m -tags contract -run '^TestInventoryAnswersAsTheBrokersPactsSay$' ./test/contract
fi
if [[ "$1" == deployed ]]; then
	[[ -n "$service" && -n "$environment" ]] || { echo "what runs where? SERVICE=orders ENV=production"; exit 2; }
fi
pact=$(go run ./tools/pact cli)
case "$1" in
publish) exec "$pact" broker publish contracts/pacts --consumer-app-version "$version" --branch "$branch" ;;
can-i-deploy) exec "$pact" broker can-i-deploy --pacticipant "$service" --version "$version" --to-environment "$environment" ;;
deployed) exec "$pact" broker record-deployment --pacticipant "$service" --version "$version" --environment "$environment" ;;
esac
