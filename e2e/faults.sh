#!/usr/bin/env bash
# What goes wrong, through the whole stack: hostile clients, a full disk, kill -9 of everything in turn. About a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
# 10,000 connections need as many open files, here and in ModelHub.
ulimit -n "$(ulimit -Hn)"
exec python3 e2e/faults/main.py "$CARGO_TARGET_DIR/release"
