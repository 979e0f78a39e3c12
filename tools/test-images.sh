#!/usr/bin/env bash
# Makes the images that the tests in containers need, and loads them into the engine:
# those of this tree, and those of what a release is tested beside. That is PREVIOUS
# (a git ref), else the last tag, else, while there is no tag, a commit.
set -euo pipefail

previous=${PREVIOUS:-$(git describe --tags --abbrev=0 HEAD 2>/dev/null || echo a8d6096f502f87c66dc18b3e88a9142c02b6a966)}
echo "== the pair's images, and those of $previous"
go run ./deploy/image --here --load --tag test --out .build/test-images
rm -rf .build/previous
git clone --quiet --shared --no-checkout . .build/previous
git -C .build/previous checkout --quiet "$previous"
go run ./deploy/image --here --load --tag previous --out .build/previous-images --source .build/previous
