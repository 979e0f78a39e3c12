#!/usr/bin/env bash
# Lists what a release publishes. The images and packages must exist. CHANGELOG.md must
# have a heading for the version, except for a version such as v1.2.3-rc.1.
set -euo pipefail
source "$(dirname "$0")/version.sh"

[[ "$release" == *-* ]] || grep -q "^## $version " CHANGELOG.md \
	|| { echo "CHANGELOG.md has no heading for $version: rename the heading of the unreleased changes to it, with the date"; exit 1; }
echo "== $release, not published"
ls -l .build/images/*.cdx.json .build/packages
