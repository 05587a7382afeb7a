#!/usr/bin/env bash
# Measures the CPU time that relaying a WebSocket message costs tickgate, nginx,
# HAProxy and a net/http ReverseProxy, in rounds A B C D A B C D …, each alone in turn.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
# shellcheck source=scripts/peers.sh
source scripts/peers.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/bench-relay.sh

A message is one WebSocket message that crosses the gateway in one direction. Half of
them go to the backend, which echoes them, so the other half comes back. They are
spread evenly over the tunnels and sent by a schedule, whatever the gateway does; all
must come back, in order. CPU is user and system time of all processes and threads of
the gateway from /proc/PID/stat, over the whole traffic; what it takes while the
tunnels idle is measured just before and not subtracted.

  KINDS=…        of: ws wss (default: both; clients speak TLS in wss, backends never)
  PEERS=…        of: tickgate nginx nethttp haproxy (default: those installed)
  ROUNDS=5       rounds
  DURATION=10    seconds of traffic in each
  MESSAGES=10000 messages that cross a second, both directions together
  TUNNELS=1000   tunnels
  SIZE=200       bytes of payload
  IDLE=3         seconds of idling that are measured
  WORKERS=2      processes of nginx, threads of HAProxy, GOMAXPROCS
  CORES=         pin the gateways to these processors (as of taskset)
  LOAD_CORES=    pin the load and the backend to these
  TUNNEL=        settings of tickgate's route of tunnels: "mode: frames"
  PORT=18400     first of five ports on 127.0.0.1
  KEEP=0         1: keep configurations and logs

Needs bin/ (make build), curl, openssl for TLS, nginx, haproxy; by default some
twelve minutes.
END_USAGE
}

no_arguments "$@"

read -ra kinds <<<"${KINDS:-ws wss}"
rounds=${ROUNDS:-5}
duration=${DURATION:-10}
messages=${MESSAGES:-10000}
tunnel_count=${TUNNELS:-1000}
size=${SIZE:-200}
idle=${IDLE:-3}
workers=${WORKERS:-2}
http_port=${PORT:-18400}
ws_port=$((http_port + 1))
peer_port=$((http_port + 2))
admin_port=$((http_port + 3))
most_fds=$(ulimit -Hn)
[[ $most_fds == unlimited ]] && most_fds=1048576
pin=${CORES:+taskset -c $CORES}
load_pin=${LOAD_CORES:+taskset -c $LOAD_CORES}
tunnels=1
ticks_per_second=$(getconf CLK_TCK)
PATH=$PATH:/usr/sbin
declare -A samples=() # "metric kind peer" -> values, one a line

need curl curl
need_binaries
choose_peers
make_work_dir
make_certificate

# add METRIC VALUE keeps one sample.
add() { samples["$1 $kind $peer"]+="$2"$'\n'; }

# measure runs one peer once: idle CPU between the opening and the traffic, then CPU
# until every echo is back. The tool stays in step: it pauses before and after.
measure() {
	local before idled after load gateway
	tls=0
	[[ $kind == wss ]] && tls=1
	start_peer "$peer"
	gateway=$peer_pid
	# shellcheck disable=SC2086
	start load $load_pin bin/tickload ws -url "$kind://127.0.0.1:$peer_port/ws" -insecure -tunnels "$tunnel_count" -rate 1000 \
		-mode echo -messages "$(calc "$messages / 2" 3)" -size "$size" -settle $((idle + 3))s -duration "${duration}s" -linger 3s -json
	load=$started
	wait_for_log load '^open:' 120
	sleep 2 # the handshakes settle
	before=$(cpu_ticks "$gateway")
	sleep "$idle"
	idled=$(cpu_ticks "$gateway")
	wait_for_log load '^traffic ended' $((duration + 30))
	after=$(cpu_ticks "$gateway")
	finish "$load"
	((code == 0)) || { cat "$work_dir/load.log" >&2; die "$peer, $kind: not every message came back in order, or the tool failed"; }
	finish "$gateway" TERM
	note $((idled - before)) $((after - idled))
}

# note IDLE BUSY keeps the samples of one measurement, given its clock ticks.
note() {
	local log=$work_dir/load.log crossed
	crossed=$(($(json "$log" sent) + $(json "$log" received)))
	[[ $(json "$log" too_slow) == false ]] || echo "  the load could not keep up: its latencies are its own" >&2
	add cpu "$(calc "$2 / $ticks_per_second * 1e6 / $crossed")"
	add idle "$(calc "$1 / $ticks_per_second / $idle * 100" 1)"
	add p50 "$(calc "$(json "$log" p50_us message_time) / 1000")"
	add p99 "$(calc "$(json "$log" p99_us message_time) / 1000")"
	add tool "$(calc "$(json "$log" traffic_cpu_seconds) * 1e6 / $crossed" 1)"
	printf '  %-4s %-9s %7s us CPU per message, %d messages\n' "$kind" "$peer" "$(tail -n 1 <<<"${samples["cpu $kind $peer"]%$'\n'}")" "$crossed" >&2
}

# of METRIC PEER prints the samples of the kind.
of() { printf '%s' "${samples["$1 $kind $2"]:-}"; }

report() {
	local ratio
	printf '\n%s messages/s of %s bytes (both directions together) over %s tunnels, %s workers, %s rounds of %s s, %s processors, Linux %s: median (min–max)\n\n' \
		"$messages" "$size" "$tunnel_count" "$workers" "$rounds" "$duration" "$(nproc)" "$(uname -r)"
	echo '| clients | | CPU µs/message | × nginx | idle CPU % of one processor | echo p50 ms | p99 ms | load CPU µs/message |'
	echo '|---|---|---|---|---|---|---|---|'
	for kind in "${kinds[@]}"; do
		for peer in "${peers[@]}"; do
			ratio=–
			[[ -n $(of cpu nginx) ]] && ratio=$(calc "$(of cpu "$peer" | median_of) / $(of cpu nginx | median_of)")
			printf '| %s | %s | %s (%s–%s) | %s | %s | %s | %s | %s |\n' "$([[ $kind == ws ]] && echo plain || echo TLS)" "$(peer_version "$peer")" \
				"$(of cpu "$peer" | median_of)" "$(of cpu "$peer" | lowest_of)" "$(of cpu "$peer" | highest_of)" "$ratio" \
				"$(of idle "$peer" | median_of)" "$(of p50 "$peer" | median_of)" "$(of p99 "$peer" | median_of)" "$(of tool "$peer" | median_of)"
		done
	done
}

# shellcheck disable=SC2086
start ws-backend $load_pin bin/tickload ws-backend -listen "127.0.0.1:$ws_port"
wait_for_port ws-backend "$ws_port"
for ((round = 1; round <= rounds; round++)); do
	printf 'round %d of %d\n' "$round" "$rounds" >&2
	for kind in "${kinds[@]}"; do
		for peer in "${peers[@]}"; do
			measure
		done
	done
done
report
