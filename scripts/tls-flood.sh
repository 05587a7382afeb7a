#!/usr/bin/env bash
# Floods a tickgate with ten times the handshakes that its processors can do, and demands that requests over connections
# that are there already keep their latency.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/tls-flood.sh

What the gateway's processors can do is found first, by the CPU time that a full handshake takes of it. Then, in ROUNDS
rounds, RATE requests a second over TLS connections that are kept are measured in the calm and beside a flood of FLOOD times
that capacity (tickload tls-attack -kind flood: whole ClientHellos, no cryptography of the client's, answers that are
dropped). Fails unless every request of those connections succeeded, the flood was as strong as it should be, and the
median of the rounds' 99th percentiles grew by no more than MOST times, or stayed below FLOOR milliseconds. The share of
honest new clients that got through is shown.

With two processors or more the gateway has one for itself, the loads and the backend have the others, and the flood has
what these leave (nice 19): otherwise the tool's own work would be what is measured.

  ROUNDS=3       rounds: calm, flooded, calm, flooded …
  DURATION=10    seconds of each
  RATE=300       requests a second over kept connections
  SHAKES=10      honest handshakes a second beside them
  FLOOD=10       times the capacity
  PATIENCE=500   milliseconds after which a client of the flood gives up
  SOCKETS=15000  clients of the flood at a time, at most
  MOST=2         times
  FLOOR=2        milliseconds
  KEY=ecdsa      of the certificate; rsa makes handshakes three times as dear, and the flood as much easier to come to
  PIN=…          1: as above, 0: no pinning (default: 1 with two processors or more)
  CONFIG=        more of tickgate's configuration, in lines of their own
  PORT=22200     first of three ports on 127.0.0.1
  KEEP=0         1: keep configurations, results and logs

Needs bin/ (make build), curl, openssl, taskset (util-linux), and SOCKETS + 1000 descriptors for a process (ulimit -Hn).
END_USAGE
}

no_arguments "$@"

rounds=${ROUNDS:-3}
duration=${DURATION:-10}
rate=${RATE:-300}
shakes=${SHAKES:-10}
flood=${FLOOD:-10}
patience=${PATIENCE:-500}
sockets=${SOCKETS:-15000}
most=${MOST:-2}
floor=${FLOOR:-2}
pin=${PIN:-$(($(nproc) > 1))}
port=${PORT:-22200}
backend=127.0.0.1:$((port + 1))
admin=127.0.0.1:$((port + 2))
url=https://127.0.0.1:$port/
hz=$(getconf CLK_TCK)

need curl curl
need openssl openssl
need taskset util-linux
need_binaries
need_descriptors $((sockets + 1000))
gate_on=() load_on=() processors=$(nproc)
if [[ $pin == 1 ]]; then
	gate_on=(taskset -c 0) load_on=(taskset -c "1-$(($(nproc) - 1))") processors=1
fi
make_work_dir
make_authority
key=${KEY:-ecdsa} issue server
{
	secure_config "$port" "$admin" "$backend"
	printf '%s\n' "${CONFIG:-}"
} >"$work_dir/tickgate.yaml"
start backend "${load_on[@]}" bin/tickload backend -listen "$backend"
wait_for_url backend "http://$backend/"
GOMAXPROCS=$processors start_gateway "$url" "${gate_on[@]}"

# load NAME COMMAND… starts a tickload with its result in NAME.log.
load() { start "$1" "${load_on[@]}" bin/tickload "${@:2}" -json -strict=false -quiet; }

in_ms() { calc "$(of "$1" "$2" latency) / 1000" 2; }

# done_with PID NAME waits for a tickload.
done_with() {
	finish "$1"
	((code == 0)) || die "a load ended with code $code: $(tail -n 3 "$work_dir/$2.log")"
}

# measure_capacity leaves how many handshakes a second the processors can do in $capacity.
measure_capacity() {
	local before after
	before=$(cpu_ticks "$gateway_pid")
	load capacity tls -url "$url" -insecure -groups X25519 -versions 1.3 -conns 8 -duration 5s
	done_with "$started" capacity
	after=$(cpu_ticks "$gateway_pid")
	(($(of capacity ok) > 0)) || die "no handshake: $(of capacity first_error)"
	micros=$(calc "($after - $before) / $hz * 1e6 / $(of capacity ok)" 0)
	capacity=$(calc "$processors * 1e6 / $micros" 0)
}

# measure NAME puts the loads on the gateway for DURATION.
measure() {
	local kept fresh
	load "kept-$1" http -url "$url" -insecure -rate "$rate" -conns 64 -warmup 2s -duration "$((duration + 2))s"
	kept=$started
	load "fresh-$1" tls -url "$url" -insecure -groups X25519 -rate "$shakes" -conns 256 -timeout 5s -duration "$((duration + 2))s" -request
	fresh=$started
	if [[ $1 == flooded* ]]; then
		sleep 2 # the kept connections are there by then
		load "flood-$1" tls-attack -addr "127.0.0.1:$port" -kind flood -groups X25519 -rate "$(calc "$capacity * $flood" 0)" -conns "$sockets" \
			-sources 250 -timeout "${patience}ms" -duration "${duration}s"
		renice -n 19 -p "$started" >/dev/null
		done_with "$started" "flood-$1"
	fi
	done_with "$kept" "kept-$1"
	done_with "$fresh" "fresh-$1"
	kill -0 "$gateway_pid" 2>/dev/null || die "the gateway has ended: $(tail -n 3 "$work_dir/tickgate.log")"
}

measure_capacity
printf '\n%s us of CPU a full handshake: %s processors can do %s/s; the flood is %s/s; %s requests/s over kept connections\n\n' \
	"$micros" "$processors" "$capacity" "$(calc "$capacity * $flood" 0)" "$rate"
echo '| | kept: failed | p50 ms | p99 ms | max ms | honest new: ok | failed | p99 ms | flood: begun/s | served/s | how it ended | PSS MiB |'
echo '|---|---|---|---|---|---|---|---|---|---|---|---|'
calm=() flooded=() failed=0 begun=() ends=
for ((round = 1; round <= rounds; round++)); do
	for kind in calm flooded; do
		name=$kind-$round
		measure "$name"
		lost=$(failed "kept-$name")
		failed=$((failed + lost))
		attack='– | – | –'
		if [[ $kind == calm ]]; then
			calm+=("$(in_ms "kept-$name" p99_us)")
		else
			flooded+=("$(in_ms "kept-$name" p99_us)")
			begun+=("$(of "flood-$name" per_second)")
			ends=$(awk '/"ends": {/ { on = 1; next } /}/ { on = 0 } on { gsub(/[",]/, ""); printf "%s ", $0 }' "$work_dir/flood-$name.log" | tr -s ' \t' ' ')
			attack="$(calc "$(of "flood-$name" per_second)" 0) | $(calc "$(of "flood-$name" served) / $duration" 0) |$ends"
		fi
		printf '| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$kind" "$lost" "$(in_ms "kept-$name" p50_us)" "$(in_ms "kept-$name" p99_us)" \
			"$(in_ms "kept-$name" max_us)" "$(of "fresh-$name" ok)" "$(failed "fresh-$name")" "$(in_ms "fresh-$name" p99_us)" \
			"$attack" "$(calc "$(pss_kib "$gateway_pid") / 1024" 1)"
	done
done
before=$(printf '%s\n' "${calm[@]}" | median_of)
during=$(printf '%s\n' "${flooded[@]}" | median_of)
weakest=$(printf '%s\n' "${begun[@]}" | lowest_of)
echo
check 'no request over a kept connection failed' [ "$failed" = 0 ]
check "the flood was at least 90 % of what it should be: $(calc "$weakest" 0)/s" holds "$weakest >= 0.9 * $capacity * $flood"
check "p99 over kept connections: $before ms, $during ms in the flood: $(calc "$during / $before") times" \
	holds "$during <= $most * $before || $during <= $floor"
end_gateway ''
conclude
