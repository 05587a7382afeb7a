#!/usr/bin/env bash
# Compares tickgate with nginx, HAProxy and a net/http gateway: installs Debian's packages of the
# two if they are missing, and runs "tickload compare" on all that are there.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [OUT=folder] scripts/compare.sh [flags of tickload compare]

Measures what "tickload compare -h" explains, and leaves report.html, report.md and report.json in
OUT (default: bin/compare). The instances of nginx and HAProxy are this run's own, on free ports of
127.0.0.1; services that Debian starts on installation are left alone and not used. What cannot be
installed, as only root can, is left out of the comparison.

  scripts/compare.sh
  OUT=/tmp/compare scripts/compare.sh -scenarios http,https -rounds 7

Needs bin/ (make build).
END_USAGE
}

help_wanted "$@"

# missing COMMAND says whether a program is absent, also from where root's programs are.
missing() { ! PATH=$PATH:/usr/sbin command -v "$1" >/dev/null; }

# install_peers installs what is missing, or says what to install.
install_peers() {
	local -a packages=()
	missing nginx && packages+=(nginx-light)
	missing haproxy && packages+=(haproxy)
	((${#packages[@]} == 0)) && return
	if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
		printf 'left out, as not installed (apt-get install %s)\n' "${packages[*]}" >&2
		return
	fi
	printf 'installing %s\n' "${packages[*]}" >&2
	export DEBIAN_FRONTEND=noninteractive
	if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >&2; then
		echo 'the installation failed; what is missing is left out' >&2
	fi
}

need_binaries
install_peers
exec bin/tickload compare -out "${OUT:-bin/compare}" "$@"
