package peer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// rootUser keeps nginx's workers from becoming another user, who could not read the
// folder; only root may, and must, say so.
func rootUser() string {
	if os.Geteuid() == 0 {
		return "user root;\n"
	}
	return ""
}

// configFile is the name of a gateway's configuration.
func configFile(k Kind) string {
	switch k {
	case Nginx:
		return "nginx.conf"
	case HAProxy:
		return "haproxy.cfg"
	default:
		return "gate.yaml"
	}
}

// Config returns the configuration of a gateway, its command line first where that says something.
func (s Setup) Config(k Kind) string {
	switch k {
	case Nginx:
		return s.nginx()
	case HAProxy:
		return s.haproxy()
	case NetHTTP:
		return fmt.Sprintf("# GOMAXPROCS=%d tickload baseline -c gate.yaml\n", s.Workers) + s.yaml()
	default:
		return fmt.Sprintf("# GOMAXPROCS=%d tickgate run -c gate.yaml\n", s.Workers) + s.yaml()
	}
}

// yaml is the configuration of tickgate, which the baseline reads too. It sends no request
// id, as the others make none. Both keep 1024 connections to backends idle by default.
func (s Setup) yaml() string {
	secure := ""
	if s.CertFile != "" {
		secure = fmt.Sprintf("\n    tls: {certificates: [{cert_file: %q, key_file: %q}]}", s.CertFile, s.KeyFile)
	}
	return fmt.Sprintf(`admin: {listen: %q}
timeouts: {idle: 1h, tunnel_idle: 1h}
forwarding: {request_id_header: ""}
listeners:
  - listen: %q%s
upstreams:
  be:
    servers: [{address: %q}]
  ws:
    servers: [{address: %q}]
    pool: {max_conns: 100000}
routes:
  - {path: /, upstream: be}
  - {path: /ws, upstream: ws}
`, s.Admin, s.Listen, secure, s.HTTPBackend, s.WSBackend)
}

// nginx writes no access log, as nobody writes one. Connections, requests on them and
// the time they may idle are not limited; else it is as Debian has it.
func (s Setup) nginx() string {
	listen, secure := s.Listen, ""
	if s.CertFile != "" {
		listen += " ssl"
		secure = fmt.Sprintf("\n\t\tssl_certificate %s;\n\t\tssl_certificate_key %s;\n\t\tssl_protocols TLSv1.2 TLSv1.3;", s.CertFile, s.KeyFile)
	}
	return NginxHead(s.Dir, s.Workers, s.MaxFDs) + fmt.Sprintf(`	upstream be { server %s; keepalive %d; keepalive_requests 1000000000; }
	upstream ws { server %s; }
	server {
		listen %s backlog=4096;%s
		location / {
			proxy_pass http://be;
			proxy_http_version 1.1;
			proxy_set_header Connection "";%s
		}
		location /ws {
			proxy_pass http://ws;
			proxy_http_version 1.1;
			proxy_set_header Connection upgrade;
			proxy_set_header Upgrade $http_upgrade;%s
			proxy_read_timeout 1h;
			proxy_send_timeout 1h;
		}
	}
}
`, s.HTTPBackend, s.IdleConns, s.WSBackend, listen, secure, nginxForwarded, nginxForwarded)
}

const nginxForwarded = `
			proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_set_header X-Forwarded-Host $http_host;`

// NginxHead is what every nginx of a comparison begins with, to the middle of its http block: it
// stays in the foreground, keeps to a folder of its own, and has no limits on connections.
func NginxHead(dir string, workers, maxFDs int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `daemon off;
%sworker_processes %d;
pid %s;
error_log stderr crit;
worker_rlimit_nofile %d;
events { worker_connections %d; }
http {
	access_log off;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
`, rootUser(), workers, filepath.Join(dir, "nginx.pid"), maxFDs, maxFDs)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "\t%s_temp_path %s;\n", kind, filepath.Join(dir, kind))
	}
	return b.String()
}

// haproxySpare are the descriptors that HAProxy needs besides connections.
const haproxySpare = 200

// haproxy reserves two descriptors for each connection of maxconn, and would not start where
// only one is needed: no strict-limits.
func (s Setup) haproxy() string {
	scheme, secure := "http", ""
	if s.CertFile != "" {
		scheme, secure = "https", fmt.Sprintf(" ssl crt %s ssl-min-ver TLSv1.2", filepath.Join(s.Dir, bothFile))
	}
	return fmt.Sprintf(`global
	nbthread %d
	maxconn %d
	no strict-limits
	ulimit-n %d
defaults
	mode http
	timeout connect 3s
	timeout client 1h
	timeout server 1h
	timeout tunnel 1h
	timeout http-keep-alive 1h
	option http-keep-alive
	http-reuse always
frontend fe
	bind %s%s backlog 4096
	option forwardfor
	http-request set-header X-Forwarded-Proto %s
	http-request set-header X-Forwarded-Host %%[req.hdr(Host)]
	use_backend ws if { path_beg /ws }
	default_backend be
backend be
	server s1 %s pool-max-conn %d
backend ws
	server s1 %s
`, s.Workers, max(s.MaxFDs-haproxySpare, 100), s.MaxFDs, s.Listen, secure, scheme, s.HTTPBackend, s.IdleConns, s.WSBackend)
}
