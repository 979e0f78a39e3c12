#!/usr/bin/env bash
# Tests the charts on a cluster: the cluster of KUBECONFIG, or one that kind made.
# IMAGE_LOAD is a command that loads images from the local engine into the cluster. Its
# arguments are the images.
#
#   e2e.sh            run the tests
#   e2e.sh up | down  make a cluster with kind, or remove it
set -euo pipefail

cluster=roundtrip-e2e
config=$PWD/.build/kind-kubeconfig

case "${1:-}" in
up)
	command -v kind >/dev/null || { echo "kind is missing: https://kind.sigs.k8s.io/docs/user/quick-start/#installation"; exit 2; }
	mkdir -p .build
	exec kind create cluster --name "$cluster" --kubeconfig "$config" --wait 2m
	;;
down)
	kind delete cluster --name "$cluster"
	rm -f "$config"
	exit
	;;
esac

if [[ -z "${KUBECONFIG:-}" ]]; then
	export KUBECONFIG="$config" IMAGE_LOAD="kind load docker-image --name $cluster"
fi
[[ -s "$KUBECONFIG" ]] || { echo "there is no cluster: run make kind-up, or set KUBECONFIG to a file"; exit 2; }
command -v kubectl >/dev/null || { echo "kubectl is missing: https://kubernetes.io/docs/tasks/tools"; exit 2; }
go run ./tools/helm helm >/dev/null
go run ./tools/helm helm3 >/dev/null
echo "== charts on a cluster"
exec go run ./tools/engine go test -count=1 -timeout 30m -v ./test/e2e
