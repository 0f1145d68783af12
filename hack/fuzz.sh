#!/bin/bash
# Runs fuzz targets for a while each: hack/fuzz.sh [--tally FILE] [TIME [DIR…]]
#
# TIME is as for go test -fuzztime: 30s, or 1000x for that many inputs. Given a
# time, go test now and then reports its own deadline ("context deadline
# exceeded") as a failure though no input failed; that one is not counted.
#
# Without folders it runs every target of the module; those of packages with
# large dependencies take minutes to build for it. What it finds is kept under
# testdata/fuzz beside the target, to be fixed and committed. --tally FILE
# appends what passed and failed to FILE, for hack/test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

tally=/dev/null
if [ "${1:-}" = --tally ]; then
	tally=$2
	shift 2
fi
time=${1:-30s}
[ $# = 0 ] || shift
[ $# != 0 ] || set -- .

# So many inputs are the same however many targets run at once; a time is not.
lanes=1
case $time in *x) lanes=$(getconf _NPROCESSORS_ONLN) ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
corpus=$(go env GOCACHE)/fuzz module=$(go list -m)

# target DIR BINARY NAME: runs one target of a package whose test is built.
target() {
	local dir=$1 binary=$2 name=$3 status=0 one=() out
	[ "$lanes" = 1 ] || one=(-test.parallel 1) # the other lanes have the other cores
	out=$(cd "$dir" && "$binary" -test.paniconexit0 -test.run '^$' -test.fuzz "^$name\$" -test.fuzztime "$time" \
		-test.fuzzcachedir "$corpus/$module/${dir#./}" ${one[@]+"${one[@]}"} -test.timeout 20m 2>&1 </dev/null) || status=$?
	if [ "$status" != 0 ] && grep -q '^ *context deadline exceeded$' <<<"$out" &&
		! grep -q -e 'Failing input' -e 'seed corpus entry' -e 'panic' <<<"$out"; then
		status=0
	fi
	if [ "$status" = 0 ]; then
		echo "ok   fuzz $dir $name ($(sed -n 's/.*execs: \([0-9]*\).*/\1/p' <<<"$out" | tail -n 1) inputs)"
	else
		printf '%s\nFAIL fuzz %s %s\n' "$out" "$dir" "$name"
	fi
	return "$status"
}

# lane N: every lanes-th package. A package's test is built once for its targets.
lane() {
	local n=$1 i dir name status=0 out
	for ((i = n; i < ${#dirs[@]}; i += lanes)); do
		dir=./${dirs[i]#./}
		if ! out=$(go test -c -vet=off -fuzz . -o "$work/fuzz$n" "$dir" 2>&1 </dev/null); then
			printf '%s\nFAIL fuzz %s does not build\n' "$out" "$dir"
			echo 0 1 0 >>"$tally"
			status=1
			continue
		fi
		for name in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir"/*_test.go); do
			if target "$dir" "$work/fuzz$n" "$name"; then
				echo 1 0 0 >>"$tally"
			else
				echo 0 1 0 >>"$tally"
				status=1
			fi
		done
	done
	return "$status"
}

# shellcheck disable=SC2207 # names without spaces
dirs=($(grep -rl --include='*_test.go' --exclude-dir=node_modules '^func Fuzz' "$@" | xargs -n 1 dirname | sort -u))
pids=() failed=0
for ((n = 0; n < lanes; n++)); do
	lane "$n" &
	pids+=($!)
done
for pid in "${pids[@]}"; do
	wait "$pid" || failed=1
done
exit "$failed"
