#!/usr/bin/env bash
# Sends 2 GiB through tickgate in each direction, plain and over TLS, with
# Content-Length and in chunks, and demands that its memory hardly grows.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
	cat <<'END'
usage: [NAME=value …] scripts/big-bodies.sh

Uploads and downloads through tickgate with curl. While a body passes, the
gateway's memory (PSS) is read ten times a second; its peak may be at most LIMIT
MiB above what it was before the first body.

  SIZE=2147483648   bytes of each body
  LIMIT=50          MiB of growth allowed
  PORT=18300        first of four ports on 127.0.0.1
  KEEP=0            1: keep configurations and logs

Needs bin/ (make build), curl and openssl.
END
}

no_arguments "$@"

size=${SIZE:-2147483648}
limit=${LIMIT:-50}
port=${PORT:-18300}

need curl curl
need_binaries
make_work_dir
make_certificate

cat >"$work_dir/tickgate.yaml" <<END
admin: {listen: 127.0.0.1:$((port + 3))}
listeners:
  - listen: 127.0.0.1:$((port + 1))
  - listen: 127.0.0.1:$((port + 2))
    tls: {certificates: [{cert_file: $work_dir/cert.pem, key_file: $work_dir/key.pem}]}
upstreams:
  be:
    servers: [{address: 127.0.0.1:$port}]
routes:
  - {path: /, upstream: be}
END
truncate -s "$size" "$work_dir/body" # a hole: takes no room on the disk
start_backend "127.0.0.1:$port"
start_gateway "http://127.0.0.1:$((port + 1))/"
wait_for_url tickgate "https://127.0.0.1:$((port + 2))/"

# watch PID FILE COMMAND… runs the command and leaves the peak of the PSS meanwhile
# in $peak. Its output goes to FILE.
watch() {
	local pid=$1 out=$2 pss
	shift 2
	"$@" >"$out" &
	local job=$!
	peak=0
	while kill -0 "$job" 2>/dev/null; do
		pss=$(pss_kib "$pid")
		((pss > peak)) && peak=$pss
		sleep 0.1
	done
	wait "$job"
}

# upload_chunked URL, upload_sized URL print the backend's count of the bytes.
upload_chunked() { head -c "$size" /dev/zero | curl -sfk -T - "$1/count"; }
upload_sized() { curl -sfk -T "$work_dir/body" "$1/count"; }
# download_chunked URL, download_sized URL print curl's count.
download_chunked() { curl -sfk -o /dev/null -w '%{size_download}\n' "$1/bytes/$size?chunked"; }
download_sized() { curl -sfk -o /dev/null -w '%{size_download}\n' "$1/bytes/$size"; }

failed=0
before=$(pss_kib "$gateway_pid")
printf 'before: PSS %d KiB; %d bytes each way\n\n' "$before" "$size"
echo '| | seconds | peak PSS KiB | growth KiB |'
echo '|---|---|---|---|'
for url in "http://127.0.0.1:$((port + 1))" "https://127.0.0.1:$((port + 2))"; do
	for way in upload_sized upload_chunked download_sized download_chunked; do
		began=$SECONDS
		watch "$gateway_pid" "$work_dir/count" "$way" "$url" || die "$way through $url failed"
		growth=$((peak - before))
		printf '| %s, %s | %d | %d | %d |\n' "${way/_/ }" "${url%%:*}" "$((SECONDS - began))" "$peak" "$growth"
		count=$(<"$work_dir/count")
		[[ $count == "$size" ]] || die "$way through $url: $count bytes arrived (want $size)"
		((growth < limit * 1024)) || failed=1
	done
done
echo
((failed == 0)) || die "memory grew by more than $limit MiB"
echo "memory grew by less than $limit MiB"
