#!/usr/bin/env bash
# Uses a Pact Broker. PACT_BROKER_BASE_URL is its URL. PACT_BROKER_TOKEN is its token, if
# it needs one. The broker records VERSION and BRANCH. Default: git's commit and branch.
#
#   broker.sh publish                   publish the pact
#   broker.sh verify                    verify the broker's pacts, and publish the results
#   broker.sh can-i-deploy              ask whether SERVICE may be deployed into ENV
#   broker.sh deployed                  record that SERVICE runs in ENV
set -euo pipefail

[[ -n "${PACT_BROKER_BASE_URL:-}" ]] || { echo "set PACT_BROKER_BASE_URL to the URL of the Pact Broker, and PACT_BROKER_TOKEN if it needs a token"; exit 2; }
service=${SERVICE:-} environment=${ENV:-}
version=${VERSION:-$(git rev-parse HEAD)}
branch=${BRANCH:-$(git branch --show-current)}
if [[ "$1" == verify ]]; then
	mkdir -p .reports
	export PACT_PROVIDER_VERSION=$version PACT_PROVIDER_BRANCH=$branch
	# -count=1, because Go's cache of results does not notice changes in the broker.
	exec tools/with-pact.sh go tool -modfile=tools.mod gotestsum --junitfile .reports/contract.xml -- \
		-count=1 -timeout 10m -tags contract -run '^TestInventoryAnswersAsTheBrokersPactsSay$' ./test/contract
fi
if [[ "$1" == deployed ]]; then
	[[ -n "$service" && -n "$environment" ]] || { echo "set SERVICE and ENV, such as SERVICE=orders ENV=production"; exit 2; }
fi
pact=$(go run ./tools/pact cli)
case "$1" in
publish) exec "$pact" broker publish contracts/pacts --consumer-app-version "$version" --branch "$branch" ;;
can-i-deploy) exec "$pact" broker can-i-deploy --pacticipant "$service" --version "$version" --to-environment "$environment" ;;
deployed) exec "$pact" broker record-deployment --pacticipant "$service" --version "$version" --environment "$environment" ;;
esac
