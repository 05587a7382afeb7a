#!/usr/bin/env bash
# Drains tickgate with thousands of tunnels open, and demands that they are closed in
# order and evenly.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/drain-tunnels.sh

Opens frame-aware tunnels through tickgate and sends SIGTERM. Fails unless readiness
fails at once, new upgrades get 503 with Retry-After during the grace, every client
gets a Close frame with code 1012, no second holds more than SHARE percent of the
closes, the whole takes about WINDOW, and the exit code is 0.

  TUNNELS=5000   tunnels
  MESSAGES=1000  messages sent a second meanwhile, over all tunnels; each is echoed
  GRACE=3        seconds of drain.grace
  WINDOW=20      seconds of drain.window
  SHARE=8        percent
  TLS=0          1: clients speak TLS
  PORT=18600     first of four ports on 127.0.0.1
  KEEP=0         1: keep configurations and logs

Needs bin/ (make build), curl, openssl for TLS=1.
END_USAGE
}

no_arguments "$@"

tunnels=${TUNNELS:-5000}
messages=${MESSAGES:-1000}
grace=${GRACE:-3}
window=${WINDOW:-20}
share=${SHARE:-8}
tls=${TLS:-0}
port=${PORT:-18600}
ws_port=$((port + 1))
admin=127.0.0.1:$((port + 2))
ws_scheme=ws
[[ $tls == 1 ]] && ws_scheme=wss

need curl curl
need_binaries
make_work_dir
[[ $tls == 1 ]] && make_certificate

{
	echo "admin: {listen: $admin}"
	echo "drain: {grace: ${grace}s, window: ${window}s, timeout: $((window * 2))s}"
	echo 'listeners:'
	echo "  - listen: 127.0.0.1:$port"
	[[ $tls == 1 ]] && echo "    tls: {certificates: [{cert_file: $work_dir/cert.pem, key_file: $work_dir/key.pem}]}"
	cat <<YAML
upstreams:
  ws:
    servers: [{address: 127.0.0.1:$ws_port}]
    pool: {max_conns: 100000}
routes:
  - {path: /ws, upstream: ws, tunnel: {mode: frames}}
YAML
} >"$work_dir/tickgate.yaml"

# readiness prints the status of /readyz, 000 without an answer.
readiness() { curl -s -o /dev/null -w '%{http_code}' --max-time 2 "http://$admin/readyz" || true; }

start ws-backend bin/tickload ws-backend -listen "127.0.0.1:$ws_port"
wait_for_port ws-backend "$ws_port"
start_gateway "http://$admin/readyz"

start load bin/tickload ws -url "$ws_scheme://127.0.0.1:$port/ws" -insecure -tunnels "$tunnels" -rate 1500 \
	-mode echo -messages "$messages" -duration 0 -strict=false -json
load_pid=$started
wait_for_log load '^traffic begins' $((tunnels / 1500 + 60))
sleep 2
echo "$tunnels tunnels with $messages messages/s, SIGTERM, drain.grace ${grace}s, drain.window ${window}s"
began=$SECONDS
kill -TERM "$gateway_pid"
sleep 0.5
ready=$(readiness)
# New upgrades are refused while the listeners are still open.
start late bin/tickload ws -url "$ws_scheme://127.0.0.1:$port/ws" -insecure -tunnels 20 -rate 100 -mode idle -duration 100ms -strict=false -json
finish "$started"
late=$work_dir/late.log
finish "$gateway_pid"
gateway_code=$code
took=$((SECONDS - began))
finish "$load_pid"
log=$work_dir/load.log
in_order=$(json "$log" 1012 ended)
in_order=${in_order:-0}
refused=$(json "$late" 503 refused)
refused=${refused:-0}
busiest=$(calc "$(json "$log" busiest_second) * 100" 1)
echo "  readiness:     $ready (want 503)"
echo "  new upgrades:  $(json "$late" opened) opened, $refused refused with 503 of 20; with Retry-After: $(sed -n '/"retry_after"/,/}/p' "$late" | tr -d ' \n,')"
echo "  closed:        $in_order of $tunnels with 1012; all ends: $(sed -n '/"ended": {/,/}/p' "$log" | tr -d ' \n')"
echo "  by second:     $(sed -n '/"ended_per_second"/,/\]/p' "$log" | tr -d ' \n'), at most $busiest % in one"
echo "  messages:      $(json "$log" sent) sent, $(json "$log" received) came back, $(json "$log" cut_off) under way at a close, $(json "$log" gaps) gaps"
echo "  exit:          code $gateway_code after $took s"
[[ $ready == 503 ]] || die "readiness is $ready during the drain (want 503)"
if ((grace > 0)); then
	[[ $refused == 20 ]] || { cat "$late" >&2; die 'new upgrades were not refused with 503'; }
	sed -n '/"retry_after"/,/}/p' "$late" | grep -qE '"[0-9]+": 20' || die 'the refusals carry no Retry-After'
fi
((in_order == tunnels)) || { tail -n 60 "$log" >&2; die 'not every client got a Close frame with 1012'; }
[[ $(json "$log" gaps) == 0 && $(json "$log" corrupt) == 0 ]] || die 'messages were lost before the close'
awk -v b="$busiest" -v s="$share" 'BEGIN { exit !(b <= s) }' || die "one second holds $busiest % of the closes (want at most $share %)"
((gateway_code == 0)) || { tail -n 20 "$work_dir/tickgate.log" >&2; die "tickgate ended with code $gateway_code (want 0)"; }
((took <= grace + window + 10)) || die "the drain took $took s"
echo 'every tunnel was closed in order, and evenly'
