#!/usr/bin/env bash
# Measures handshakes of a tickgate that staples OCSP answers while its responder is killed, slow or lying, and demands
# that they take what they take with a good one, and that the last good answer is stapled until it ends.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/tls-ocsp.sh

The responder is "openssl ocsp"; its answers are good for one minute, so that the gateway asks again during each
measurement. Full handshakes at RATE a second are measured beside a good responder first, and then beside one that

  killed    is gone: connections are refused
  slow      answers after ten seconds
  garbage   answers at once, with bytes that are no OCSP answer
  forged    answers with what another authority has signed

each twice: the gateway has a good answer when the responder goes bad, and the gateway starts when it is bad already. Fails
unless all handshakes succeeded; the 99th percentile was at most MOST times that beside the good responder, or below FLOOR
milliseconds; the good answer was stapled all the while, and a bad one never; and, killed, the answer was no longer stapled
when its minute was over.

  MODES=…        of: killed slow garbage forged (default: all)
  DURATION=40    seconds of a measurement with a good answer at hand; more than 50 outlast it
  COLD=10        seconds of a measurement behind a start
  RATE=50        handshakes a second
  MOST=1.5       times
  FLOOR=3        milliseconds
  OCSP=…         value of the listener's tls.ocsp, @URL@ for the responder's
                 (default: {stapling: "on", refresh_min: 1s, responder: "@URL@", timeout: 1500ms})
  PORT=22200     first of four ports on 127.0.0.1
  KEEP=0         1: keep configurations, results and logs

Needs bin/ (make build), curl, openssl. Some five minutes.
END_USAGE
}

no_arguments "$@"

read -ra modes <<<"${MODES:-killed slow garbage forged}"
duration=${DURATION:-40}
cold=${COLD:-10}
rate=${RATE:-50}
most=${MOST:-1.5}
floor=${FLOOR:-3}
port=${PORT:-22200}
backend=127.0.0.1:$((port + 1))
admin=127.0.0.1:$((port + 2))
ocsp_port=$((port + 3))
default_ocsp='{stapling: "on", refresh_min: 1s, responder: "@URL@", timeout: 1500ms}'
ocsp=${OCSP:-$default_ocsp}
ocsp=${ocsp//@URL@/http://127.0.0.1:$ocsp_port/}

need curl curl
need openssl openssl
need timeout coreutils
need_binaries
make_work_dir
# The forger is an authority of the same name, with another key.
make_authority
mkdir "$work_dir/forger"
mv "$work_dir/ca.pem" "$work_dir/ca.key" "$work_dir/forger/"
make_authority
issue server "authorityInfoAccess=OCSP;URI:http://127.0.0.1:$ocsp_port/"
cat "$work_dir/ca.pem" >>"$work_dir/server.pem"
serial=$(openssl x509 -noout -serial -in "$work_dir/server.pem" | sed 's/.*=//')
printf 'V\t991231235959Z\t\t%s\tunknown\t/CN=localhost\n' "$serial" >"$work_dir/index.txt"
secure_config "$port" "$admin" "$backend" "ocsp: $ocsp" >"$work_dir/tickgate.yaml"
bin/tickgate check -c "$work_dir/tickgate.yaml" >"$work_dir/check.log" 2>&1 || { cat "$work_dir/check.log" >&2; die 'the configuration is refused: see OCSP in scripts/tls-ocsp.sh -h'; }
start_backend "$backend"

responder=0

# respond MODE runs a responder of that kind in place of the one before.
respond() {
	local signer=$work_dir
	[[ $responder == 0 ]] || finish "$responder" TERM
	responder=0
	case $1 in
	killed) return ;;
	slow) start responder bin/tickload backend -listen "127.0.0.1:$ocsp_port" -delay 10s ;;
	garbage) start responder bin/tickload backend -listen "127.0.0.1:$ocsp_port" -size 500 ;;
	good | forged)
		[[ $1 == forged ]] && signer=$work_dir/forger
		start responder openssl ocsp -index "$work_dir/index.txt" -port "$ocsp_port" -CA "$work_dir/ca.pem" \
			-rsigner "$signer/ca.pem" -rkey "$signer/ca.key" -nmin 1 -ignore_err
		;;
	*) die "no mode $1: there are killed, slow, garbage and forged" ;;
	esac
	responder=$started
	case $1 in
	slow | garbage) wait_for_port responder "$ocsp_port" ;;
	*) within 10 answers || die "openssl ocsp does not answer: $(tail -n 3 "$work_dir/responder.log")" ;;
	esac
}

# within SECONDS COMMAND waits until it holds.
within() {
	local until=$((SECONDS + $1))
	until "${@:2}"; do
		((SECONDS < until)) || return 1
		sleep 0.2
	done
}

# answers tells whether openssl's responder is there. It serves one client at a time and waits for those that connect and
# say nothing, so it is asked.
answers() {
	timeout 2 openssl ocsp -issuer "$work_dir/ca.pem" -cert "$work_dir/server.pem" -url "http://127.0.0.1:$ocsp_port/" \
		-noverify 2>/dev/null | grep -q '^/.*: good$'
}

# stapled tells whether a new client gets an answer that says good, unstapled whether it gets none at all.
status_of() { timeout 5 openssl s_client -connect "127.0.0.1:$port" -servername localhost -CAfile "$work_dir/ca.pem" -status </dev/null 2>/dev/null; }
stapled() { status_of | grep -q 'Cert Status: good'; }
unstapled() { status_of | grep -q 'OCSP response: no response sent'; }

# measure NAME SECONDS puts load on the gateway and prints a row.
measure() {
	start "$1" bin/tickload tls -url "https://127.0.0.1:$port/" -ca "$work_dir/ca.pem" -name localhost -groups X25519 -versions 1.3 \
		-rate "$rate" -conns 64 -duration "$2s" -warmup 1s -json -strict=false -quiet
	finish "$started"
	((code == 0)) || die "tickload ended with code $code: $(tail -n 3 "$work_dir/$1.log")"
	printf '| %s | %s | %s | %s | %s | %s |\n' "$1" "$(of "$1" ok)" "$(failed "$1")" "$(in_ms "$1" p50_us)" "$(in_ms "$1" p99_us)" "$(in_ms "$1" max_us)"
}

in_ms() { calc "$(of "$1" "$2" handshake) / 1000" 2; }

# unaffected NAME checks a measurement.
unaffected() {
	local during
	during=$(in_ms "$1" p99_us)
	check "$1: no failed handshake$(of "$1" first_error | sed 's/^/: /')" [ "$(failed "$1")" = 0 ]
	check "$1: p99 $during ms, $calm ms beside a good responder" holds "$during <= $most * $calm || $during <= $floor"
}

printf '\n%s full handshakes/s; ocsp: %s\n\n' "$rate" "$ocsp"
echo '| responder | ok | failed | p50 ms | p99 ms | max ms |'
echo '|---|---|---|---|---|---|'
respond good
start_gateway "https://127.0.0.1:$port/"
check 'good: the answer is stapled' within 10 stapled
measure good "$duration"
finish "$gateway_pid" TERM
calm=$(in_ms good p99_us)
check 'good: no failed handshake' [ "$(failed good)" = 0 ]
for mode in "${modes[@]}"; do
	respond good
	start_gateway "https://127.0.0.1:$port/"
	check "$mode: a good answer first" within 10 stapled
	since=$SECONDS
	respond "$mode"
	measure "$mode" "$duration"
	if ((SECONDS - since < 50)); then
		check "$mode: the good answer is still stapled after $((SECONDS - since)) s" stapled
	fi
	unaffected "$mode"
	if [[ $mode == killed ]]; then
		check "$mode: it is stapled no longer when it has ended" within $((since + 65 - SECONDS)) unstapled
	fi
	curl -s --max-time 5 "http://$admin/metrics" | grep '^tickgate_tls_ocsp' | sed 's/^/      /' || true
	finish "$gateway_pid" TERM
	start_gateway "https://127.0.0.1:$port/"
	measure "$mode-at-start" "$cold"
	check "$mode-at-start: nothing is stapled" unstapled
	unaffected "$mode-at-start"
	end_gateway "$mode: "
done
conclude
