#!/usr/bin/env bash
# The unchanged Python client, bad input, and the seeded differential test against a VectorForge started here.
# VECTORFORGE_BIN names the binary; OPS and SEED size and repeat the differential test.
set -euo pipefail
cd "$(dirname "$0")"
venv="${VENV_QDRANT:-$HOME/.cache/aistack/venv-qdrant}"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement requirements.txt
"$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"
"$venv/bin/python" differential.py --ops "${OPS:-3000}" ${SEED:+--seed "$SEED"}
