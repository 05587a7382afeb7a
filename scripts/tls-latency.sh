#!/usr/bin/env bash
# Measures how long full TLS handshakes take at half the rate that tickgate and nginx come to, each with a processor of
# its own and the load on another.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/tls-latency.sh

In ROUNDS rounds, tickgate and nginx in turn: what one processor can do is found by the CPU time that a full handshake of a
closed loop takes, then handshakes come at SHARE percent of that rate, evenly, and the time of each is counted from when it was due.
Both have the same certificate (ECDSA P-256), X25519 and TLS 1.3. Fails unless the median of tickgate's 99th percentiles is
below P99 milliseconds and no handshake failed.

The load tool spends about as much CPU time on a handshake as the gateway: on the same processor, half of the gateway's most
would be all of it. So two processors are needed, one for each.

  ROUNDS=5       rounds
  DURATION=5     seconds of each measurement
  SHARE=50       percent of what the gateway's processor can do
  P99=3          milliseconds
  PORT=22200     first of three ports on 127.0.0.1
  KEEP=0         1: keep configurations, results and logs

Needs bin/ (make build), curl, openssl, taskset (util-linux), nginx (apt-get install nginx-light), two processors. Some two minutes.
END_USAGE
}

no_arguments "$@"

rounds=${ROUNDS:-5}
duration=${DURATION:-5}
share=${SHARE:-50}
limit=${P99:-3}
port=${PORT:-22200}
hz=$(getconf CLK_TCK)

need curl curl
need openssl openssl
need nginx nginx-light
need taskset util-linux
need_binaries
(($(nproc) > 1)) || die 'one processor is not enough'
make_work_dir
make_authority
issue server
cat >"$work_dir/tickgate.yaml" <<END_YAML
admin: {listen: 127.0.0.1:$((port + 2))}
listeners:
  - listen: 127.0.0.1:$port
    tls: {certificates: [{cert_file: $work_dir/server.pem, key_file: $work_dir/server.key}]}
routes: [{path: /, static_response: {status: 200}}]
END_YAML
mkdir "$work_dir/nginx"
cat >"$work_dir/nginx.conf" <<END_CONF
worker_processes 1;
pid $work_dir/nginx.pid;
error_log $work_dir/nginx.log;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path $work_dir/nginx/body;
	proxy_temp_path $work_dir/nginx/proxy;
	fastcgi_temp_path $work_dir/nginx/fastcgi;
	uwsgi_temp_path $work_dir/nginx/uwsgi;
	scgi_temp_path $work_dir/nginx/scgi;
	server {
		listen 127.0.0.1:$((port + 1)) ssl backlog=4096 reuseport;
		ssl_certificate $work_dir/server.pem;
		ssl_certificate_key $work_dir/server.key;
		ssl_protocols TLSv1.3;
		ssl_ecdh_curve X25519;
		ssl_session_tickets off;
		location / { return 200; }
	}
}
END_CONF
GOMAXPROCS=1 start tickgate taskset -c 0 bin/tickgate run -c "$work_dir/tickgate.yaml"
tickgate=$started
start nginx taskset -c 0 nginx -e stderr -p "$work_dir/nginx" -c "$work_dir/nginx.conf" -g 'daemon off;'
nginx=$started
wait_for_url tickgate "https://127.0.0.1:$port/"
wait_for_url nginx "https://127.0.0.1:$((port + 1))/"

# shake NAME PORT FLAG… does handshakes for DURATION, with the result in NAME.log.
shake() {
	taskset -c "1-$(($(nproc) - 1))" bin/tickload tls -url "https://127.0.0.1:$2/" -insecure -groups X25519 -versions 1.3 -duration "${duration}s" \
		-json -strict=false -quiet "${@:3}" >"$work_dir/$1.log"
}

# measure NAME PID PORT prints a row, and leaves the p99 in $p99 and how many failed in $lost.
measure() {
	local before micros rate
	before=$(cpu_ticks "$2")
	shake "$1" "$3" -conns 8
	micros=$(calc "($(cpu_ticks "$2") - $before) / $hz * 1e6 / $(of "$1" ok)" 0)
	rate=$(calc "$share / 100 * 1e6 / $micros" 0)
	shake "$1" "$3" -conns 256 -rate "$rate" -timeout 5s
	p99=$(calc "$(of "$1" p99_us latency) / 1000" 2)
	lost=$(calc "$(of "$1" due) - $(of "$1" ok)" 0)
	printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$1" "$micros" "$rate" "$(calc "$(of "$1" p50_us latency) / 1000" 2)" "$p99" \
		"$(calc "$(of "$1" max_us latency) / 1000" 2)" "$lost"
}

echo '| | CPU a handshake, us | handshakes/s | p50 ms | p99 ms | max ms | failed |'
echo '|---|---|---|---|---|---|---|'
ours=() theirs=() failed=0
for ((round = 1; round <= rounds; round++)); do
	measure tickgate "$tickgate" "$port"
	ours+=("$p99")
	failed=$((failed + lost))
	measure nginx "$nginx" $((port + 1))
	theirs+=("$p99")
done
median=$(printf '%s\n' "${ours[@]}" | median_of)
printf '\np99, medians of the rounds: tickgate %s ms, nginx %s ms\n\n' "$median" "$(printf '%s\n' "${theirs[@]}" | median_of)"
check 'no handshake of tickgate failed' [ "$failed" = 0 ]
check "its p99 is below $limit ms" holds "$median < $limit"
conclude
