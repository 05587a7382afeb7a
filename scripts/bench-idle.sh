#!/usr/bin/env bash
# Measures what an idle connection costs in memory, for tickgate, nginx, HAProxy and a
# net/http ReverseProxy: the same connections, each gateway alone in turn.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
# shellcheck source=scripts/peers.sh
source scripts/peers.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/bench-idle.sh

For each kind, peer and count a fresh gateway gets 100 connections and its PSS (the
sum of /proc/PID/smaps_rollup over all its processes) is read; then it gets the rest,
and the PSS is read again once it stands still. Memory of a connection is the
difference by the number of those opened in between. Connections sent one request
each; tunnels sent nothing after their handshake. Every one must open, and stay open.

  KINDS=…            of: http https ws wss (default: all)
  PEERS=…            of: tickgate nginx nethttp haproxy (default: those installed)
  COUNTS=…           connections (default: 1000 5000 19000)
  TUNNEL_COUNTS=…    tunnels, two descriptors each (default: 1000 5000 9500)
  WORKERS=2          processes of nginx, threads of HAProxy, GOMAXPROCS
  CORES=             pin the gateways to these processors (as of taskset)
  RATE=1500          connections opened a second
  SETTLE=8           seconds that every gateway gets to settle, at the least
  SETTLE_MOST=40     seconds it gets at the most
  TUNNEL=            settings of tickgate's route of tunnels: "mode: frames"
  GC=0               1: have tickgate collect garbage before each reading
  PORT=18300         first of five ports on 127.0.0.1
  KEEP=0             1: keep configurations and logs

Needs bin/ (make build), curl, openssl for TLS, nginx, haproxy; some 10 minutes.
END_USAGE
}

no_arguments "$@"

read -ra kinds <<<"${KINDS:-http https ws wss}"
read -ra counts <<<"${COUNTS:-1000 5000 19000}"
read -ra tunnel_counts <<<"${TUNNEL_COUNTS:-1000 5000 9500}"
workers=${WORKERS:-2}
rate=${RATE:-1500}
settle=${SETTLE:-8}
settle_most=${SETTLE_MOST:-40}
http_port=${PORT:-18300}
ws_port=$((http_port + 1))
peer_port=$((http_port + 2))
admin_port=$((http_port + 3))
most_fds=$(ulimit -Hn)
[[ $most_fds == unlimited ]] && most_fds=1048576
pin=${CORES:+taskset -c $CORES}
warm=100
PATH=$PATH:/usr/sbin

need curl curl
need_binaries
choose_peers
make_work_dir
make_certificate

# open NAME COUNT opens connections of the kind and waits until all are; the tool's id
# is left in $started.
open() {
	local name=$1 count=$2 url=$kind://127.0.0.1:$peer_port
	if [[ $tunnels == 1 ]]; then
		start "$name" bin/tickload ws -url "$url/ws" -mode idle -duration 0 -insecure -rate "$rate" -tunnels "$count" -json
		wait_for_log "$name" '^traffic begins' $((count / rate + 60))
	else
		start "$name" bin/tickload hold -url "$url/" -insecure -rate "$rate" -conns "$count"
		wait_for_log "$name" '^holding:' $((count / rate + 60))
	fi
}

# settled prints the gateway's PSS in KiB once it stands still: two readings two
# seconds apart that differ by less than a half percent.
settled() {
	local before now
	sleep "$settle"
	collect
	now=$(pss_kib "$peer_pid")
	for ((waited = settle; waited < settle_most; waited += 2)); do
		sleep 2
		before=$now
		now=$(pss_kib "$peer_pid")
		(((now - before) * 200 < now && (before - now) * 200 < now)) && break
	done
	printf '%s\n' "$now"
}

# collect has tickgate collect garbage, if asked for.
collect() {
	if [[ ${GC:-0} == 1 && $peer == tickgate ]]; then
		curl -s -o /dev/null "http://127.0.0.1:$admin_port/debug/pprof/heap?gc=1"
		sleep 1
		curl -s -o /dev/null "http://127.0.0.1:$admin_port/debug/pprof/heap?gc=1"
	fi
}

# close_all ends the tool's processes and demands that all went well.
close_all() {
	local pid name
	for name in rest warm; do
		pid=${tool[$name]}
		# Tunnels at the server's end count as ended by it; none may have before.
		finish "$pid" TERM
		((code == 0)) || { tail -n 40 "$work_dir/$name.log" >&2; die "$peer, $kind, $count: connections failed"; }
	done
}

# measure PEER KIND COUNT prints one row.
measure() {
	peer=$1 kind=$2 count=$3
	tls=0 tunnels=0
	[[ $kind == https || $kind == wss ]] && tls=1
	[[ $kind == ws || $kind == wss ]] && tunnels=1
	local at_warm at_count gateway
	start_peer "$peer"
	gateway=$peer_pid
	open warm "$warm"
	tool[warm]=$started
	at_warm=$(settled)
	open rest $((count - warm))
	tool[rest]=$started
	at_count=$(settled)
	printf '| %s | %s | %s | %s | %s | %s |\n' "$kind" "$(peer_version "$peer")" "$count" \
		"$(calc "($at_count - $at_warm) * 1024 / ($count - $warm)" 0)" \
		"$(calc "$at_warm / 1024" 1)" "$(calc "$at_count / 1024" 1)"
	close_all
	finish "$gateway" TERM
}

declare -A tool=()
start http-backend bin/tickload backend -listen "127.0.0.1:$http_port"
start ws-backend bin/tickload ws-backend -listen "127.0.0.1:$ws_port"
wait_for_url http-backend "http://127.0.0.1:$http_port/"
wait_for_port ws-backend "$ws_port"

printf '\nIdle connections, %s workers, %s processors, Linux %s\n\n' "$workers" "$(nproc)" "$(uname -r)"
echo '| | | connections | PSS bytes each | PSS MiB with 100 | with all |'
echo '|---|---|---|---|---|---|'
for kind in "${kinds[@]}"; do
	case $kind in
	http | https) these=("${counts[@]}") ;;
	ws | wss) these=("${tunnel_counts[@]}") ;;
	*) die "no kind $kind: there are http, https, ws and wss" ;;
	esac
	for peer in "${peers[@]}"; do
		for count in "${these[@]}"; do
			measure "$peer" "$kind" "$count"
		done
	done
done
