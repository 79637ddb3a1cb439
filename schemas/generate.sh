#!/bin/sh
# Regenerates all code and OpenAPI documents of the schema, deterministically:
# the generators are built at fixed versions and run without network access.
# Usage: schemas/generate.sh [lint]
set -eu
cd "$(dirname "$0")"
top=$(cd .. && pwd)
bin=${TOLLWAY_GENERATORS:-$top/.cache/generators}
mkdir -p "$bin"

# install PACKAGE VERSION builds one generator, once.
install() {
	name=$(basename "$1")
	if [ ! -x "$bin/$name" ] || [ "$(cat "$bin/$name.version" 2>/dev/null)" != "$2" ]; then
		GOWORK=off GOBIN=$bin go install "$1@$2"
		echo "$2" >"$bin/$name.version"
	fi
}
install google.golang.org/protobuf/cmd/protoc-gen-go v1.36.12
install google.golang.org/grpc/cmd/protoc-gen-go-grpc v1.6.2
install github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway v2.33.0
install github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2 v2.33.0

if [ ! -x "$bin/buf" ] || [ "$top/deploy/tools/go.mod" -nt "$bin/buf" ]; then
	(cd "$top" && GOWORK=off go build -modfile=deploy/tools/go.mod -o "$bin/buf" github.com/bufbuild/buf/cmd/buf)
fi

PATH=$bin:$PATH
export PATH
buf lint
[ "${1-}" = lint ] || buf generate
