#!/bin/sh
# Writes api/v1alpha1/zz_generated.deepcopy.go and deploy/chart/neap/crds/*.yaml anew from
# the types and markers in api/v1alpha1. With --check it changes nothing and
# fails if what is committed is not what would be written.
set -eu
cd "$(dirname "$0")/.."

version=v0.21.0 # the one that is built against Kubernetes 1.36
gen() {
	go run "sigs.k8s.io/controller-tools/cmd/controller-gen@$version" "$@"
}

out=.
if [ "${1:-}" = --check ]; then
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out/api/v1alpha1" "$out/deploy/chart/neap/crds"
gen object:headerFile=/dev/null output:object:dir="$out/api/v1alpha1" \
	crd output:crd:dir="$out/deploy/chart/neap/crds" paths=./api/...
if [ "$out" != . ]; then
	cmp "$out/api/v1alpha1/zz_generated.deepcopy.go" api/v1alpha1/zz_generated.deepcopy.go
	diff -r "$out/deploy/chart/neap/crds" deploy/chart/neap/crds
fi
