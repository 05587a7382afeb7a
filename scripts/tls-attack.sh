#!/usr/bin/env bash
# Attacks a tickgate with mutated ClientHellos and with thousands of slow handshakes, while others use it, and demands
# that these notice nothing, that memory stays bounded, and that nothing of the attack is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/tls-attack.sh

Two honest loads use a gateway: RATE requests a second over TLS connections that are kept, and SHAKES new ones a second
with a handshake and a request each. They are measured for CALM seconds first, then beside MUTANTS mutated ClientHellos,
and then for DURATION seconds beside SOCKETS slow clients: a third each that say nothing, send a ClientHello byte by
byte, or send a whole one and nothing more (tickload tls-attack). Those whom the gateway hangs up on come back, as many a
second as came in the first RAMP seconds: what comes faster is a flood, for which there is scripts/tls-flood.sh.
Fails unless

  - every honest request and handshake succeeded, and the 99th percentiles were at most MOST times those of the calm, or
    below FLOOR milliseconds,
  - every mutant was answered or ended, and the gateway counts no internal error,
  - memory (PSS) grew by at most KIB for each socket, and did not go on growing,
  - descriptors are as many as before, SETTLE seconds after the attack, and the gateway ends in order.

  MUTANTS=1000   mutated ClientHellos
  SOCKETS=5000   slow clients
  DURATION=300   seconds of the slow attack
  RAMP=10        seconds in which all of them come
  CALM=20        seconds before
  RATE=300       honest requests a second
  SHAKES=20      honest handshakes a second
  MOST=2         times
  FLOOR=5        milliseconds
  KIB=48         of memory for each socket
  SETTLE=20      seconds
  SEED=1         of the mutants
  CONFIG=        more of tickgate's configuration, in lines of their own
  PORT=22200     first of three ports on 127.0.0.1
  KEEP=0         1: keep configurations, results and logs

Needs bin/ (make build), curl, openssl, and SOCKETS + 1000 descriptors for a process (ulimit -Hn).
END_USAGE
}

no_arguments "$@"

mutants=${MUTANTS:-1000}
sockets=${SOCKETS:-5000}
duration=${DURATION:-300}
ramp=${RAMP:-10}
calm=${CALM:-20}
rate=${RATE:-300}
shakes=${SHAKES:-20}
most=${MOST:-2}
floor=${FLOOR:-5}
kib=${KIB:-48}
settle=${SETTLE:-20}
port=${PORT:-22200}
backend=127.0.0.1:$((port + 1))
admin=127.0.0.1:$((port + 2))
kinds=(silent dribble stall)

need curl curl
need openssl openssl
need_binaries
((duration > ramp + 5)) || die "DURATION is $duration: want more than RAMP + 5 seconds"
((calm > 3)) || die "CALM is $calm: want more than 3 seconds"
need_descriptors $((sockets + 1000))
make_work_dir
make_authority
issue server
{
	secure_config "$port" "$admin" "$backend"
	printf '%s\n' "${CONFIG:-}"
} >"$work_dir/tickgate.yaml"
start_backend "$backend"
start_gateway "https://127.0.0.1:$port/"

# honest NAME SECONDS begins both honest loads; their ids are in $kept and $fresh.
honest() {
	start "kept-$1" bin/tickload http -url "https://127.0.0.1:$port/" -insecure -rate "$rate" -conns 64 -warmup 2s -duration "$2s" -json -strict=false -quiet
	kept=$started
	start "fresh-$1" bin/tickload tls -url "https://127.0.0.1:$port/" -ca "$work_dir/ca.pem" -name localhost -groups X25519 -rate "$shakes" -conns 256 \
		-duration "$2s" -request -json -strict=false -quiet
	fresh=$started
}

# honest_done NAME waits for both and shows what they saw.
honest_done() {
	local name
	for pid in "$kept" "$fresh"; do
		finish "$pid"
		((code == 0)) || die "a load ended with code $code: $(tail -n 3 "$work_dir/kept-$1.log" "$work_dir/fresh-$1.log")"
	done
	for name in kept fresh; do
		printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$1" "$name" "$(of "$name-$1" ok)" "$(failed "$name-$1")" \
			"$(in_ms "$name-$1" p50_us)" "$(in_ms "$name-$1" p99_us)" "$(in_ms "$name-$1" max_us)"
	done
}

in_ms() { calc "$(of "$1" "$2" latency) / 1000" 1; }
descriptors() { find "/proc/$gateway_pid/fd" -mindepth 1 2>/dev/null | wc -l; }

# unaffected NAME checks the honest loads beside an attack.
unaffected() {
	local load before during
	for load in kept fresh; do
		before=$(in_ms "$load-calm" p99_us) during=$(in_ms "$load-$1" p99_us)
		check "$load, beside $1: none failed$(of "$load-$1" first_error | sed 's/^/: /')" [ "$(failed "$load-$1")" = 0 ]
		check "$load, beside $1: p99 $during ms, $before ms before" holds "$during <= $most * $before || $during <= $floor"
	done
}

printf '\n%s requests/s over kept connections, %s handshakes/s; latency in ms\n\n' "$rate" "$shakes"
echo '| beside | load | ok | failed | p50 | p99 | max |'
echo '|---|---|---|---|---|---|---|'
honest calm "$calm"
sleep "$(calc "$calm * 0.8")"
fds_before=$(descriptors)
pss_before=$(pss_kib "$gateway_pid")
honest_done calm

honest mutants 10
mutants_code=0
bin/tickload tls-attack -addr "127.0.0.1:$port" -kind mutate -count "$mutants" -conns 16 -sources 100 -seed "${SEED:-1}" -duration 5m -quiet \
	>"$work_dir/mutants.log" 2>&1 || mutants_code=$?
honest_done mutants

honest slow "$duration"
pids=()
for kind in "${kinds[@]}"; do
	start "slow-$kind" bin/tickload tls-attack -addr "127.0.0.1:$port" -kind "$kind" -conns $((sockets / ${#kinds[@]})) -sources 250 \
		-rate "$(calc "$sockets / ${#kinds[@]} / $ramp")" \
		-duration "${duration}s" -quiet
	pids+=("$started")
done
# Samples of memory while all sockets are there.
samples=()
until=$((SECONDS + duration - 2))
sleep "$(calc "$ramp + ($duration - $ramp) / 4" 1)"
while ((SECONDS < until)) || ((${#samples[@]} == 0)); do
	kill -0 "$gateway_pid" 2>/dev/null || die "the gateway has ended: $(tail -n 3 "$work_dir/tickgate.log")"
	samples+=("$(pss_kib "$gateway_pid")")
	sleep 1
done
weaker=
for i in "${!kinds[@]}"; do
	finish "${pids[$i]}"
	((code == 0)) || weaker+="${kinds[$i]}: $(tail -n 1 "$work_dir/slow-${kinds[$i]}.log") "
done
honest_done slow

printf '\nmutants\n\n'
sed 's/^/      /' "$work_dir/mutants.log"
for kind in "${kinds[@]}"; do
	printf '\n'
	sed 's/^/      /' "$work_dir/slow-$kind.log"
done
pss_most=$(printf '%s\n' "${samples[@]}" | highest_of)
half=$(((${#samples[@]} + 1) / 2))
pss_early=$(printf '%s\n' "${samples[@]:0:half}" | median_of)
pss_late=$(printf '%s\n' "${samples[@]:${#samples[@]}-half}" | median_of)
for ((i = 0; i < settle * 2; i++)); do
	fds_after=$(descriptors)
	((fds_after > fds_before)) || break
	sleep 0.5
done
internal=$(metric "$admin" 'tickgate_connection_ends_total{reason="internal"}')
printf '\nmemory (PSS): %s MiB in the calm, %s at the most, %s after the attack; %s KiB a socket\n\n' "$(calc "$pss_before / 1024" 1)" \
	"$(calc "$pss_most / 1024" 1)" "$(calc "$(pss_kib "$gateway_pid") / 1024" 1)" "$(calc "($pss_most - $pss_before) / $sockets" 1)"

check "every one of $mutants mutants was answered or ended" [ "$mutants_code" = 0 ]
check "the slow attack was as strong as it should be${weaker:+: $weaker}" [ -z "$weaker" ]
unaffected mutants
unaffected slow
check "memory grew by at most $kib KiB a socket" holds "$pss_most - $pss_before <= $kib * $sockets"
check "memory did not go on growing: $(calc "$pss_early / 1024" 1) MiB, later $(calc "$pss_late / 1024" 1) MiB" holds "$pss_late <= 1.25 * $pss_early"
check "descriptors: $fds_before before, $fds_after after" [ "$fds_after" -le "$fds_before" ]
check 'no connection ended by an internal error' [ "${internal:-0}" = 0 ]
end_gateway ''
conclude
