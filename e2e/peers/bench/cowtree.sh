#!/usr/bin/env bash
# B0: the copy-on-write tree beside imbl, rpds and the standard library's map.
set -euo pipefail
cd "$(dirname "$0")/../../.."
cargo bench -p cowtree --bench maps -- --record
