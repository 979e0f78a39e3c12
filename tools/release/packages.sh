#!/usr/bin/env bash
# Packages the charts into .build/packages, with version RELEASE and with images from
# REGISTRY. It checks that each package uses images of that version.
set -euo pipefail
source "$(dirname "$0")/version.sh"

rm -rf .build/charts .build/packages
mkdir -p .build/packages
cp -R deploy/helm .build/charts
for file in .build/charts/*/Chart.yaml .build/charts/*/values.yaml; do
	sed -e "s|^\( *version:\) 0\.0\.0$|\1 $version|; s|^appVersion: latest$|appVersion: $release|" \
		-e "s|^  registry: \"\"$|  registry: \"$registry\"|" "$file" >"$file.new"
	mv "$file.new" "$file"
done
helm=$(go run ./tools/helm helm)
for chart in "${charts[@]}"; do
	"$helm" lint --quiet --strict ".build/charts/$chart"
	"$helm" package --destination .build/packages ".build/charts/$chart"
	"$helm" template a ".build/packages/$chart-$version.tgz" | grep -q "roundtrip/.*:$release\"" \
		|| { echo "the package of $chart does not run $release"; exit 1; }
done 2> >(grep -v 'found symbolic link' >&2)
