#!/bin/sh
# gofmt, go vet and staticcheck over the whole module. The tools are pinned in
# hack/tools/go.mod, apart from what neap itself is built with. --tally FILE
# appends what passed and failed to FILE, for hack/test.sh.
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

tally=/dev/null
[ "${1:-}" = --tally ] && tally=$2
failed=0

result() { # name, status
	if [ "$2" = 0 ]; then
		echo "ok   $1"
		echo 1 0 0 >>"$tally"
	else
		echo "FAIL $1"
		echo 0 1 0 >>"$tally"
		failed=1
	fi
}

unformatted=$(find . \( -name node_modules -o -name .git -o -name bin \) -prune -o -name '*.go' -print0 | xargs -0 gofmt -l)
[ -z "$unformatted" ] || printf 'gofmt -w these files:\n%s\n' "$unformatted"
result gofmt "$([ -z "$unformatted" ] && echo 0 || echo 1)"

status=0
go vet ./... || status=$?
result "go vet" "$status"

status=0
go build -C hack/tools -o ../../bin/tools/staticcheck honnef.co/go/tools/cmd/staticcheck || status=$?
[ "$status" != 0 ] || bin/tools/staticcheck ./... || status=$?
result staticcheck "$status"

exit "$failed"
