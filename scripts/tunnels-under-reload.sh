#!/usr/bin/env bash
# Reloads tickgate a hundred times while thousands of tunnels talk, and demands that no
# tunnel and no message is lost and that memory stays flat.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/tunnels-under-reload.sh

Opens tunnels through tickgate, sends numbered messages over all of them and, mean-
while, changes the configuration and sends SIGHUP again and again, each time until the
change is served. Fails unless every tunnel stays open, every message comes back once
and in order, one snapshot is alive in the end (tickgate_snapshots_alive), and memory
(PSS) has grown by no more than GROWTH percent.

  TUNNELS=9000   tunnels; each takes two descriptors of the gateway
  RELOADS=100    reloads
  PAUSE=0.1      seconds between two
  MESSAGES=2000  messages sent a second, over all tunnels; each is echoed
  SIZE=200       bytes of payload
  TLS=0          1: clients speak TLS
  TUNNEL=        settings of the route of tunnels: "mode: frames"
  GROWTH=10      percent
  PORT=18500     first of four ports on 127.0.0.1
  KEEP=0         1: keep configurations and logs

Needs bin/ (make build), curl, openssl for TLS=1.
END_USAGE
}

no_arguments "$@"

tunnels=${TUNNELS:-9000}
reloads=${RELOADS:-100}
pause=${PAUSE:-0.1}
messages=${MESSAGES:-2000}
size=${SIZE:-200}
tls=${TLS:-0}
growth=${GROWTH:-10}
port=${PORT:-18500}
ws_port=$((port + 1))
admin=127.0.0.1:$((port + 2))
scheme=http ws_scheme=ws
[[ $tls == 1 ]] && scheme=https ws_scheme=wss

need curl curl
need_binaries
make_work_dir
[[ $tls == 1 ]] && make_certificate

# write_config N writes the configuration of generation N: a limit, a weight, a header
# and a response change with it, on the tunnels' own route and upstream too.
write_config() {
	local n=$1
	{
		echo "admin: {listen: $admin}"
		echo 'listeners:'
		echo "  - listen: 127.0.0.1:$port"
		[[ $tls == 1 ]] && echo "    tls: {certificates: [{cert_file: $work_dir/cert.pem, key_file: $work_dir/key.pem}]}"
		cat <<YAML
limits: {max_head: $((16 + n % 8))KiB}
upstreams:
  ws:
    servers: [{address: 127.0.0.1:$ws_port, weight: $((n % 5 + 1))}]
    pool: {max_conns: $((100000 + n))}
routes:
  - {path: /ws, upstream: ws, request_headers: {set: {X-Generation: "$n"}}${TUNNEL:+, tunnel: {$TUNNEL\}}}
  - path_exact: /generation
    static_response: {body: "$n"}
YAML
	} >"$work_dir/tickgate.yaml.next"
	mv "$work_dir/tickgate.yaml.next" "$work_dir/tickgate.yaml"
}

# reload N reloads and waits until generation N is served.
reload() {
	write_config "$1"
	kill -HUP "$gateway_pid"
	for _ in {1..400}; do
		[[ $(curl -sk --max-time 10 "$scheme://127.0.0.1:$port/generation") == "$1" ]] && return
		sleep 0.05
	done
	tail -n 20 "$work_dir/tickgate.log" >&2
	die "reload $1 did not take effect within 20 s"
}

# settled_pss prints the PSS in KiB after garbage collections, once it stands still or
# after a minute, so that before and after compare what is held.
settled_pss() {
	local before now=0
	for _ in {1..12}; do
		sleep 5
		curl -s -o /dev/null "http://$admin/debug/pprof/heap?gc=1"
		before=$now
		now=$(pss_kib "$gateway_pid")
		(((now - before) * 50 < now && (before - now) * 50 < now)) && break
	done
	printf '%s\n' "$now"
}

start ws-backend bin/tickload ws-backend -listen "127.0.0.1:$ws_port"
wait_for_port ws-backend "$ws_port"
write_config 0
start_gateway "$scheme://127.0.0.1:$port/generation"

start load bin/tickload ws -url "$ws_scheme://127.0.0.1:$port/ws" -insecure -tunnels "$tunnels" -rate 1500 \
	-mode echo -messages "$messages" -size "$size" -duration 0 -json
load_pid=$started
wait_for_log load '^traffic begins' $((tunnels / 1500 + 60))
echo "$tunnels tunnels with $messages messages/s, $reloads reloads"
before=$(settled_pss)
began=$SECONDS
for ((n = 1; n <= reloads; n++)); do
	reload "$n"
	kill -0 "$load_pid" 2>/dev/null || { tail -n 40 "$work_dir/load.log" >&2; die "the load ended before reload $n did"; }
	[[ -t 1 ]] && printf '\r  reload %d of %d is served' "$n" "$reloads"
	sleep "$pause"
done
printf '\r  %d reloads are served, %d s in all\n' "$reloads" $((SECONDS - began))
after=$(settled_pss)
snapshots=$(metric "$admin" tickgate_snapshots_alive)
refused=$(metric "$admin" 'tickgate_reloads_total{result="failed"}')
finish "$load_pid" TERM
log=$work_dir/load.log
echo "  tunnels:   $(json "$log" opened) opened, $(json "$log" failed) failed to; ended by the gateway: $(sed -n '/"ended": {/,/}/p' "$log" | tr -d ' \n' | grep . || echo none)"
echo "  messages:  $(json "$log" sent) sent, $(json "$log" received) came back; $(json "$log" gaps) gaps, $(json "$log" duplicates) duplicates," \
	"$(json "$log" reordered) reordered; p99 $(calc "$(json "$log" p99_us message_time) / 1000") ms, longest $(calc "$(json "$log" max_us message_time) / 1000") ms"
echo "  memory:    $(calc "$before / 1024" 1) MiB before, $(calc "$after / 1024" 1) MiB after"
echo "  snapshots: ${snapshots:-not counted} alive"
((code == 0)) || { tail -n 60 "$log" >&2; die 'tunnels or messages were lost'; }
[[ ${refused:-0} == 0 ]] || die "$refused reloads were refused"
[[ $snapshots == 1 ]] || die "${snapshots:-an unknown number of} snapshots are alive (want 1)"
((after * 100 <= before * (100 + growth))) || die "memory grew by more than $growth %"
finish "$gateway_pid" TERM
echo 'no tunnel and no message was lost'
