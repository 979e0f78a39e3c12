# shellcheck shell=bash disable=SC2034
# Common variables of the release scripts, which source this file. The version of a
# release is its git tag; no file contains it. A commit without a tag is a rehearsal.

release=${RELEASE:-$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || echo v0.0.0-rehearsal)}
registry=${REGISTRY:-}
[[ "$release" =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || { echo "$release is not a version such as v1.2.3"; exit 2; }
version=${release#v}
charts=(inventory orders roundtrip)
