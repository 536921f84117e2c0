#!/usr/bin/env bash
# Judges crds/generated and our manifests with the code of the Kubernetes API server (Go module, no server, no cluster).
set -euo pipefail
cd "$(dirname "$0")"
root=../../..
bin=${XDG_CACHE_HOME:-$HOME/.cache}/aistack/peers/apiserver-check
mkdir -p "$(dirname "$bin")"
CGO_ENABLED=0 go build -o "$bin" .
"$bin" "$root/crds/generated" "$root"/examples/*.yaml "$root/examples/quickstart/stack.yaml" accepted.yaml refused.yaml
