#!/usr/bin/env bash
# Measures CPU time per proxied request and memory of tickgate, nginx, a net/http
# ReverseProxy and, if installed, HAProxy: the same run, the same work, in rounds
# A B C D A B C D …, so that a machine that changes its mind changes it for all.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
# shellcheck source=scripts/peers.sh
source scripts/peers.sh

usage() {
	cat <<'END'
usage: [NAME=value …] scripts/bench-proxy.sh

Compares tickgate, nginx, net/http and HAProxy: 1 KiB responses over kept-alive
connections, two workers each, CPU from /proc/PID/stat, memory (PSS) from
/proc/PID/smaps_rollup, wrk as the load. Prints a Markdown table of medians.

  ROUNDS=5      rounds
  DURATION=10   seconds of each measurement
  CONNS=64      client connections
  PORT=18100    first of ten ports on 127.0.0.1
  TLS=0         1: clients speak TLS 1.3
  PEERS=…       which to run, of: tickgate nginx nethttp haproxy
  CHECK=0       1: fail unless tickgate is at most 1.2x nginx and 0.25x net/http
  KEEP=0        1: keep configurations and logs

Needs bin/ (make build), wrk, curl and nginx; TLS=1 needs openssl.
END
}

no_arguments "$@"

rounds=${ROUNDS:-5}
duration=${DURATION:-10}
conns=${CONNS:-64}
port=${PORT:-18100}
tls=${TLS:-0}
scheme=http
[[ $tls == 1 ]] && scheme=https
ticks_per_second=$(getconf CLK_TCK)

need wrk wrk
need curl curl
need nginx nginx-light
need_binaries
PATH=$PATH:/usr/sbin
choose_peers

make_work_dir
[[ $tls == 1 ]] && make_certificate

declare -A peer_port=([tickgate]=$((port + 1)) [nginx]=$((port + 2)) [nethttp]=$((port + 3)) [haproxy]=$((port + 4)))
declare -A peer_pid=()
declare -A samples=() # "metric peer" -> values, one a line

# nginx_common WORKERS prints what the backend's and the gateway's nginx share.
nginx_common() {
	cat <<END
worker_processes $1;
$( ((EUID == 0)) && echo 'user root;')
pid $work_dir/nginx-$2.pid;
error_log stderr warn;
events { worker_connections 4096; }
END
}

# start_file_server serves a 1 KiB file from memory, the same for every peer.
start_file_server() {
	mkdir -p "$work_dir/www" "$work_dir/backend"
	head -c 1024 /dev/zero | tr '\0' x >"$work_dir/www/1k"
	{
		nginx_common 1 backend
		cat <<END
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	open_file_cache max=10 inactive=1h;
	open_file_cache_valid 1h;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_body_temp_path $work_dir/backend/body;
	proxy_temp_path $work_dir/backend/proxy;
	fastcgi_temp_path $work_dir/backend/fastcgi;
	uwsgi_temp_path $work_dir/backend/uwsgi;
	scgi_temp_path $work_dir/backend/scgi;
	default_type text/plain;
	server { listen 127.0.0.1:$port backlog=4096; root $work_dir/www; }
}
END
	} >"$work_dir/backend.conf"
	start backend nginx -e stderr -p "$work_dir/backend" -c "$work_dir/backend.conf" -g 'daemon off;'
	wait_for_url backend "http://127.0.0.1:$port/1k"
}

start_tickgate() {
	{
		echo "admin: {listen: 127.0.0.1:$((port + 9))}"
		echo 'listeners:'
		echo "  - listen: 127.0.0.1:${peer_port[tickgate]}"
		[[ $tls == 1 ]] && echo "    tls: {certificates: [{cert_file: $work_dir/cert.pem, key_file: $work_dir/key.pem}]}"
		cat <<END
forwarding: {request_id_header: ""}
upstreams:
  be:
    servers: [{address: 127.0.0.1:$port}]
routes:
  - {path: /, upstream: be}
END
	} >"$work_dir/tickgate.yaml"
	GOMAXPROCS=2 start tickgate bin/tickgate run -c "$work_dir/tickgate.yaml"
}

start_nginx() {
	mkdir -p "$work_dir/nginx"
	local listen="127.0.0.1:${peer_port[nginx]}" ssl=
	if [[ $tls == 1 ]]; then
		listen+=' ssl'
		ssl="ssl_certificate $work_dir/cert.pem; ssl_certificate_key $work_dir/key.pem; ssl_protocols TLSv1.2 TLSv1.3;"
	fi
	{
		nginx_common 2 nginx
		cat <<END
http {
	access_log off;
	keepalive_requests 1000000000;
	client_body_temp_path $work_dir/nginx/body;
	proxy_temp_path $work_dir/nginx/proxy;
	fastcgi_temp_path $work_dir/nginx/fastcgi;
	uwsgi_temp_path $work_dir/nginx/uwsgi;
	scgi_temp_path $work_dir/nginx/scgi;
	upstream be { server 127.0.0.1:$port; keepalive $((conns * 2)); keepalive_requests 1000000000; }
	server {
		listen $listen backlog=4096;
		$ssl
		location / {
			proxy_pass http://be;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host \$http_host;
			proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
			proxy_set_header X-Forwarded-Proto \$scheme;
			proxy_set_header X-Forwarded-Host \$http_host;
		}
	}
}
END
	} >"$work_dir/nginx.conf"
	start nginx nginx -e stderr -p "$work_dir/nginx" -c "$work_dir/nginx.conf" -g 'daemon off;'
}

start_nethttp() {
	local -a args=(-listen "127.0.0.1:${peer_port[nethttp]}" -backend "127.0.0.1:$port" -max-idle "$((conns * 2))")
	[[ $tls == 1 ]] && args+=(-tls-cert "$work_dir/cert.pem" -tls-key "$work_dir/key.pem")
	GOMAXPROCS=2 start nethttp bin/tickload baseline "${args[@]}"
}

start_haproxy() {
	local ssl=
	[[ $tls == 1 ]] && ssl=" ssl crt $work_dir/both.pem ssl-min-ver TLSv1.2"
	cat >"$work_dir/haproxy.cfg" <<END
global
	nbthread 2
	maxconn 8192
defaults
	mode http
	timeout connect 3s
	timeout client 75s
	timeout server 60s
	option http-keep-alive
	http-reuse always
frontend fe
	bind 127.0.0.1:${peer_port[haproxy]}$ssl
	option forwardfor
	http-request set-header X-Forwarded-Proto $scheme
	http-request set-header X-Forwarded-Host %[req.hdr(Host)]
	default_backend be
backend be
	server s1 127.0.0.1:$port pool-max-conn $((conns * 2))
END
	start haproxy haproxy -db -f "$work_dir/haproxy.cfg"
}

# check_peer PEER demands the right answer before anything is measured.
check_peer() {
	local url="$scheme://127.0.0.1:${peer_port[$1]}/1k"
	wait_for_url "$1" "$url"
	curl -sk "$url" | cmp -s - "$work_dir/www/1k" || die "$1 answers something else than the backend"
}

# load PEER SECONDS FILE puts load on a peer; every answer must be a 2xx.
load() {
	wrk -t1 -c "$conns" -d "$2s" --latency "$scheme://127.0.0.1:${peer_port[$1]}/1k" >"$3"
	local failures
	failures=$(wrk_failures "$3")
	if ((failures > 0)); then
		cat "$3" >&2
		die "$1: $failures failed requests"
	fi
}

# add METRIC PEER VALUE keeps one sample.
add() { samples["$1 $2"]+="$3"$'\n'; }

# measure PEER runs one measurement.
measure() {
	local peer=$1 file=$work_dir/wrk.$1 before after requests cpu
	before=$(cpu_ticks "${peer_pid[$peer]}")
	load "$peer" "$duration" "$file"
	after=$(cpu_ticks "${peer_pid[$peer]}")
	requests=$(wrk_requests "$file")
	if ((after - before < ticks_per_second / 2)); then
		echo "$peer used $((after - before)) clock ticks only: raise DURATION" >&2
	fi
	cpu=$(awk -v t="$((after - before))" -v hz="$ticks_per_second" -v n="$requests" 'BEGIN { printf "%.2f", t / hz * 1e6 / n }')
	add cpu "$peer" "$cpu"
	add rate "$peer" "$(awk '/^Requests\/sec:/ { printf "%.0f", $2 }' "$file")"
	add p99 "$peer" "$(awk '$1 == "99%" { print $2 }' "$file" | to_ms)"
	add pss "$peer" "$(awk -v k="$(pss_kib "${peer_pid[$peer]}")" 'BEGIN { printf "%.1f", k / 1024 }')"
	printf '  %-9s %7s us CPU per request, %d requests\n' "$peer" "$cpu" "$requests" >&2
}

# to_ms reads a time as wrk writes it and prints milliseconds.
to_ms() {
	awk '/us$/ { printf "%.2f", $1 / 1000; next } /ms$/ { printf "%.2f", $1 + 0; next } { printf "%.2f", $1 * 1000 }'
}

# of METRIC PEER prints the samples.
of() { printf '%s' "${samples["$1 $2"]}"; }

# ratio PEER TO prints how many times the CPU of TO a peer takes, by medians.
ratio() {
	[[ -n ${peer_pid[$2]:-} ]] || { echo –; return; }
	awk -v a="$(of cpu "$1" | median_of)" -v b="$(of cpu "$2" | median_of)" 'BEGIN { printf "%.2f", a / b }'
}

report() {
	local peer
	printf '\n%s, 1 KiB, %s connections, 2 workers, %s rounds of %s s, %s processors, Linux %s: median (min–max)\n\n' \
		"$([[ $tls == 1 ]] && echo 'TLS 1.3' || echo 'plain HTTP/1.1')" "$conns" "$rounds" "$duration" "$(nproc)" "$(uname -r)"
	echo '| | CPU µs/request | × nginx | × net/http | requests/s | p99 ms | PSS MiB |'
	echo '|---|---|---|---|---|---|---|'
	for peer in "${peers[@]}"; do
		printf '| %s | %s (%s–%s) | %s | %s | %s | %s | %s (%s–%s) |\n' "$(peer_version "$peer")" \
			"$(of cpu "$peer" | median_of)" "$(of cpu "$peer" | lowest_of)" "$(of cpu "$peer" | highest_of)" \
			"$(ratio "$peer" nginx)" "$(ratio "$peer" nethttp)" "$(of rate "$peer" | median_of)" "$(of p99 "$peer" | median_of)" \
			"$(of pss "$peer" | median_of)" "$(of pss "$peer" | lowest_of)" "$(of pss "$peer" | highest_of)"
	done
}

# check_bars fails the script if tickgate takes more CPU than promised.
check_bars() {
	awk -v n="$(ratio tickgate nginx)" -v h="$(ratio tickgate nethttp)" 'BEGIN { exit !(n <= 1.2 && h <= 0.25) }' ||
		die 'above the bars: at most 1.2x nginx and 0.25x net/http'
}

start_file_server
for peer in "${peers[@]}"; do
	"start_$peer"
	peer_pid[$peer]=$started
	check_peer "$peer"
	load "$peer" 2 "$work_dir/warm-up"
done
for ((round = 1; round <= rounds; round++)); do
	printf 'round %d of %d\n' "$round" "$rounds" >&2
	for peer in "${peers[@]}"; do
		measure "$peer"
	done
done
report
if [[ ${CHECK:-0} == 1 ]]; then
	check_bars
fi
