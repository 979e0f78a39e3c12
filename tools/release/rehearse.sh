#!/usr/bin/env bash
# Lists what a release publishes, once images and packages have been made. A version
# needs its heading in CHANGELOG.md; one such as v1.2.3-rc.1 does not.
set -euo pipefail
source "$(dirname "$0")/version.sh"

[[ "$release" == *-* ]] || grep -q "^## $version " CHANGELOG.md \
	|| { echo "CHANGELOG.md says nothing of $version: give what is unreleased that heading, with the date"; exit 1; }
echo "== $release, not published"
ls -l .build/images/*.cdx.json .build/packages
