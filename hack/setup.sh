#!/usr/bin/env bash
# Installs the Debian packages that are missing, and says which before it does.
#   hack/setup.sh run     what building and the quickstart need
#   hack/setup.sh test    what the tests need besides
set -euo pipefail

packages=(build-essential clang libclang-dev protobuf-compiler pkg-config python3 python3-pip)
if [ "${1:-run}" = test ]; then
  packages+=(python3-venv etcd-client jq curl)
fi

if ! command -v cargo >/dev/null; then
  echo "error: no Rust toolchain is on the PATH" >&2
  echo "  install Rust 1.95 or newer with rustup, then run this again" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  # A Python that does not come from Debian serves as well.
  case "$package" in
    python3|python3-pip|python3-venv) python3 -c 'import pip, venv, ensurepip' 2>/dev/null && continue ;;
  esac
  [ "$status" = 'install ok installed' ] || missing+=("$package")
done

if [ ${#missing[@]} -eq 0 ]; then
  printf '  %-8s%s\n' needs 'all packages are there'
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "error: missing: ${missing[*]}" >&2
  echo "  this machine has no apt-get; install what provides them and run this again" >&2
  exit 1
fi
printf '  %-8s%s   (apt) installing …  ' needs "$(IFS=,; echo "${missing[*]}" | sed 's/,/, /g')"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo; echo "error: not root, and no sudo; as root run: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
log=$(mktemp)
if ! { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "${missing[@]}"; } >"$log" 2>&1; then
  echo failed
  tail -n 5 "$log" >&2
  exit 1
fi
echo ok
