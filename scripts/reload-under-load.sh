#!/usr/bin/env bash
# Reloads tickgate twenty times and drains it once under load, and demands that not
# one request fails.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END'
usage: [NAME=value …] scripts/reload-under-load.sh

Starts two backends and tickgate. Under wrk, sends SIGHUP with a changed
configuration again and again and waits each time until the change is served; then
sends SIGTERM under a second load, which tells an orderly close from a failure.
Fails unless both loads end without a failed request and the exit code is 0.

  RELOADS=20    reloads
  CONNS=64      client connections
  PORT=18200    first of four ports on 127.0.0.1
  KEEP=0        1: keep configurations and logs

Needs bin/ (make build), wrk and curl.
END
}

no_arguments "$@"

reloads=${RELOADS:-20}
conns=${CONNS:-64}
port=${PORT:-18200}
gateway=http://127.0.0.1:$((port + 2))
least_requests=10000

need wrk wrk
need curl curl
need_binaries
make_work_dir

# write_config N writes the configuration of generation N: weights, balancing, a
# route and a backend change with it.
write_config() {
	local n=$1 balance=round_robin second=
	((n % 2)) && balance=least_conn
	((n % 3)) && second=", {address: 127.0.0.1:$((port + 1)), weight: $((n % 5 + 1))}"
	cat >"$work_dir/tickgate.yaml.next" <<END
admin: {listen: 127.0.0.1:$((port + 3))}
listeners:
  - listen: 127.0.0.1:$((port + 2))
drain: {timeout: 20s}
upstreams:
  be:
    balance: $balance
    servers: [{address: 127.0.0.1:$port}$second]
routes:
  - {path: /, upstream: be}
  - path_exact: /generation
    static_response: {body: "$n"}
END
	mv "$work_dir/tickgate.yaml.next" "$work_dir/tickgate.yaml"
}

# reload N reloads and waits until generation N is served.
reload() {
	write_config "$1"
	kill -HUP "$gateway_pid"
	for _ in {1..100}; do
		[[ $(curl -s --max-time 5 "$gateway/generation") == "$1" ]] && return
		sleep 0.05
	done
	tail -n 20 "$work_dir/tickgate.log" >&2
	die "reload $1 did not take effect within 5 s"
}

start backend-1 bin/tickload backend -listen "127.0.0.1:$port"
start backend-2 bin/tickload backend -listen "127.0.0.1:$((port + 1))"
wait_for_url backend-1 "http://127.0.0.1:$port/"
wait_for_url backend-2 "http://127.0.0.1:$((port + 1))/"
write_config 0
start_gateway "$gateway/generation"

echo "load on $conns connections, $reloads reloads"
seconds=$((reloads / 2 + 5))
start wrk wrk -t1 -c "$conns" -d "${seconds}s" "$gateway/1k"
wrk_pid=$started
sleep 1
for ((n = 1; n <= reloads; n++)); do
	reload "$n"
	kill -0 "$wrk_pid" 2>/dev/null || die "the load ended before reload $n did"
	printf '\r  reload %d of %d is served' "$n" "$reloads"
	sleep 0.3
done
echo
wait "$wrk_pid" || die 'wrk failed'
requests=$(wrk_requests "$work_dir/wrk.log")
failures=$(wrk_failures "$work_dir/wrk.log")
echo "  $requests requests, $failures failed"
((failures == 0)) || { cat "$work_dir/wrk.log" >&2; die 'requests failed across reloads'; }
((requests >= least_requests)) || die "only $requests requests (want $least_requests)"

echo "load on $conns connections, one drain"
start steady bin/tickload steady -url "$gateway/1k" -conns "$conns" -duration 60s -until-refused
steady_pid=$started
sleep 2
kill -0 "$steady_pid" 2>/dev/null || { cat "$work_dir/steady.log" >&2; die 'the load ended before the drain'; }
kill -TERM "$gateway_pid"
code=0
wait "$gateway_pid" || code=$?
steady_code=0
wait "$steady_pid" || steady_code=$?
sed 's/^/  /' "$work_dir/steady.log"
((code == 0)) || { tail -n 20 "$work_dir/tickgate.log" >&2; die "tickgate ended with code $code after SIGTERM (want 0)"; }
((steady_code == 0)) || die 'requests failed in the drain'
grep -q '"drained": true' "$work_dir/steady.log" || die 'the drain never refused a connection'
echo 'zero failed requests'
