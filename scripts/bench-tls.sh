#!/usr/bin/env bash
# Measures what TLS handshakes cost tickgate, nginx and a net/http gateway in CPU time, and how long they take at half
# of the most, with the same certificate and group on all sides, and judges tickgate by it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/bench-tls.sh [flags of tickload compare]

Runs the scenario "tls" of tickload compare: each gateway alone in turn, A B C A B C …, with the same ECDSA P-256
certificate. The client offers X25519 and TLS 1.3 and nothing else, so that is what all of them do; what was agreed on is
checked. Windows of a turn: full handshakes, resumed ones, full ones at half the rate that the closed loop came to, TLS
1.2, and X25519MLKEM768, which nginx leaves out as OpenSSL 3.0 lacks it. CPU time is that of the gateway's processes alone.

Fails unless the CPU time of a full handshake and of a resumed one is at most CPU times nginx's (median of the rounds'
ratios), and the 99th percentile at half speed, from the time a handshake was due, at most P99 ms (median of the rounds).

  ROUNDS=5       rounds
  WINDOW=2s      length of each window
  PEERS=tickgate,nginx,nethttp   of: tickgate nginx haproxy nethttp
  CPU=1.0        times nginx
  P99=3          milliseconds
  PORT=22200     where free ports of 127.0.0.1 are looked for
  OUT=           folder for report.json, report.md and report.html (default: bin/bench-tls)

Needs bin/ (make build), nginx (apt-get install nginx-light). Some three minutes and a half.
END_USAGE
}

help_wanted "$@"

window=${WINDOW:-2s}
peers=${PEERS:-tickgate,nginx,nethttp}

need_binaries
[[ ,$peers, != *,nginx,* ]] || need nginx nginx-light
[[ $window =~ ^([0-9]+)(ms|s)$ ]] || die "WINDOW is $window: want a number of s or ms"
bars=(-bar "tls/full handshake p99 at half speed<=${P99:-3}")
if [[ ,$peers, == *,nginx,* ]]; then
	bars+=(-bar "tls/CPU per full handshake<=${CPU:-1.0}*nginx" -bar "tls/CPU per resumed handshake<=${CPU:-1.0}*nginx")
fi
# A window of handshakes is half of a measured window of the other scenarios.
exec bin/tickload compare -scenarios tls -peers "$peers" -rounds "${ROUNDS:-5}" -duration "$((BASH_REMATCH[1] * 2))${BASH_REMATCH[2]}" \
	-port "${PORT:-22200}" -out "${OUT:-bin/bench-tls}" "${bars[@]}" "$@"
