#!/bin/sh
# Says whether this machine has what neap is built and tested with, and installs
# what is missing where it can: Debian packages, as root. Without root it lists
# exactly what is missing and ends with 1.
#
#   hack/deps.sh build    Go and Node with npm
#   hack/deps.sh node     the same, and what `neap up --join-host` runs: containerd,
#                         runc, ctr and the CNI plugins
#   hack/deps.sh test     all of that, a C compiler for the race detector, git,
#                         a Chromium and fonts for the browser's tests; what a node
#                         runs only as root, for without it there is no node to test
set -eu
cd "$(dirname "$0")/.."

want=${1:-build}
missing='' packages=''

need() { # command, Debian packages
	command -v "$1" >/dev/null 2>&1 && return 0
	missing="$missing $1" packages="$packages $2"
}

# at_least A B: version A is B or later.
at_least() {
	[ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

go_wanted=$(sed -n 's/^go \([0-9.]*\)$/\1/p' go.mod)
if ! command -v go >/dev/null 2>&1; then
	echo "Go is missing: install Go $go_wanted or later from https://go.dev/dl/ and put it in PATH." >&2
	exit 1
fi
go_has=$(go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
if ! at_least "$go_has" "$go_wanted"; then
	echo "Go $go_has is too old: install Go $go_wanted or later from https://go.dev/dl/." >&2
	exit 1
fi

node_wanted=20
if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
	need node nodejs
	need npm npm
fi
if [ "$want" = node ] || { [ "$want" = test ] && [ "$(id -u)" = 0 ] && [ "$(uname -s)" = Linux ]; }; then
	need containerd containerd
	need ctr containerd
	need runc runc
	if [ ! -e /usr/lib/cni/ptp ] && [ ! -e /opt/cni/bin/ptp ] && [ ! -e /usr/libexec/cni/ptp ]; then
		missing="$missing CNI-plugins" packages="$packages containernetworking-plugins"
	fi
fi
if [ "$want" = test ]; then
	need git git
	need gcc "gcc libc6-dev"
	if ! command -v chromium >/dev/null 2>&1 && ! command -v chromium-browser >/dev/null 2>&1 &&
		! command -v google-chrome >/dev/null 2>&1; then
		need chromium chromium
	fi
	if ! fc-list :lang=zh 2>/dev/null | grep -q .; then
		missing="$missing Chinese-fonts" packages="$packages fonts-noto-cjk"
	fi
	if [ ! -e /etc/ssl/certs/ca-certificates.crt ] && [ ! -e /etc/pki/tls/certs/ca-bundle.crt ]; then
		missing="$missing CA-certificates" packages="$packages ca-certificates"
	fi
fi

if [ -n "$packages" ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo "installing$packages"
		log=$(mktemp) policy=''
		trap 'rm -f "$log" $policy' EXIT
		# Packages are installed for their programs: no service begins.
		if [ ! -e /usr/sbin/policy-rc.d ]; then
			policy=/usr/sbin/policy-rc.d
			printf '#!/bin/sh\nexit 101\n' >$policy
			chmod +x $policy
		fi
		export DEBIAN_FRONTEND=noninteractive
		# shellcheck disable=SC2086 # a list of package names
		if ! { apt-get update && apt-get install -y --no-install-recommends $packages; } >"$log" 2>&1 </dev/null; then
			tail -n 20 "$log" >&2
			echo "apt-get could not install$packages: see above; install them by hand and run this again." >&2
			exit 1
		fi
	else
		echo "missing:$missing. On Debian or Ubuntu: sudo apt-get install$packages" >&2
		exit 1
	fi
fi

node_has=$(node --version | sed 's/^v//')
if ! at_least "$node_has" "$node_wanted"; then
	echo "Node $node_has is too old: install Node $node_wanted or later from https://nodejs.org/." >&2
	exit 1
fi
