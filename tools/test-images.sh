#!/usr/bin/env bash
# Builds the images that the tests in containers need, and loads them into the engine:
# the images of this tree, and the images of the previous release, which is tested
# together with this tree. The previous release is PREVIOUS (a git ref). Default: the
# last tag, or a fixed commit while there is no tag.
set -euo pipefail

previous=${PREVIOUS:-$(git describe --tags --abbrev=0 HEAD 2>/dev/null || echo a8d6096f502f87c66dc18b3e88a9142c02b6a966)}
echo "== the images of both services, and those of $previous"
go run ./deploy/image --here --load --tag test --out .build/test-images
rm -rf .build/previous
git clone --quiet --shared --no-checkout . .build/previous
git -C .build/previous checkout --quiet "$previous"
go run ./deploy/image --here --load --tag previous --out .build/previous-images --source .build/previous
