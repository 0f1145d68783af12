#!/bin/sh
# Build neap's programs into bin/.
#
# Some of them, neap-cluster, neap-scheduler and neap-kubelet, link Kubernetes: from nothing
# that compiles about two thousand packages and takes some ten minutes on two
# cores. They are built only when something below them has changed; the others
# are left to go, which is quick to see that nothing has.
#
# This says what is being built and for how long: one line that moves on a
# terminal, a plain line every half minute elsewhere.
#
#   hack/build.sh [-f] [node]     -f: link everything again
#                                 node: the kubelet as well, and what pods of a
#                                 real node are held by (neap up --join-host)
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS--buildvcs=false}"

progress='' build=''
cleanup() { rm -f "$progress"; }
trap cleanup EXIT
trap '[ -z "$build" ] || kill "$build" 2>/dev/null || true; exit 130' INT TERM
progress=$(mktemp)

# compile WHAT FLAGS PACKAGE…: go build into bin/, with progress.
compile() {
	what=$1 flags=$2
	shift 2
	began=$(date +%s)
	: >"$progress"
	go build -v -ldflags "$flags" -o bin/ "$@" 2>"$progress" &
	build=$!
	ticks=0 shown=no
	while kill -0 "$build" 2>/dev/null; do
		if [ -t 2 ]; then
			printf '\r\033[K  %s  %s: %d packages compiled  %s' "$(elapsed)" "$what" \
				"$(grep -c . "$progress" || true)" "$(tail -n 1 "$progress" | cut -c 1-40)" >&2
			shown=yes
		elif [ $((ticks % 150)) = 149 ]; then
			echo "  $(elapsed) and still building $what: $(grep -c . "$progress" || true) packages compiled, last $(tail -n 1 "$progress")" >&2
		fi
		ticks=$((ticks + 1))
		sleep 0.2
	done
	[ $shown = no ] || printf '\r\033[K' >&2
	if ! wait "$build"; then
		# Everything that is not the name of a package is an error.
		grep -v -E '^[a-z0-9.]+(/[A-Za-z0-9._~-]+)*$' "$progress" >&2 || cat "$progress" >&2
		echo "building $what failed after $(elapsed)" >&2
		exit 1
	fi
	build=''
	[ ! -s "$progress" ] || echo "built $what in $(elapsed)" >&2
}

elapsed() {
	s=$(($(date +%s) - began))
	printf '%d:%02d' $((s / 60)) $((s % 60))
}

force='' node=''
for arg; do
	case $arg in
	-f) force=yes ;;
	node) node=yes ;;
	*)
		echo "hack/build.sh: unknown argument $arg; give -f or node" >&2
		exit 2
		;;
	esac
done

mkdir -p bin
if [ -d cmd/neap-controller ]; then ours="./cmd/neap ./cmd/neap-controller ./cmd/neap-bridge ./cmd/neap-agent"; else ours=./cmd/neap; fi

# 1. The programs with Kubernetes in them. What decides them: the compiler, the
# pins, this script, and our sources below them.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v*.}
is=k8s.io/component-base/version
# Without -X the API server calls itself v0.0.0-master.
kubernetes="-s -w -X $is.gitVersion=$version -X $is.gitMajor=1 -X $is.gitMinor=${minor%%.*} -X $is.gitCommit=unknown -X $is.gitTreeState=clean"

stamp=bin/.kubernetes
now=$(
	go version
	find go.mod go.sum hack/build.sh cmd/neap-cluster cmd/neap-scheduler api core kube/convert kube/gpubook kube/scheduler \
		local/allinone local/clusterdir local/process -type f ! -name '*_test.go' ! -name '*.md' -exec cksum {} + | sort
)
if [ -n "$force" ] || [ ! -x bin/neap-cluster ] || [ ! -x bin/neap-scheduler ] || [ ! -f $stamp ] || [ "$(cat $stamp)" != "$now" ]; then
	echo "building neap-cluster and neap-scheduler with Kubernetes $version: some ten minutes on two cores the first time, seconds after that" >&2
	compile "neap-cluster and neap-scheduler" "$kubernetes" ./cmd/neap-cluster ./cmd/neap-scheduler
	printf '%s\n' "$now" >$stamp
fi
if [ -n "$node" ]; then
	stamp=bin/.kubelet
	now=$(
		go version
		find go.mod go.sum hack/build.sh cmd/neap-kubelet local/process -type f ! -name '*_test.go' -exec cksum {} + | sort
	)
	if [ -n "$force" ] || [ ! -x bin/neap-kubelet ] || [ ! -f $stamp ] || [ "$(cat $stamp)" != "$now" ]; then
		echo "building neap-kubelet with Kubernetes $version: some minutes on two cores the first time, seconds after that" >&2
		compile neap-kubelet "$kubernetes" ./cmd/neap-kubelet
		printf '%s\n' "$now" >$stamp
	fi
fi

# 2. The rest.
[ -z "$node" ] || ours="$ours ./cmd/neap-pause"
# shellcheck disable=SC2086 # names without spaces
compile neap "-s -w" $ours
