#!/usr/bin/env bash
# Has testssl.sh and sslscan look at a tickgate with the presets modern and intermediate, and demands that they find
# nothing worse than "low" and no known weakness.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END_USAGE'
usage: [NAME=value …] scripts/tls-scan.sh

For each preset a fresh gateway with an ECDSA certificate is scanned. testssl.sh must have no finding of severity MEDIUM,
HIGH or CRITICAL, and must have looked at the known weaknesses; sslscan must see the preset's protocols and no other,
no compression, no renegotiation that is insecure, no Heartbleed, and no cipher that it does not call strong. All
findings of LOW and above are printed.

  PRESETS=…      of: modern intermediate (default: both)
  TOOLS=…        of: testssl sslscan (default: both)
  MOST=900       seconds that one scan may take
  PORT=22200     first of three ports on 127.0.0.1
  KEEP=0         1: keep configurations, logs and what the scanners wrote

Needs bin/ (make build), openssl, curl; testssl.sh and sslscan: apt-get install testssl.sh sslscan. Some five minutes.
END_USAGE
}

no_arguments "$@"

read -ra presets <<<"${PRESETS:-modern intermediate}"
read -ra tools <<<"${TOOLS:-testssl sslscan}"
most=${MOST:-900}
port=${PORT:-22200}
backend=127.0.0.1:$((port + 1))
admin=127.0.0.1:$((port + 2))

need curl curl
need timeout coreutils
for tool in "${tools[@]}"; do
	case $tool in
	testssl) need testssl testssl.sh ;;
	sslscan) need sslscan sslscan ;;
	*) die "no tool $tool: there are testssl and sslscan" ;;
	esac
done
need_binaries
make_work_dir
make_authority
# Scanners miss addresses for revocation in a certificate, which nobody asks, and much time until its end.
days=90 issue server "crlDistributionPoints=URI:http://$backend/crl" "authorityInfoAccess=OCSP;URI:http://$backend/ocsp"
start_backend "$backend"

# launch PRESET runs the gateway.
launch() {
	cat >"$work_dir/tickgate.yaml" <<END_YAML
admin: {listen: $admin}
listeners:
  - listen: 127.0.0.1:$port
    tls:
      preset: $1
      certificates: [{cert_file: $work_dir/server.pem, key_file: $work_dir/server.key}]
upstreams: {be: {servers: [{address: $backend}]}}
routes:
  - path: /
    upstream: be
    # testssl.sh judges what a site says in its headers, too.
    response_headers:
      set:
        Strict-Transport-Security: max-age=31536000; includeSubDomains
        Content-Security-Policy: default-src 'self'
        X-Content-Type-Options: nosniff
        X-Frame-Options: DENY
END_YAML
	start_gateway "https://127.0.0.1:$port/"
}

# findings FILE prints severity, id and finding of each line of testssl's flat JSON.
findings() {
	awk '
		function value(line) { sub(/^[^:]*: *"/, "", line); sub(/",?$/, "", line); return line }
		/^ *"id" *:/ { id = value($0) }
		/^ *"severity" *:/ { severity = value($0) }
		/^ *"finding" *:/ { printf "%-9s %s: %s\n", severity, id, value($0) }' "$1"
}

# weaknesses are the tests of testssl.sh that must have been made. Where there is TLS 1.3 alone it gives SWEET32 the
# name of CRIME_TLS.
declare -A weaknesses=(
	[modern]='heartbleed CCS ticketbleed ROBOT secure_renego CRIME_TLS POODLE_SSL fallback_SCSV FREAK DROWN LOGJAM BEAST LUCKY13 RC4'
	[intermediate]='heartbleed CCS ticketbleed ROBOT secure_renego secure_client_renego CRIME_TLS POODLE_SSL fallback_SCSV SWEET32 FREAK DROWN LOGJAM BEAST LUCKY13 RC4'
)

# scan_testssl PRESET checks what testssl.sh finds.
scan_testssl() {
	local preset=$1 file=$work_dir/testssl-$1.json text=$work_dir/testssl-$1.txt code=0 id
	rm -f "$file"
	# All but each cipher by itself and the simulated clients, which take most of the time.
	timeout "$most" testssl -p -s -f -P -S -h -U --quiet --color 0 --warnings off --nodns none --ip 127.0.0.1 --add-ca "$work_dir/ca.pem" \
		--jsonfile "$file" "localhost:$port" >"$text" 2>&1 </dev/null || code=$?
	# Its exit code is the number of bad findings, and beyond 242 an error of its own (or of timeout, 124 and 137).
	if [[ ! -s $file ]] || ((code == 124 || code == 137 || code > 242)); then
		tail -n 20 "$text" >&2
		die "testssl.sh ended with code $code"
	fi
	findings "$file" >"$work_dir/testssl-$preset.list"
	grep -E '^(LOW|MEDIUM|HIGH|CRITICAL|WARN|FATAL)' "$work_dir/testssl-$preset.list" | sed "s/^/      testssl.sh: /" || true
	check "$preset: testssl.sh has $(wc -l <"$work_dir/testssl-$preset.list") findings and none worse than low" \
		none_matches '^(MEDIUM|HIGH|CRITICAL|FATAL)' "$work_dir/testssl-$preset.list"
	for id in ${weaknesses[$preset]}; do
		check "$preset: testssl.sh on $id" matches "^(OK|INFO|LOW) +${id}[:_]" "$work_dir/testssl-$preset.list"
	done
}

matches() { grep -qE -- "$1" "$2"; }
none_matches() { ! grep -E -- "$1" "$2"; }

# scan_sslscan PRESET checks what sslscan finds.
scan_sslscan() {
	local preset=$1 file=$work_dir/sslscan-$1.txt version want
	timeout "$most" sslscan --no-colour --sni-name=localhost "127.0.0.1:$port" >"$file" 2>&1 </dev/null || die "sslscan failed: $(tail -n 3 "$file")"
	grep -E '^(Accepted|Preferred) ' "$file" | sed "s/^/      sslscan: /" || true
	for version in SSLv2 SSLv3 TLSv1.0 TLSv1.1 TLSv1.2 TLSv1.3; do
		want=disabled
		[[ $version == TLSv1.3 || $version == TLSv1.2 && $preset == intermediate ]] && want=enabled
		check "$preset: sslscan sees $version $want" matches "^$version +$want" "$file"
	done
	check "$preset: sslscan sees no compression" none_matches '^Compression enabled' "$file"
	check "$preset: sslscan sees no insecure renegotiation" none_matches '^Insecure session renegotiation' "$file"
	check "$preset: sslscan sees no Heartbleed" none_matches 'vulnerable to heartbleed$' <(sed 's/.*not vulnerable to heartbleed//' "$file")
	check "$preset: sslscan sees strong ciphers only" none_matches '^(Accepted|Preferred) .*(CBC|SHA *$|RC4|3DES|NULL|EXP|anon|ADH|AECDH|MD5| (40|56|112) bits)' "$file"
	check "$preset: sslscan sees forward secrecy only" none_matches '^(Accepted|Preferred) +TLSv1.2 .* (AES|RSA|CAMELLIA|ARIA)[0-9A-Z-]*( |$)' \
		<(grep -v ECDHE "$file")
}

for preset in "${presets[@]}"; do
	[[ -n ${weaknesses[$preset]:-} ]] || die "no preset $preset: there are ${!weaknesses[*]}"
	printf '\npreset %s\n\n' "$preset"
	launch "$preset"
	for tool in "${tools[@]}"; do
		"scan_$tool" "$preset"
	done
	end_gateway "$preset: "
done
conclude
