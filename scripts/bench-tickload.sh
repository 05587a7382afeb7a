#!/usr/bin/env bash
# Measures what tickload http costs beside wrk, on the same closed-loop work, and what it
# costs at a fixed rate.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/bench-tickload.sh

One nginx worker serves a file of SIZE bytes. In each round wrk and tickload take turns in
the closed loop, with CONNS connections and one thread or event loop each, and then
tickload sends RATE requests a second in the open loop. The processor time is user and
system time of the whole process, as the shell reads it when the process has ended.

  SIZE=1024      bytes in the response
  CONNS=64       connections
  RATE=20000     requests a second in the open loop
  DURATION=5     seconds of each run
  ROUNDS=5       rounds; medians are printed
  PIN=           processor that the tools are pinned to, the server to the others; empty pins nothing
  MOST_OFF=5     fails if tickload's throughput is more per cent below wrk's
  MOST_CPU=1.5   fails if tickload's CPU for each request is more times wrk's
  PORT=18880     port on 127.0.0.1
  KEEP=0         1: keep configurations and logs

Needs bin/ (make build), nginx, wrk, curl.
END_USAGE
}

no_arguments "$@"

size=${SIZE:-1024}
conns=${CONNS:-64}
rate=${RATE:-20000}
duration=${DURATION:-5}
rounds=${ROUNDS:-5}
most_off=${MOST_OFF:-5}
most_cpu=${MOST_CPU:-1.5}
port=${PORT:-18880}
url=http://127.0.0.1:$port/file
tool_pin=() server_pin=()
if [[ -n ${PIN:-} ]]; then
	tool_pin=(taskset -c "$PIN")
	server_pin=(taskset -c "$(seq 0 $(($(nproc) - 1)) | grep -vx "$PIN" | paste -sd,)")
fi

need nginx nginx-light
need wrk wrk
need curl curl
PATH=$PATH:/usr/sbin
need_binaries
make_work_dir
mkdir "$work_dir/www"
head -c "$size" /dev/zero | tr '\0' x >"$work_dir/www/file"
{
	((EUID == 0)) && echo 'user root;'
	cat <<CONF
worker_processes 1;
daemon off;
pid $work_dir/nginx.pid;
error_log stderr crit;
events { worker_connections $((conns + 100)); }
http {
	access_log off;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	open_file_cache max=10;
	server { listen 127.0.0.1:$port; root $work_dir/www; }
}
CONF
} >"$work_dir/nginx.conf"
start nginx "${server_pin[@]}" nginx -c "$work_dir/nginx.conf"
wait_for_url nginx "$url"

# timed NAME COMMAND… runs a command and leaves its seconds of CPU in NAME.cpu.
timed() {
	local name=$1 TIMEFORMAT='%U %S'
	shift
	{ time "${tool_pin[@]}" "$@" >"$work_dir/$name.log" 2>"$work_dir/$name.err"; } 2>"$work_dir/$name.cpu" ||
		{ cat "$work_dir/$name.log" "$work_dir/$name.err" >&2; die "$name failed"; }
}

# note NAME REQUESTS appends the round's figures of a tool.
note() {
	local name=$1 requests=$2 cpu
	cpu=$(awk '{ print $1 + $2 }' "$work_dir/$name.cpu")
	calc "$requests / $3" 0 >>"$work_dir/$name.rate"
	echo >>"$work_dir/$name.rate"
	calc "$cpu * 1e6 / $requests" >>"$work_dir/$name.cost"
	echo >>"$work_dir/$name.cost"
}

run_wrk() {
	timed wrk wrk -t1 -c"$conns" -d"${duration}s" "$url"
	[[ $(wrk_failures "$work_dir/wrk.log") == 0 ]] || { cat "$work_dir/wrk.log" >&2; die 'wrk saw failures'; }
	note wrk "$(wrk_requests "$work_dir/wrk.log")" "$(awk '/ requests in / { sub("s,", "", $4); print $4 }' "$work_dir/wrk.log")"
}

# run_tickload NAME FLAGS…
run_tickload() {
	local name=$1
	shift
	timed "$name" bin/tickload http -url "$url" -conns "$conns" -duration "${duration}s" -json -strict=false "$@"
	local log=$work_dir/$name.log
	[[ $(json "$log" ok) == "$(json "$log" due)" ]] || { cat "$log" >&2; die "$name saw failures"; }
	note "$name" "$(json "$log" ok)" "$(calc "$(json "$log" ok) / $(json "$log" ok_per_second)")"
	calc "$(json "$log" p99_us send_lag) / 1000" >>"$work_dir/$name.lag"
	echo >>"$work_dir/$name.lag"
}

for ((round = 1; round <= rounds; round++)); do
	run_wrk
	run_tickload closed
	run_tickload open -rate "$rate"
done

median() { median_of <"$work_dir/$1"; }
# line LABEL NAME prints a row of medians, with the lowest and highest.
line() {
	printf '| %s | %s (%s–%s) | %s (%s–%s) |\n' "$1" "$(median "$2.rate")" "$(lowest_of <"$work_dir/$2.rate")" "$(highest_of <"$work_dir/$2.rate")" \
		"$(median "$2.cost")" "$(lowest_of <"$work_dir/$2.cost")" "$(highest_of <"$work_dir/$2.cost")"
}
printf '\n%s connections, %s bytes, %s rounds of %s s, medians (lowest–highest)\n\n' "$conns" "$size" "$rounds" "$duration"
echo '| | requests/s | CPU us a request |'
echo '|---|---|---|'
line 'wrk -t1, closed loop' wrk
line 'tickload http, closed loop' closed
line "tickload http -rate $rate" open
off=$(calc "(1 - $(median closed.rate) / $(median wrk.rate)) * 100" 1)
cost=$(calc "$(median closed.cost) / $(median wrk.cost)")
paced=$(calc "$(median open.cost) / $(median wrk.cost)")
printf '\nthroughput %s %% below that of wrk (want at most %s), CPU x %s (want at most %s); at %s/s CPU x %s, sent late at p99 by %s ms\n' \
	"$off" "$most_off" "$cost" "$most_cpu" "$rate" "$paced" "$(median open.lag)"
awk -v o="$off" -v mo="$most_off" -v c="$cost" -v mc="$most_cpu" 'BEGIN { exit !(o <= mo && c <= mc) }' || die 'tickload misses the bar'
