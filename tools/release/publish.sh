#!/usr/bin/env bash
# Publishes a release to REGISTRY, such as ghcr.io/OWNER: the images and the charts, each
# signed, and a signed list of the contents of each image. Cosign signs with the identity
# of the CI job that runs this.
set -euo pipefail
source "$(dirname "$0")/version.sh"

[[ -n "$registry" ]] || { echo "set REGISTRY, such as REGISTRY=ghcr.io/OWNER"; exit 2; }
[[ -z "$(git status --porcelain)" && "$(git rev-parse "$release^{commit}")" == "$(git rev-parse HEAD)" ]] \
	|| { echo "this is not a clean checkout of $release"; exit 2; }

cosign() { go run github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3 "$@" </dev/null; }

go run ./deploy/image --out .build/images --version="$release" --push="$registry/roundtrip" | tee .build/pushed
grep -F '@sha256:' .build/pushed | while read -r image platform; do
	cosign sign --yes "$image"
	[[ "$platform" == index ]] && continue
	service=${image%@*}
	cosign attest --yes --type cyclonedx --predicate ".build/images/${service##*/}-${platform/\//-}.cdx.json" "$image"
done

helm=$(go run ./tools/helm helm)
for chart in "${charts[@]}"; do
	"$helm" push ".build/packages/$chart-$version.tgz" "oci://$registry/roundtrip/charts" 2>&1 | tee .build/pushed
	cosign sign --yes "$registry/roundtrip/charts/$chart@$(sed -nE 's/^Digest: //p' .build/pushed)"
done
