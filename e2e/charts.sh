#!/usr/bin/env bash
# The charts before a real API server, once with helm 3 and once with helm 4 (charts/walk.py says what is walked).
#   e2e/charts.sh OPERATOR
# HELM3, HELM4: programs to use in place of those that hack/helm.sh builds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
operator=$1
for version in 3 4; do
  program=HELM$version
  helm=${!program:-$("$here/../hack/helm.sh" "$version")}
  folder=$(mktemp -d)
  trap '"$here/../hack/plane/plane.sh" down "$folder/plane"; rm -rf "$folder"' EXIT
  eval "$("$here/../hack/plane/plane.sh" up "$folder/plane")"
  # helm keeps its own state where nobody's is.
  export HELM_CACHE_HOME=$folder/cache HELM_CONFIG_HOME=$folder/config HELM_DATA_HOME=$folder/data
  python3 "$here/charts/walk.py" "$here/../charts" "$helm" "$operator"
  "$here/../hack/plane/plane.sh" down "$folder/plane"
  rm -rf "$folder"
done
trap - EXIT
