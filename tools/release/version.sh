# shellcheck shell=bash disable=SC2034
# What the release's scripts share; they source it. A release's version is its tag,
# and is in no file; what is not tagged is a rehearsal.

release=${RELEASE:-$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || echo v0.0.0-rehearsal)}
registry=${REGISTRY:-}
[[ "$release" =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || { echo "$release is no version such as v1.2.3"; exit 2; }
version=${release#v}
charts=(inventory orders roundtrip)
