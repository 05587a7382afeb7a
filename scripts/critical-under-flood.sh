#!/usr/bin/env bash
# Floods a bulk route of tickgate with ten times what its workers can serve, and demands
# that the latency of a critical route stays what it was.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/critical-under-flood.sh

The backend takes DELAY for each response, so workers.max workers serve WORKERS / DELAY
requests a second. A critical route gets RATE requests a second, first alone and then
while a bulk route gets FLOOD times that capacity. Both loads are open loops: latency
counts from the time a request was due. Fails unless every critical request was
answered with 200, the flood did overload the workers, and the 99th percentile of the
critical route grew by no more than MOST times.

  WORKERS=32     workers.max
  RESERVED=10    workers.reserved_percent
  DELAY=100      milliseconds
  RATE=20        critical requests a second
  FLOOD=10       times the capacity
  DURATION=20    seconds of each
  ROUNDS=1       rounds: alone, flooded, alone, flooded …
  MOST=2         times
  PORT=18800     first of three ports on 127.0.0.1
  KEEP=0         1: keep configurations and logs

Needs bin/ (make build), curl.
END_USAGE
}

no_arguments "$@"

workers=${WORKERS:-32}
reserved=${RESERVED:-10}
delay=${DELAY:-100}
rate=${RATE:-20}
flood=${FLOOD:-10}
duration=${DURATION:-20}
rounds=${ROUNDS:-1}
most=${MOST:-2}
port=${PORT:-18800}
backend=127.0.0.1:$((port + 1))
admin=127.0.0.1:$((port + 2))
capacity=$(calc "$workers * 1000 / $delay" 0)

need curl curl
need_binaries
make_work_dir
cat >"$work_dir/tickgate.yaml" <<END_YAML
admin: {listen: $admin}
workers: {max: $workers, reserved_percent: $reserved}
listeners:
  - listen: 127.0.0.1:$port
upstreams:
  be:
    servers: [{address: $backend}]
    pool: {max_conns: 10000}
routes:
  - {path: /order, upstream: be, priority: critical}
  - {path: /report, upstream: be, priority: bulk}
END_YAML

start_backend "$backend" -size 100 -delay "${delay}ms"
start_gateway "http://127.0.0.1:$port/order"

# critical NAME measures the critical route and demands that all were answered.
critical() {
	start "$1" bin/tickload http -url "http://127.0.0.1:$port/order" -rate "$rate" -conns 64 -duration "${duration}s" -json -strict=false
	finish "$started"
	local log=$work_dir/$1.log
	[[ $(json "$log" 200 statuses) == "$(json "$log" due)" ]] || { cat "$log" >&2; die "critical requests were not all answered with 200 ($1)"; }
}

# in_ms FILE KEY prints a latency of successful responses.
in_ms() { calc "$(json "$1" "$2" latency) / 1000" 1; }

printf '\n%s workers, %s ms each: %s requests/s; critical %s/s, bulk %s x capacity\n\n' "$workers" "$delay" "$capacity" "$rate" "$flood"
echo '| | critical p50 ms | p99 ms | max ms | bulk answered/s | bulk refused/s | bulk p99 ms |'
echo '|---|---|---|---|---|---|---|'
worst=0
for ((round = 1; round <= rounds; round++)); do
	critical alone
	log=$work_dir/alone.log
	printf '| alone | %s | %s | %s | – | – | – |\n' "$(in_ms "$log" p50_us)" "$(in_ms "$log" p99_us)" "$(in_ms "$log" max_us)"
	start flood bin/tickload http -url "http://127.0.0.1:$port/report" -rate "$(calc "$capacity * $flood" 0)" \
		-conns "$((workers * flood * 4))" -duration $((duration + 6))s -json -strict=false
	flood_pid=$started
	sleep 3
	critical flooded
	finish "$flood_pid"
	log=$work_dir/flooded.log
	bulk=$work_dir/flood.log
	seconds=$(json "$bulk" seconds)
	printf '| flooded | %s | %s | %s | %s | %s | %s |\n' "$(in_ms "$log" p50_us)" "$(in_ms "$log" p99_us)" "$(in_ms "$log" max_us)" \
		"$(calc "$(json "$bulk" 200 statuses) / $seconds" 0)" "$(calc "$(json "$bulk" 503 statuses | grep . || echo 0) / $seconds" 0)" "$(in_ms "$bulk" p99_us)"
	ratio=$(calc "$(json "$log" p99_us latency) / $(json "$work_dir/alone.log" p99_us latency)")
	echo "  p99 of the critical route: x $ratio" >&2
	worst=$(printf '%s\n%s\n' "$worst" "$ratio" | highest_of)
	[[ -n $(json "$bulk" 503 statuses) ]] || { cat "$bulk" >&2; die 'the flood was no overload: nothing was refused'; }
done
printf '\np99 of the critical route under the flood: x %s (want at most %s)\n' "$worst" "$most"
finish "$gateway_pid" TERM
awk -v w="$worst" -v m="$most" 'BEGIN { exit !(w <= m) }' || die "the flood slowed the critical route"
