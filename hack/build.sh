#!/bin/sh
# Build the two binaries that link Kubernetes: bin/neap-cluster and
# bin/neap-scheduler. A build from nothing compiles about two thousand packages
# and takes some ten minutes on two cores, so this says what it is doing, and
# does nothing when the sources have not changed since the last build.
#
#   hack/build.sh [-f]      -f: build even if nothing has changed
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

binaries="neap-cluster neap-scheduler"
# What decides the binaries: the pins, this script, the compiler, our sources
# below them.
stamp=bin/.kubernetes-binaries
sources="go.mod go.sum hack/build.sh cmd/neap-cluster cmd/neap-scheduler kube/scheduler local/allinone local/clusterdir local/process"
now=$(go version; find $sources -type f ! -name '*_test.go' ! -name '*.md' -exec cksum {} + | sort)

fresh=yes
for b in $binaries; do [ -x "bin/$b" ] || fresh=no; done
[ "${1:-}" != -f ] && [ "$fresh" = yes ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$now" ] && exit 0

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
major=${version#v}; major=${major%%.*}
minor=${version#v*.}; minor=${minor%%.*}
pkg=k8s.io/component-base/version
# Without these the API server calls itself v0.0.0-master.
flags="-s -w -X $pkg.gitVersion=$version -X $pkg.gitMajor=$major -X $pkg.gitMinor=$minor -X $pkg.gitCommit=unknown -X $pkg.gitTreeState=clean"

mkdir -p bin
began=$(date +%s)
progress=$(mktemp)
trap 'rm -f "$progress"' EXIT
trap 'exit 130' INT TERM
tty=no
[ -t 2 ] && tty=yes
elapsed() { s=$(($(date +%s) - began)); printf '%d:%02d' $((s / 60)) $((s % 60)); }

echo "building $binaries with Kubernetes $version (some ten minutes on two cores the first time, seconds later)" >&2
go build -v -ldflags "$flags" -o bin/ ./cmd/neap-cluster ./cmd/neap-scheduler 2>"$progress" &
build=$!
trap 'kill $build 2>/dev/null || true; exit 130' INT TERM
ticks=0
while kill -0 $build 2>/dev/null; do
	compiled=$(wc -l <"$progress")
	last=$(tail -n 1 "$progress" | cut -c 1-50)
	if [ $tty = yes ]; then
		printf '\r\033[K  %s  %d packages compiled  %s' "$(elapsed)" "$compiled" "$last" >&2
	elif [ $((ticks % 30)) = 29 ]; then
		echo "  $(elapsed) and still building: $((compiled)) packages compiled, last $last" >&2
	fi
	ticks=$((ticks + 1))
	sleep 1
done
[ $tty = yes ] && printf '\r\033[K' >&2
if ! wait $build; then
	# Everything that is not the name of a package is an error.
	grep -v -E '^[a-z0-9.]+(/[A-Za-z0-9._~-]+)*$' "$progress" >&2 || cat "$progress" >&2
	echo "building $binaries failed after $(elapsed)" >&2
	exit 1
fi
printf '%s\n' "$now" >"$stamp"
echo "built $binaries in $(elapsed)" >&2
