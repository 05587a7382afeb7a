#!/usr/bin/env bash
# Lets clients of every kind come, misbehave and go for half an hour, and demands that
# tickgate ends with the descriptors, goroutines and heap that it began with.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/churn.sh

Runs tickload churn against tickgate, over plain HTTP and over TLS at the same time:
clients that talk, idle, half-close, reset, vanish without a FIN, dribble, give up in
mid handshake and drop tunnels. Afterwards waits for the limits on idle connections to
pass, collects garbage, and compares with the state after a short warm-up. Fails if a
client saw a failure, or if descriptors or goroutines grew by more than SLACK, or the
heap in use by more than HEAP_SLACK MiB.

  MINUTES=30     length
  CLIENTS=150    clients at once on each listener
  WARM=20        seconds of the same before the first reading
  SLACK=10       descriptors and goroutines
  HEAP_SLACK=4   MiB
  TUNNEL=        settings of the route of tunnels: "mode: frames"
  SEED=1         makes the choices repeatable
  PORT=18700     first of five ports on 127.0.0.1
  KEEP=0         1: keep configurations and logs

Needs bin/ (make build), curl, openssl. Vanishing takes root (CAP_NET_ADMIN).
END_USAGE
}

no_arguments "$@"

minutes=${MINUTES:-30}
clients=${CLIENTS:-150}
warm=${WARM:-20}
slack=${SLACK:-10}
heap_slack=${HEAP_SLACK:-4}
seed=${SEED:-1}
port=${PORT:-18700}
tls_port=$((port + 1))
http_port=$((port + 2))
ws_port=$((port + 3))
admin=127.0.0.1:$((port + 4))
# Connections that nobody ended must be gone after these limits; see settle.
idle=15

need curl curl
need_binaries
make_work_dir
make_certificate
cat >"$work_dir/tickgate.yaml" <<END_YAML
admin: {listen: $admin}
timeouts: {idle: ${idle}s, tunnel_idle: ${idle}s, head: 10s, handshake: 10s}
listeners:
  - listen: 127.0.0.1:$port
  - listen: 127.0.0.1:$tls_port
    tls: {certificates: [{cert_file: $work_dir/cert.pem, key_file: $work_dir/key.pem}]}
upstreams:
  be:
    servers: [{address: 127.0.0.1:$http_port}]
    pool: {idle_timeout: 5s}
  ws:
    servers: [{address: 127.0.0.1:$ws_port}]
    pool: {max_conns: 100000}
routes:
  - {path: /, upstream: be}
  - {path: /ws, upstream: ws${TUNNEL:+, tunnel: {$TUNNEL\}}}
END_YAML

# churn SECONDS SEED runs the clients on both listeners and demands that none failed.
churn() {
	local seconds=$1 plain secure failed=0
	start churn-plain bin/tickload churn -url "http://127.0.0.1:$port/" -ws-url "ws://127.0.0.1:$port/ws" \
		-clients "$clients" -duration "${seconds}s" -seed "$2" -quiet
	plain=$started
	start churn-tls bin/tickload churn -url "https://127.0.0.1:$tls_port/" -ws-url "wss://127.0.0.1:$tls_port/ws" -insecure \
		-clients "$clients" -duration "${seconds}s" -seed "$2" -quiet
	secure=$started
	finish "$plain"
	((code == 0)) || failed=1
	finish "$secure"
	((code == 0)) || failed=1
	kill -0 "$gateway_pid" || { tail -n 40 "$work_dir/tickgate.log" >&2; die 'tickgate has ended'; }
	return "$failed"
}

# settle waits until what nobody ended has met its limit, and collects garbage.
settle() {
	sleep $((idle + 20))
	for _ in 1 2 3; do
		curl -s -o /dev/null "http://$admin/debug/pprof/heap?gc=1"
		sleep 1
	done
}

# reading prints descriptors, goroutines, heap in use (KiB) and PSS (KiB).
reading() {
	local heap
	heap=$(curl -s "http://$admin/debug/pprof/heap?debug=1" | awk '$1 == "#" && $2 == "HeapAlloc" { printf "%d", $4 / 1024 }')
	printf '%s %s %s %s\n' "$(find "/proc/$gateway_pid/fd" -mindepth 1 2>/dev/null | wc -l)" \
		"$(metric "$admin" go_goroutines)" "$heap" "$(pss_kib "$gateway_pid")"
}

start http-backend bin/tickload backend -listen "127.0.0.1:$http_port"
start ws-backend bin/tickload ws-backend -listen "127.0.0.1:$ws_port"
wait_for_url http-backend "http://127.0.0.1:$http_port/"
wait_for_port ws-backend "$ws_port"
start_gateway "http://127.0.0.1:$port/"

echo "warm-up, $warm s"
churn "$warm" $((seed + 1000)) || { cat "$work_dir/churn-plain.log" "$work_dir/churn-tls.log"; die 'clients failed in the warm-up'; }
settle
read -r fds_before goroutines_before heap_before pss_before < <(reading)
echo "churn, $minutes min, 2 x $clients clients"
failed=0
churn "$(calc "$minutes * 60" 0)" "$seed" || failed=1
printf '\nplain\n' && cat "$work_dir/churn-plain.log"
printf '\nTLS\n' && cat "$work_dir/churn-tls.log"
settle
read -r fds goroutines heap pss < <(reading)
printf '\n| | before | after |\n|---|---|---|\n'
printf '| descriptors | %s | %s |\n' "$fds_before" "$fds"
printf '| goroutines | %s | %s |\n' "$goroutines_before" "$goroutines"
printf '| heap in use, MiB | %s | %s |\n' "$(calc "$heap_before / 1024" 1)" "$(calc "$heap / 1024" 1)"
printf '| PSS, MiB | %s | %s |\n' "$(calc "$pss_before / 1024" 1)" "$(calc "$pss / 1024" 1)"
printf '| leaks seen by the watchdog | | %s |\n\n' "$(metric "$admin" tickgate_leak_suspected)"
((failed == 0)) || die 'clients failed'
((fds <= fds_before + slack)) || { find "/proc/$gateway_pid/fd" -type l -printf '%f %l\n' | tail -n 20 >&2; die 'descriptors leak'; }
((goroutines <= goroutines_before + slack)) || { curl -s "http://$admin/debug/pprof/goroutine?debug=1" | head -n 60 >&2; die 'goroutines leak'; }
((heap <= heap_before + heap_slack * 1024)) || die 'the heap leaks'
finish "$gateway_pid" TERM
((code == 0)) || die "tickgate ended with code $code (want 0)"
echo 'nothing is left of it'
