#!/usr/bin/env bash
# Finds changes of the contracts that would break a caller. It compares with the last
# tag. If there is no tag, it compares with the previous commit.
set -euo pipefail

base=$(git describe --tags --abbrev=0 HEAD 2>/dev/null || git rev-parse HEAD^)
echo "== contracts against $base"
go tool -modfile=tools.mod buf breaking --against ".git#ref=$base"
mkdir -p .build
for document in inventory orders; do
	git show "$base:contracts/openapi/$document.yaml" >".build/$document-before.yaml"
	go tool -modfile=tools.mod oasdiff breaking --fail-on ERR ".build/$document-before.yaml" "contracts/openapi/$document.yaml"
done
