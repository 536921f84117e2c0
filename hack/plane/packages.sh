#!/usr/bin/env bash
# Prints a folder with Debian packages, unpacked and installed nowhere, and the libraries of theirs that this machine lacks: those that are
# named, or a node's. Fetched once, into the cache.
#   hack/plane/packages.sh [PACKAGE…]
set -euo pipefail
packages=("$@")
[ $# -gt 0 ] || packages=(containerd runc containernetworking-plugins nftables conntrack)
# A new machine may not have read yet what there is.
if apt-cache policy "${packages[@]}" | grep -q 'Candidate: (none)' || [ "$(apt-cache policy "${packages[@]}" | grep -c Candidate:)" -lt ${#packages[@]} ]; then
  apt-get update -qq >&2
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aistack
version=$(apt-cache policy "${packages[@]}" | grep -E '^[a-z]|Candidate:' | sha256sum | cut -c1-16)
to=$cache/plane-packages-$version
if [ ! -e "$to/complete" ]; then
  echo "plane: fetching ${packages[*]} (once) …" >&2
  rm -rf "$to" && mkdir -p "$to/fetched"
  # What an installation would bring besides: installed packages stay out of it.
  mapfile -t missing < <(apt-get install --simulate --reinstall --no-install-recommends "${packages[@]}" | awk '/^Inst/ {print $2}')
  (cd "$to/fetched" && apt-get download "${missing[@]}" >/dev/null 2>"$to/log") || { cat "$to/log" >&2; exit 1; }
  for package in "$to"/fetched/*.deb; do dpkg-deb -x "$package" "$to"; done
  rm -rf "$to/fetched"
  touch "$to/complete"
fi
echo "$to"
