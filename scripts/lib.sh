# Shared by the scripts of this folder; sourced, not run.
# shellcheck shell=bash

# Processes that this script started, ended by their ids when it ends.
started_pids=()
work_dir=

# die TEXT says why and ends the script.
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# help_wanted ARGUMENT… shows the script's usage and ends it, if that is what the first argument asks for.
help_wanted() {
	if [[ ${1:-} == -h || ${1:-} == --help ]]; then
		usage
		exit 0
	fi
}

# no_arguments ARGUMENT… is that for a script that has no others.
no_arguments() {
	help_wanted "$@"
	(($# == 0)) && return
	usage
	exit 2
}

# need COMMAND PACKAGE demands a tool; nothing is installed here.
need() {
	command -v "$1" >/dev/null || PATH=$PATH:/usr/sbin command -v "$1" >/dev/null ||
		die "$1 is not installed: apt-get install $2"
}

# need_binaries demands what `make build` leaves.
need_binaries() {
	[[ -x bin/tickgate && -x bin/tickload ]] || die 'bin/tickgate or bin/tickload is missing: make build'
}

# need_descriptors COUNT lets processes open as many files as they may, and demands that these are COUNT.
need_descriptors() {
	ulimit -n "$(ulimit -Hn)"
	[[ $(ulimit -n) == unlimited ]] || (($(ulimit -n) >= $1)) || die "$1 descriptors for a process are needed, and there are $(ulimit -n): ulimit -Hn"
}

# make_work_dir makes a folder for this run, readable by nginx's workers, and sees
# to it that everything is cleaned up.
make_work_dir() {
	work_dir=$(mktemp -d "${TMPDIR:-/tmp}/tickgate-script.XXXXXX")
	chmod 755 "$work_dir"
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# clean_up ends what was started, by id, and removes the folder. KEEP=1 keeps it.
clean_up() {
	local pid
	for pid in "${started_pids[@]}"; do
		kill -TERM "$pid" 2>/dev/null || true
	done
	for pid in "${started_pids[@]}"; do
		for _ in {1..50}; do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		kill -KILL "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	if [[ ${KEEP:-0} == 1 ]]; then
		printf 'kept %s\n' "$work_dir" >&2
	else
		rm -rf "$work_dir"
	fi
}

# start NAME COMMAND… starts a process with its output in NAME.log and leaves its id
# in $started.
start() {
	local name=$1
	shift
	"$@" >"$work_dir/$name.log" 2>&1 &
	started=$!
	started_pids+=("$started")
}

# wait_for_url NAME URL waits until URL answers 200, at most ten seconds.
wait_for_url() {
	local name=$1 url=$2
	for _ in {1..100}; do
		if [[ $(curl -sk -o /dev/null -w '%{http_code}' --max-time 2 "$url") == 200 ]]; then
			return
		fi
		sleep 0.1
	done
	tail -n 20 "$work_dir/$name.log" >&2 || true
	die "$name does not answer at $url"
}

# start_backend HOST:PORT [FLAG…] starts an HTTP backend and waits until it answers.
start_backend() {
	start backend bin/tickload backend -listen "$1" "${@:2}"
	wait_for_url backend "http://$1/"
}

# secure_config PORT ADMIN BACKEND [SETTING…] prints a configuration of the gateway: a TLS listener with the certificate
# that "issue server" made, and with the settings, in front of one backend.
secure_config() {
	cat <<END_YAML
admin: {listen: "$2"}
listeners:
  - listen: 127.0.0.1:$1
    tls:
      certificates: [{cert_file: $work_dir/server.pem, key_file: $work_dir/server.key}]
$(printf '      %s\n' "${@:4}")
upstreams: {be: {servers: [{address: "$3"}]}}
routes: [{path: /, upstream: be}]
END_YAML
}

# start_gateway URL [COMMAND…] starts the gateway that tickgate.yaml in the work folder describes, by the command if
# there is one, waits until URL answers, and leaves its id in $gateway_pid.
start_gateway() {
	start tickgate "${@:2}" bin/tickgate run -c "$work_dir/tickgate.yaml"
	gateway_pid=$started
	wait_for_url tickgate "$1"
}

# end_gateway TEXT checks that it still runs and that it ends in order; TEXT stands before what is checked.
end_gateway() {
	check "$1the gateway still runs" kill -0 "$gateway_pid"
	finish "$gateway_pid" TERM
	check "$1and ends in order" [ "$code" = 0 ]
}

# family PID prints the process and its descendants.
family() {
	local pid=$1 child
	printf '%s\n' "$pid"
	# Words, not lines: a file lists its children on one.
	# shellcheck disable=SC2013
	for child in $(cat "/proc/$pid/task/"*/children 2>/dev/null); do
		family "$child"
	done
}

# cpu_ticks PID prints user and system time of the family, in clock ticks. The
# command name in stat may hold spaces, so what precedes its last ")" is cut off.
cpu_ticks() {
	local pid stat sum=0
	local -a fields
	for pid in $(family "$1"); do
		stat=$(<"/proc/$pid/stat")
		read -ra fields <<<"${stat##*) }"
		sum=$((sum + fields[11] + fields[12]))
	done
	printf '%s\n' "$sum"
}

# pss_kib PID prints the proportional set size of the family.
pss_kib() {
	local pid
	for pid in $(family "$1"); do
		cat "/proc/$pid/smaps_rollup"
	done | awk '$1 == "Pss:" {sum += $2} END {print sum + 0}'
}

# make_certificate writes cert.pem, key.pem and both.pem to the work folder.
make_certificate() {
	need openssl openssl
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
		-subj /CN=localhost -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' \
		-keyout "$work_dir/key.pem" -out "$work_dir/cert.pem" 2>/dev/null
	cat "$work_dir/cert.pem" "$work_dir/key.pem" >"$work_dir/both.pem"
}

# make_authority writes ca.pem and ca.key to the work folder: what signs what issue makes.
make_authority() {
	need openssl openssl
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj '/CN=tickgate scripts' \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
		-keyout "$work_dir/ca.key" -out "$work_dir/ca.pem" 2>/dev/null
}

# issue NAME [EXTENSION…] writes a certificate of the authority to NAME.pem, and its key to NAME.key: ECDSA P-256, or
# RSA 2048 if $key is rsa. It is for $san, or for localhost and 127.0.0.1, for $days days, or two. Extensions are lines of openssl's, added to those that a server's
# certificate has.
issue() {
	local name=$1
	local -a kind=(ec -pkeyopt ec_paramgen_curve:prime256v1)
	shift
	[[ ${key:-ecdsa} != rsa ]] || kind=(rsa:2048)
	openssl req -new -newkey "${kind[@]}" -nodes -subj "/CN=localhost/O=$name" \
		-keyout "$work_dir/$name.key" -out "$work_dir/$name.csr" 2>/dev/null
	printf '%s\n' "subjectAltName=${san:-DNS:localhost,IP:127.0.0.1}" 'basicConstraints=critical,CA:FALSE' \
		'keyUsage=critical,digitalSignature' 'extendedKeyUsage=serverAuth' \
		'subjectKeyIdentifier=hash' 'authorityKeyIdentifier=keyid' "$@" >"$work_dir/$name.ext"
	openssl x509 -req -in "$work_dir/$name.csr" -CA "$work_dir/ca.pem" -CAkey "$work_dir/ca.key" -CAcreateserial \
		-days "${days:-2}" -extfile "$work_dir/$name.ext" -out "$work_dir/$name.pem" 2>/dev/null
}

# What check found to fail, for conclude.
failed_checks=()

# check WHAT CONDITION… runs a command and prints whether what it says holds.
check() {
	local what=$1
	shift
	if "$@"; then
		printf 'ok    %s\n' "$what"
	else
		printf 'FAIL  %s\n' "$what"
		failed_checks+=("$what")
	fi
}

# holds EXPRESSION tells whether an expression of numbers is true, as in "1.5 < 2".
holds() { awk "BEGIN { exit !($1) }"; }

# conclude ends the script: 0 if all checks held.
conclude() {
	if ((${#failed_checks[@]} > 0)); then
		printf '\n%d of the checks failed\n' "${#failed_checks[@]}"
		exit 1
	fi
	printf '\nall checks held\n'
}

# wrk_failures FILE prints what wrk counted as failed: socket errors of every kind
# and statuses other than 2xx and 3xx.
wrk_failures() {
	awk '
		/Socket errors:/ { gsub(",", ""); sum += $4 + $6 + $8 + $10 }
		/Non-2xx or 3xx responses:/ { sum += $NF }
		END { print sum + 0 }' "$1"
}

# wrk_requests FILE prints how many requests were answered.
wrk_requests() {
	awk '/ requests in / { print $1; found = 1 } END { if (!found) print 0 }' "$1"
}

# wait_for_port NAME PORT waits until something listens on 127.0.0.1:PORT, at most
# ten seconds.
wait_for_port() {
	local name=$1 port=$2
	for _ in {1..100}; do
		if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			return
		fi
		sleep 0.1
	done
	tail -n 20 "$work_dir/$name.log" >&2 || true
	die "$name does not listen on port $port"
}

# wait_for_log NAME TEXT SECONDS waits until the log of a process holds a line with
# TEXT. It fails if the time is over or the process has ended without.
wait_for_log() {
	local name=$1 text=$2 seconds=$3 pid=$started
	for ((i = 0; i < seconds * 10; i++)); do
		grep -q -- "$text" "$work_dir/$name.log" && return
		if ! kill -0 "$pid" 2>/dev/null; then
			grep -q -- "$text" "$work_dir/$name.log" && return
			break
		fi
		sleep 0.1
	done
	tail -n 20 "$work_dir/$name.log" >&2
	die "$name did not come to \"$text\" within $seconds s"
}

# finish PID [SIGNAL] ends a process, or without a signal waits for its end, and
# leaves its exit code in $code.
finish() {
	local pid=$1 signal=${2:-} one
	local -a rest=()
	[[ -z $signal ]] || kill "-$signal" "$pid" 2>/dev/null || true
	code=0
	# shellcheck disable=SC2034 # read by the caller
	wait "$pid" || code=$?
	for one in "${started_pids[@]}"; do
		[[ $one == "$pid" ]] || rest+=("$one")
	done
	started_pids=("${rest[@]}")
}

# json FILE KEY [WITHIN] prints the first value of a key in JSON that tickload wrote,
# the first after the key WITHIN if that is given.
json() {
	awk -v key="\"$2\":" -v within="${3:+\"$3\":}" '
		within != "" { if ($1 == within) within = ""; next }
		$1 == key { $1 = ""; sub("^ ", ""); sub(",$", ""); print; exit }' "$1"
}

# of NAME KEY [WITHIN] is json for the log of a process, and failed NAME prints how many of what was due there was not OK.
of() { json "$work_dir/$1.log" "${@:2}"; }
failed() { calc "$(of "$1" due) - $(of "$1" ok)" 0; }

# metric ADMIN NAME prints the sum of the series of a metric whose text begins with
# NAME, which may go on with labels; nothing if there is none.
metric() {
	curl -s --max-time 10 "http://$1/metrics" | awk -v name="$2" '
		index($0, name) == 1 && substr($0, length(name) + 1, 1) ~ /[ {,]/ { sum += $NF; found = 1 }
		END { if (found) printf "%.10g\n", sum }'
}

# calc EXPRESSION [DIGITS] computes.
calc() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }

# median, lowest and highest print one of the numbers they read, one a line.
median_of() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
lowest_of() { sort -g | head -n 1; }
highest_of() { sort -g | tail -n 1; }
