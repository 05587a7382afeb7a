#!/usr/bin/env bash
# Goes on with handshakes, full and resumed, while session ticket keys rotate and certificates are swapped under the
# gateway, and demands that none fails and that clients that come back in time resume.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/tls-rotation.sh

One gateway has two certificates, whose files are watched. Every SWAP seconds both are replaced by others with keys of
their own: the files of localhost by a symbolic link that goes over to another folder, as Kubernetes does it, those of
renamed.localhost one after the other by rename, so that certificate and key do not match in between. Ticket keys are
made anew every ROTATE seconds, and two old ones still open tickets. Meanwhile three loads (both names with TLS 1.3,
localhost with TLS 1.2) shake hands, and clients come back with their session after 0 s to RETURN. Fails unless

  - every handshake succeeded, with a certificate that verifies,
  - of the sessions that were offered, the oldest about RETURN seconds old, SHARE per cent or more were resumed,
  - every swap was seen by a new client within four seconds,
  - the keys did rotate, and the gateway ends in order.

  DURATION=300   seconds
  ROTATE=10      seconds
  SWAP=5         seconds
  RETURN=18      seconds, at the most two rotations
  RATE=150       connections a second, of all loads together
  SHARE=95       per cent
  PORT=22200     first of three ports on 127.0.0.1
  KEEP=0         1: keep configurations, results and logs

Needs bin/ (make build), curl, openssl.
END_USAGE
}

no_arguments "$@"

duration=${DURATION:-300}
rotate=${ROTATE:-10}
swap=${SWAP:-5}
return=${RETURN:-18}
rate=${RATE:-150}
share=${SHARE:-95}
port=${PORT:-22200}
backend=127.0.0.1:$((port + 1))
admin=127.0.0.1:$((port + 2))

need curl curl
need openssl openssl
need timeout coreutils
need_binaries
((return <= 2 * rotate)) || die "clients that return after $return s come later than two rotations of $rotate s"
make_work_dir
make_authority
issue linked-0
issue linked-1
san=DNS:renamed.localhost
issue renamed-0
issue renamed-1

live=$work_dir/live
mkdir -p "$live/linked" "$live/renamed"
for i in 0 1; do
	mkdir "$live/linked/..version-$i"
	cp "$work_dir/linked-$i.pem" "$live/linked/..version-$i/tls.crt"
	cp "$work_dir/linked-$i.key" "$live/linked/..version-$i/tls.key"
done
ln -s ..data/tls.crt "$live/linked/tls.crt"
ln -s ..data/tls.key "$live/linked/tls.key"

# use I replaces both certificates by those with that number.
use() {
	local file
	ln -sfn "..version-$1" "$live/linked/..data_tmp"
	mv -T "$live/linked/..data_tmp" "$live/linked/..data"
	for file in key pem; do
		cp "$work_dir/renamed-$1.$file" "$live/renamed/new"
		mv -f "$live/renamed/new" "$live/renamed/tls.$file"
	done
}

# shown NAME prints which certificate a new client gets: the number.
shown() {
	timeout 5 openssl s_client -connect "127.0.0.1:$port" -servername "$1" </dev/null 2>/dev/null |
		openssl x509 -noout -subject 2>/dev/null | sed -n 's/.*-\([01]\)$/\1/p'
}

# appears NAME I waits until a client gets that one, at most four seconds.
appears() {
	local until=$((SECONDS + 4))
	while [[ $(shown "$1") != "$2" ]]; do
		((SECONDS < until)) || return 1
		sleep 0.1
	done
}

use 0
cat >"$work_dir/tickgate.yaml" <<END_YAML
admin: {listen: $admin}
listeners:
  - listen: 127.0.0.1:$port
    tls:
      certificates:
        - {cert_file: $live/linked/tls.crt, key_file: $live/linked/tls.key}
        - {cert_file: $live/renamed/tls.pem, key_file: $live/renamed/tls.key}
      watch: 500ms
      tickets: {source: memory, rotate: ${rotate}s, old_keys: 2}
upstreams: {be: {servers: [{address: $backend}]}}
routes: [{path: /, upstream: be}]
END_YAML
start_backend "$backend"
start_gateway "https://127.0.0.1:$port/"

loads=(linked-1.3 renamed-1.3 linked-1.2)
declare -A names=([linked]=localhost [renamed]=renamed.localhost) pid=()
for load in "${loads[@]}"; do
	start "$load" bin/tickload tls -url "https://127.0.0.1:$port/" -name "${names[${load%-*}]}" -ca "$work_dir/ca.pem" \
		-versions "${load#*-}" -rate "$(calc "$rate / ${#loads[@]}")" -conns 256 -duration "${duration}s" \
		-resume 100 -return-after "0s-${return}s" -request -json -strict=false -quiet
	pid[$load]=$started
done

printf '\n%s s: ticket keys every %s s, certificates every %s s, %s connections/s, back after 0 s to %s s\n\n' \
	"$duration" "$rotate" "$swap" "$rate" "$return"
swaps=0 missed=0 current=0
began=$SECONDS
while ((SECONDS - began + swap < duration)); do
	at=$((began + (swaps + 1) * swap))
	while ((SECONDS < at)); do sleep 0.1; done
	current=$((1 - current))
	use "$current"
	swaps=$((swaps + 1))
	for name in "${names[@]}"; do
		appears "$name" "$current" || missed=$((missed + 1))
	done
	kill -0 "$gateway_pid" 2>/dev/null || die "the gateway has ended: $(tail -n 3 "$work_dir/tickgate.log")"
done
for load in "${loads[@]}"; do
	finish "${pid[$load]}"
	((code == 0)) || { tail -n 5 "$work_dir/$load.log" >&2; die "tickload tls ended with code $code ($load)"; }
done

echo '| load | handshakes | failed | full | resumed | offered | refused | resumed of offered | oldest session s | p99 ms |'
echo '|---|---|---|---|---|---|---|---|---|---|'
for load in "${loads[@]}"; do
	printf '| %s | %s | %s | %s | %s | %s | %s | %s %% | %s | %s |\n' "$load" "$(of "$load" ok)" "$(failed "$load")" "$(of "$load" full)" "$(of "$load" resumed)" \
		"$(of "$load" offered)" "$(of "$load" refused)" "$(calc "$(of "$load" offered) ? 100 * (1 - $(of "$load" refused) / $(of "$load" offered)) : 0" 1)" \
		"$(calc "$(of "$load" max_us session_age) / 1e6" 1)" "$(calc "$(of "$load" p99_us handshake) / 1000" 1)"
done
echo
for load in "${loads[@]}"; do
	check "$load: no failed handshake$(of "$load" first_error | sed 's/^/: /')" [ "$(of "$load" due)" = "$(of "$load" ok)" ]
	check "$load: sessions were offered, up to $(calc "$(of "$load" max_us session_age) / 1e6" 1) s old" \
		holds "$(of "$load" offered) > 0 && $(of "$load" max_us session_age) >= 0.9e6 * $return"
	check "$load: at least $share % of them were resumed" holds "$(of "$load" offered) - $(of "$load" refused) >= $share / 100 * $(of "$load" offered)"
done
check "all of $swaps swaps of two certificates were seen" [ "$swaps-$missed" = "$swaps-0" ]
rotations=$(metric "$admin" tickgate_tls_ticket_key_rotations_total)
check "the keys rotated, $rotations times" holds "$rotations >= int($duration / $rotate) - 1"
finish "$gateway_pid" TERM
check 'the gateway ends in order' [ "$code" = 0 ]
conclude
