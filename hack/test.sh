#!/bin/bash
# Runs every test of neap and ends with a line "N passed, N failed, N skipped".
# It goes on after a failure, so that one run shows everything that is broken,
# and exits with 1 if anything failed.
#
# With CI=true, a test that would be skipped because something is missing (a
# browser, a privilege, the data folder) fails instead.
set -uo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS--buildvcs=false}" NO_COLOR=1

# Packages that run under the race detector too: those that keep no process and
# no Kubernetes of their own.
race=(./core/... ./sim/... ./metrics/... ./store/... ./local/clock/... ./server/...)

tally=$(mktemp)
trap 'rm -f "$tally"' EXIT
began=$SECONDS

phase() { printf '\n== %s (after %d min %02d s)\n' "$1" $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)); }

check() { # name, command…: one passed or failed
	local name=$1 start=$SECONDS
	shift
	if "$@" </dev/null; then
		echo "ok   $name ($((SECONDS - start)) s)"
		echo 1 0 0 >>"$tally"
	else
		echo "FAIL $name ($((SECONDS - start)) s)"
		echo 0 1 0 >>"$tally"
		return 1
	fi
}

finish() {
	phase "done"
	bin/tools/testsum -total -tally "$tally"
	exit
}

gotest() { # arguments of go test
	go test -json "$@" </dev/null 2>&1 | bin/tools/testsum -tally "$tally"
}

phase "what is needed"
hack/deps.sh test || exit 1
mkdir -p bin/tools
go build -o bin/tools/testsum ./hack/testsum || exit 1

phase "the page"
if [ -f ui/package.json ]; then
	check "page builds" make ui && check "page's tests" npm --prefix ui run --silent test
fi

phase "binaries"
node=node
[ "$(uname -s)" = Linux ] || node=''
check "binaries build" hack/build.sh $node || finish

phase "lint"
hack/lint.sh --tally "$tally"

# Lint has vetted all of it, with more than go test would.
phase "tests"
gotest -vet=off -p 3 -timeout 30m ./...

phase "race detector"
existing=()
for pattern in "${race[@]}"; do
	[ -d "${pattern%/...}" ] && existing+=("$pattern")
done
if CGO_ENABLED=1 command -v "$(CGO_ENABLED=1 go env CC)" >/dev/null; then
	CGO_ENABLED=1 gotest -vet=off -race -short -p 2 -timeout 30m "${existing[@]}"
else
	check "a C compiler for the race detector" false
fi

phase "fuzz targets, briefly"
hack/fuzz.sh --tally "$tally" 1000x core sim internal host

finish
