#!/usr/bin/env bash
# Installs the embedded ClickHouse engine into the cache folder and prints the
# path of libchdb.so as the last line of standard output. What is pinned in
# package-lock.json is what is installed; a complete copy is never fetched again.
#
#   TOLLWAY_CACHE   folder of everything Tollway downloads
#                   (default: ${XDG_CACHE_HOME:-$HOME/.cache}/tollway)
set -euo pipefail

package='@chdb/lib-linux-x64-gnu'
own_server='use a ClickHouse server of your own (25.8 or newer) and set clickhouse.addresses in the configuration instead'

say() { printf '%s\n' "$*" >&2; }
die() { say "engine: $*"; exit 1; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's|.*"'"$package"'": *"\([^"]*\)".*|\1|p' "$here/package.json" | head -n 1)
[ -n "$version" ] || die "package.json beside fetch.sh does not name $package; restore it from the repository."

cache=${TOLLWAY_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or TOLLWAY_CACHE}/.cache}/tollway}
target=$cache/engine-$version
library=$target/libchdb.so

# The stamp is the last thing written, so a folder without it is a broken copy.
is_complete() { [ -f "$target/complete" ] && [ -f "$library" ]; }
if is_complete; then
  printf '%s\n' "$library"
  exit 0
fi

platform="$(uname -s)/$(uname -m)"
[ "$platform" = Linux/x86_64 ] ||
  die "the embedded engine runs on Linux x86-64 only and this machine is $platform; $own_server."
if ldd --version 2>&1 | grep -qi musl; then
  die "the embedded engine needs glibc and this machine has musl; $own_server."
fi
command -v npm >/dev/null 2>&1 ||
  die "npm is missing; install Node.js 18 or newer with npm (Debian: apt-get install nodejs npm) and run this again."

mkdir -p "$cache" 2>/dev/null || die "cannot write to $cache; set TOLLWAY_CACHE to a folder you may write to."
free_mb=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge 1500 ] ||
  die "$cache has $free_mb MB free and the engine needs 1500 MB while it is installed; free some space or set TOLLWAY_CACHE to another folder."

# Of two runs at once one downloads and the other waits for it.
exec 9>"$cache/.engine.lock"
if command -v flock >/dev/null 2>&1; then flock 9; fi
if is_complete; then
  printf '%s\n' "$library"
  exit 0
fi

work=$(mktemp -d "$cache/.engine-$version.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$work/"

say "downloading the ClickHouse engine (178 MB)…"
if ! (cd "$work" && npm ci --no-audit --no-fund --loglevel=error) >"$work/npm.log" 2>&1; then
  sed 's/^/  npm: /' "$work/npm.log" | tail -n 8 >&2
  if grep -Eq 'EINTEGRITY' "$work/npm.log"; then
    die "the downloaded engine does not match its checksum in package-lock.json; run this again, and if it happens again check the proxy or mirror that npm uses."
  fi
  if grep -Eq 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET|network' "$work/npm.log"; then
    die "the npm registry cannot be reached; check the network or the proxy setting of npm (npm config get registry) and run this again."
  fi
  die "npm could not install $package $version; the lines above say why."
fi

mkdir "$work/ready"
mv "$work/node_modules/$package/libchdb.so" "$work/ready/libchdb.so"
sync -f "$work/ready/libchdb.so" 2>/dev/null || true
printf '%s\n' "$version" >"$work/ready/complete"

rm -rf "$target"
mv -T "$work/ready" "$target" ||
  die "cannot move the engine to $target; remove that folder and run this again."
printf '%s\n' "$library"
