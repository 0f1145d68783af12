#!/bin/sh
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
set -eu
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
failed=0

for file in $(grep -rl --include='*_test.go' --exclude-dir=node_modules '^func Fuzz' "$@" | sort); do
	dir=./$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		status=0
		out=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -timeout 20m "$dir" 2>&1 </dev/null) || status=$?
		if [ "$status" != 0 ] && printf '%s\n' "$out" | grep -q '^ *context deadline exceeded$' &&
			! printf '%s\n' "$out" | grep -q -e 'Failing input' -e 'seed corpus entry' -e 'panic'; then
			status=0
		fi
		if [ "$status" = 0 ]; then
			echo "ok   fuzz $dir $target ($(printf '%s\n' "$out" | sed -n 's/.*execs: \([0-9]*\).*/\1/p' | tail -n 1) inputs)"
			echo 1 0 0 >>"$tally"
		else
			printf '%s\n' "$out"
			echo "FAIL fuzz $dir $target"
			echo 0 1 0 >>"$tally"
			failed=1
		fi
	done
done
exit "$failed"
