#!/usr/bin/env bash
# Finds PostgreSQL 15 or newer for the tests, or puts Debian's into the cache
# folder, once, and prints the folder. Nothing is installed on the machine: no
# account, no service, no file outside of the cache folder (for root, that and
# /var/cache/tollway). Safe to call from several shells at the same time.
set -euo pipefail
oldest=15
cache=${TOLLWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tollway}
target=$cache/postgres

die() { echo "postgres: $*" >&2; exit 1; }

# A folder of programs is good if the server in it starts and is new enough.
good() {
  [[ -x $1/initdb && -x $1/postgres ]] || return 1
  local major
  major=$(LD_LIBRARY_PATH=${2:-} "$1/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
  [[ -n $major ]] && ((major >= oldest))
}

# The stamp is written last: a folder without it is an interrupted download. What
# it points to may have been removed since.
fetched() { [[ -f $target/stamp ]] && good "$target/bin" "$target/lib"; }

if fetched; then
  echo "$target"
  exit 0
fi
mkdir -p "$cache" || die "the cache folder $cache cannot be made: set TOLLWAY_CACHE to a folder you may write to."
exec 9>"$cache/.postgres.lock"
if command -v flock >/dev/null; then flock 9; fi
if fetched; then
  echo "$target"
  exit 0
fi

installed() {
  local bin
  for bin in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) "$(dirname "$(command -v postgres || echo /)")"; do
    if good "$bin"; then
      echo "$bin"
      return
    fi
  done
}

rm -rf "$target"
mkdir "$target"
if bin=$(installed) && [[ -n $bin ]]; then
  mkdir "$target/lib"
  ln -s "$bin" "$target/bin"
  echo "$bin" >"$target/stamp"
  echo "$target"
  exit 0
fi

for tool in apt-get apt-cache dpkg; do
  command -v "$tool" >/dev/null ||
    die "PostgreSQL $oldest or newer is missing, and this system has no $tool to fetch it with: install it (Debian: apt-get install postgresql; others: the programs initdb and postgres in PATH)."
done
# What the package postgresql depends on is the version of this Debian.
package=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/^ *Depends: \(postgresql-[0-9][0-9]*\)$/\1/p' | head -n 1)
[[ -n $package ]] || die "apt does not know the package postgresql: run apt-get update as root, then make postgres again."
((${package#postgresql-} >= oldest)) || die "this system has $package, and $oldest or newer is needed: install one (the programs initdb and postgres in PATH)."

# Tests that run as root start the server under another account, which may not
# look into root's own folders.
files=$target/files
if [[ $(id -u) == 0 ]]; then
  files=/var/cache/tollway/$package
  rm -rf "$files"
fi
mkdir -p "$files/packages"
cd "$files/packages"
# The server, and of what it needs all that is not installed.
mapfile -t packages < <(apt-get install --simulate --no-install-recommends "$package" 2>/dev/null |
  sed -n 's/^Inst \([^ ]*\) .*/\1/p' | grep -E '^lib|^postgresql-[0-9]' | grep -v -e '-dev$' || true)
[[ " ${packages[*]} " == *" $package "* ]] || packages+=("$package")
echo "postgres: fetching ${packages[*]} into $files" >&2
# _apt, the account that downloads, may not write here; the warning about it is of no use.
if ! apt-get download -o APT::Sandbox::User="$(id -un)" "${packages[@]}" >"$target/apt.log" 2>&1; then
  tail -5 "$target/apt.log" >&2
  die "apt could not fetch the packages: check the network, run apt-get update as root, then make postgres again."
fi
for file in *.deb; do
  dpkg -x "$file" "$files/root"
done
rm -r "$files/packages"
chmod -R a+rX "$files"
ln -s "$files/root/usr/lib/postgresql/${package#postgresql-}/bin" "$target/bin"
ln -s "$files/root/usr/lib/$(uname -m)-linux-gnu" "$target/lib"
mkdir -p "$files/root/usr/lib/$(uname -m)-linux-gnu"
good "$target/bin" "$target/lib" || die "the fetched PostgreSQL does not start on this machine: $(LD_LIBRARY_PATH=$target/lib "$target/bin/postgres" --version 2>&1 | tail -1)"
echo "$package" >"$target/stamp"
echo "$target"
