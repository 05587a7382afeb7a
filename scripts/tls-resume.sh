#!/usr/bin/env bash
# Resumes TLS sessions with openssl s_client: at once, over a restart, and at another process that shares the ticket
# keys by files or by a Redis server. Where the keys are not shared nothing may resume.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/tls-resume.sh

For TLS 1.2 and 1.3: openssl s_client gets a session from one process and comes back with it

  - to the same process (of TLS 1.2 also by -reconnect, five times in a row),
  - after the process has been ended and started again,
  - to another process on another port,

with keys from memory, which are lost with the process and shared with nobody, from a file of 48 bytes, from one of 80
bytes, and from a redis-server of this script's own. Prints what was resumed and what not, and fails unless it is what the
source of the keys promises.

  SOURCES=…      of: memory file48 file80 redis (default: all)
  PORT=22200     first of six ports on 127.0.0.1
  KEEP=0         1: keep configurations, sessions and logs

Needs bin/ (make build), curl, openssl; redis-server: apt-get install redis-server. Some 20 seconds.
END_USAGE
}

no_arguments "$@"

read -ra sources <<<"${SOURCES:-memory file48 file80 redis}"
port=${PORT:-22200}
backend=127.0.0.1:$((port + 4))
redis_port=$((port + 5))
# Of the two processes: where they listen, their admin endpoints, and their ids.
ports=("$port" $((port + 1)))
admins=("127.0.0.1:$((port + 2))" "127.0.0.1:$((port + 3))")
pids=(0 0)

need curl curl
need openssl openssl
need timeout coreutils
need_binaries
make_work_dir
make_authority
issue server
openssl rand 48 >"$work_dir/48.key"
openssl rand 80 >"$work_dir/80.key"
start_backend "$backend"

# tickets SOURCE prints the setting.
tickets() {
	case $1 in
	memory) echo '{source: memory}' ;;
	file48) echo "{source: file, files: [$work_dir/48.key]}" ;;
	file80) echo "{source: file, files: [$work_dir/80.key]}" ;;
	redis) echo "{source: redis, redis_url: 'redis://127.0.0.1:$redis_port/0'}" ;;
	*) die "no source $1: there are memory, file48, file80 and redis" ;;
	esac
}

# launch I SOURCE starts process I.
launch() {
	secure_config "${ports[$1]}" "${admins[$1]}" "$backend" "tickets: $(tickets "$2")" >"$work_dir/tickgate-$1.yaml"
	start "tickgate-$1" bin/tickgate run -c "$work_dir/tickgate-$1.yaml"
	pids[$1]=$started
	wait_for_url "tickgate-$1" "https://127.0.0.1:${ports[$1]}/"
}

# visit VERSION PORT OPTION… makes a request with s_client and prints New or Reused, or nothing if it fails. The
# certificate is verified; s_client goes when the server closes, by when a ticket of TLS 1.3 has come.
visit() {
	local version=$1 to=$2
	shift 2
	printf 'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' |
		timeout 10 openssl s_client "-tls$version" -connect "127.0.0.1:$to" -servername localhost -CAfile "$work_dir/ca.pem" \
			-verify_return_error -ign_eof "$@" 2>>"$work_dir/s_client.log" |
		awk '$1 == "New," || $1 == "Reused," { sub(",", "", $1); print $1; exit }'
}

# returns WANT VERSION PORT comes back with the session and tells whether that is what was wanted.
returns() { [[ $(visit "$2" "$3" -sess_in "$work_dir/session-$2") == "$1" ]]; }

# first VERSION gets a session from the first process.
first() { [[ $(visit "$1" "${ports[0]}" -sess_out "$work_dir/session-$1") == New && -s $work_dir/session-$1 ]]; }

# reconnects has s_client come back five times by itself, all resumed.
reconnects() {
	timeout 20 openssl s_client -tls1_2 -reconnect -connect "127.0.0.1:${ports[0]}" -servername localhost -CAfile "$work_dir/ca.pem" \
		</dev/null >"$work_dir/reconnect.log" 2>&1 || true
	[[ $(grep -c '^Reused, TLSv1.2' "$work_dir/reconnect.log") == 5 && $(grep -c '^New, TLSv1.2' "$work_dir/reconnect.log") == 1 ]]
}

# try SOURCE goes through all of it.
try() {
	local source=$1 version elsewhere=Reused
	[[ $source == memory ]] && elsewhere=New
	launch 0 "$source"
	launch 1 "$source"
	check "$source: s_client -reconnect resumes five times (TLS 1.2)" reconnects
	for version in 1_2 1_3; do
		check "$source: a first session of TLS ${version/_/.}" first "$version"
		check "$source: the same process resumes TLS ${version/_/.}: Reused" returns Reused "$version" "${ports[0]}"
		check "$source: another process, TLS ${version/_/.}: $elsewhere" returns "$elsewhere" "$version" "${ports[1]}"
	done
	finish "${pids[0]}" TERM
	check "$source: the process ends in order" [ "$code" = 0 ]
	launch 0 "$source"
	for version in 1_2 1_3; do
		check "$source: after a restart, TLS ${version/_/.}: $elsewhere" returns "$elsewhere" "$version" "${ports[0]}"
	done
	finish "${pids[0]}" TERM
	finish "${pids[1]}" TERM
}

for source in "${sources[@]}"; do
	printf '\ntickets: %s\n' "$(tickets "$source")"
	if [[ $source == redis ]]; then
		need redis-server redis-server
		start redis redis-server --port "$redis_port" --bind 127.0.0.1 --save '' --appendonly no --dir "$work_dir"
		wait_for_port redis "$redis_port"
	fi
	try "$source"
done
conclude
