#!/usr/bin/env bash
# Packaging: scripts and manifests of hack/ are linted, Argo CD's health checks run, what the chart becomes is compared with charts/*.yaml,
# and the charts are walked before a real API server, once with helm 3 and once with helm 4 (walks/charts.py says what is walked).
#   e2e/charts.sh OPERATOR
# HELM3, HELM4: programs to use in place of those that hack/helm.sh builds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/..
operator=$(realpath "$1")
venv=$HOME/.cache/aistack/venvs/charts
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/walks/requirements.txt"

echo '-- lint: what brings up kind and minikube, charts, Argo CD'
"$venv/bin/shellcheck" "$root"/hack/{install,helm,gpu-ready,gpu-plugin}.sh "$root"/hack/{kind,minikube,plane}/*.sh "$root/hack/quickstart-k8s.sh" \
  "$root"/e2e/{charts,quickstart_k8s,argocd}.sh
"$venv/bin/yamllint" --strict -c "$root/hack/.yamllint.yaml" "$root"/hack/{kind,argocd,plane} "$root"/charts/*/{Chart,values}.yaml \
  "$root/charts/aistack/files" "$here/walks"
bash -n "$root/hack/kind/up.sh" "$root/hack/minikube/up.sh"

echo '-- Argo CD: health of every kind, by the Lua that it runs'
(cd "$here/peers/argocd" && go test ./...)

echo '-- Flux: what its kstatus makes of the same objects'
(cd "$here/peers/flux" && go test ./...)

echo '-- OLM: the bundle, by the validators of its own framework'
(cd "$here/peers/olm" && go test ./...)

# The version before: both charts of a commit.
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
git -C "$root" archive 3a98815b4d3bc23bb4f3b19a5ffe3adb0a15afbd charts | tar -x -C "$before"

for version in 3 4; do
  echo "-- charts, helm $version"
  program=HELM$version
  helm=${!program:-$("$root/hack/helm.sh" "$version")}
  folder=$(mktemp -d)
  trap '"$root/hack/plane/plane.sh" down "$folder/plane"; rm -rf "$folder" "$before"' EXIT
  eval "$("$root/hack/plane/plane.sh" up "$folder/plane")"
  # helm keeps its own state where nobody's is.
  export HELM_CACHE_HOME=$folder/cache HELM_CONFIG_HOME=$folder/config HELM_DATA_HOME=$folder/data
  "$here/walks/rendered.py" "$helm"
  "$venv/bin/python" "$here/walks/charts.py" "$root/charts" "$helm" "$operator" "$before/charts"
  "$root/hack/plane/plane.sh" down "$folder/plane"
  rm -rf "$folder"
done
rm -rf "$before"
trap - EXIT
