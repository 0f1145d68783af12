#!/bin/sh
# Runs every fuzz target of the module for a while: hack/fuzz.sh 30s. What it
# finds is kept under testdata/fuzz beside the target, to be fixed and committed.
# --tally FILE as a second argument appends what passed and failed, for hack/test.sh.
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

time=${1:-30s}
tally=/dev/null
[ "${2:-}" = --tally ] && tally=$3
failed=0

for file in $(grep -rl --include='*_test.go' '^func Fuzz' --exclude-dir=node_modules . | sort); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		dir=$(dirname "$file")
		if out=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -timeout 10m "$dir" 2>&1 </dev/null); then
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
