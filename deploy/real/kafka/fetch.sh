#!/usr/bin/env bash
# Puts the jars of Apache Kafka into the cache folder, once, and prints the
# folder. Safe to call from several shells at the same time.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TOLLWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tollway}
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
target=$cache/kafka-$version

die() { echo "kafka: $*" >&2; exit 1; }

# The stamp holds the checksum of what was asked for: a new pom.xml is a new download.
want=$(cksum <"$here/pom.xml")
fetched() { [[ -f $target/stamp && $(cat "$target/stamp") == "$want" ]]; }
have_java() {
  command -v java >/dev/null || die "java is missing: install a Java runtime 17 or newer (Debian: apt-get install default-jre-headless)."
}

if fetched; then
  have_java
  echo "$target"
  exit 0
fi
have_java
command -v mvn >/dev/null || die "mvn is missing: install Maven 3.6 or newer (Debian: apt-get install maven)."

mkdir -p "$cache" || die "the cache folder $cache cannot be made: set TOLLWAY_CACHE to a folder you may write to."
exec 9>"$cache/.kafka.lock"
if command -v flock >/dev/null; then flock 9; fi
if fetched; then
  echo "$target"
  exit 0
fi

work=$(mktemp -d "$cache/.kafka-XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "kafka: fetching Apache Kafka $version (about 60 MB) into $target" >&2
if ! mvn -B -ntp -q -f "$here/pom.xml" dependency:copy-dependencies \
  -DincludeScope=runtime -DoutputDirectory="$work/libs" >"$work/mvn.log" 2>&1; then
  grep -m 5 -E 'ERROR|FATAL' "$work/mvn.log" >&2 || tail -5 "$work/mvn.log" >&2
  die "Maven could not fetch the jars: check the network and Maven's settings.xml, then run make kafka again."
fi
[[ -f $work/libs/kafka_2.13-$version.jar ]] ||
  die "Maven ended well but kafka_2.13-$version.jar is not there: run make kafka again."
rm "$work/mvn.log"
echo "$want" >"$work/stamp"
chmod 755 "$work"
rm -rf "$target"
mv "$work" "$target"
echo "$target"
