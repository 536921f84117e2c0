#!/usr/bin/env bash
# A4, A5: search and filtered search beside hnsw_rs on real word vectors.
set -euo pipefail
cd "$(dirname "$0")/../../.."
[ -f "${XDG_CACHE_HOME:-$HOME/.cache}/aistack/data/glove-100.f32" ] || python3 e2e/peers/vector/fetch.py
cargo bench --bench vector -- --record
