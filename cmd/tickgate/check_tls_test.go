package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tickgate/config"
	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
	"tickgate/tlsterm"
)

var update = flag.Bool("update", false, "rewrite the .want files of testdata")

// pair writes a certificate into a folder and returns its entry.
func pair(t *testing.T, dir, name string, kt selfsigned.KeyType, names ...string) string {
	t.Helper()
	cert, key := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	testcert.SelfSigned(t, kt, names...).Write(t, cert, key)
	return "{cert_file: " + name + ".pem, key_file: " + name + ".key}"
}

// tlsConfig is a configuration with listeners of several kinds, and files in a folder of the test.
func tlsConfig(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	ec, rsa := pair(t, dir, "ec", selfsigned.ECDSA, "a.example", "*.b.example"), pair(t, dir, "rsa", selfsigned.RSA, "a.example", "*.b.example")
	var many []string
	for c := 'a'; c <= 'z'; c++ {
		many = append(many, string(c)+".many.example", string(c)+"2.many.example")
	}
	path = filepath.Join(dir, "gate.yaml")
	text := `
listeners:
- {listen: "127.0.0.1:22001", tls: {certificates: [` + ec + ", " + rsa + `]}}
- {listen: "127.0.0.1:22002"}
- {listen: "127.0.0.1:22003", tls: {preset: modern, groups: [P-256], unknown_name: reject, insecure_key_log_file: keys.log, certificates: [` + ec + `]}}
- {listen: "127.0.0.1:22004", tls: {certificates: [` + pair(t, dir, "many", selfsigned.RSA, many...) + `], tickets: {source: redis, redis_url: "redis://127.0.0.1:1"}}}
routes: [{static_response: {}}]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

// What a person reads: one table for each listener and group of names. Without a network, and without writing a file.
func TestCheckTLSText(t *testing.T) {
	dir, path := tlsConfig(t)
	code, out, errs := try("check", "-c", path)
	if code != 0 || errs != "" {
		t.Errorf("exit code %d, errors %q", code, errs)
	}
	if _, err := os.Stat(filepath.Join(dir, "keys.log")); err == nil {
		t.Error("a check has written a key log")
	}
	for _, r := range [][2]string{
		{regexp.QuoteMeta(dir), "DIR"},
		{`\d{4}-\d\d-\d\d`, "DATE"},
		{`in \d+ hours`, "in N hours"},
		{`\d+\.\d KB`, "N KB"},
		{"TLS_AES_128_GCM_SHA256|TLS_CHACHA20_POLY1305_SHA256", "SUITE"},
		{`(\S) +`, "$1 "}, // which of them depends on the machine
	} {
		out = regexp.MustCompile(r[0]).ReplaceAllString(out, r[1])
	}
	const file = "testdata/check.want"
	if *update {
		if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out != string(want) {
		t.Errorf("%s differs (go test -update rewrites it)\ngot:\n%s\nwant:\n%s", file, out, want)
	}
}

func TestCheckTLSJSON(t *testing.T) {
	_, path := tlsConfig(t)
	code, out, _ := try("check", "-c", path, "--format", "json")
	var got struct {
		config.Summary
		TLS []struct {
			Listen       string
			Certificates []tlsterm.CertInfo
			Names        []struct {
				Names   []string
				Clients []struct {
					Client, Version, Group, Failure, Reason string
					Resumes, Retried                        *bool
					FitsWindow                              *bool `json:"fits_initial_window"`
					FirstFlight                             *int  `json:"first_flight_bytes"`
				}
			}
			NamesLeftOff int `json:"names_left_off"`
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || !got.Valid {
		t.Fatalf("exit code %d, error %v:\n%s", code, err, out)
	}
	if len(got.TLS) != 3 || got.TLS[0].Listen != "127.0.0.1:22001" || len(got.TLS[0].Certificates) != 2 {
		t.Fatalf("got %+v", got.TLS)
	}
	if c := got.TLS[0].Names[0].Clients; c[0].Client != "current_browser" || c[0].Group != "X25519MLKEM768" || c[3].Version != "TLS 1.2" {
		t.Errorf("the first listener: %+v", c)
	}
	if c := got.TLS[0].Names[0].Clients[0]; c.Resumes == nil || c.Retried == nil || c.FitsWindow == nil || c.FirstFlight == nil || c.Failure != "" {
		t.Errorf("a client that connects: %+v", c)
	}
	if c := got.TLS[1].Names[0].Clients[3]; c.Failure != "no_shared_version" || c.Reason == "" || c.Resumes != nil || c.Retried != nil || c.FitsWindow != nil || c.FirstFlight != nil {
		t.Errorf("a client that does not: %+v", c)
	}
	if n := got.TLS[2].NamesLeftOff; n != 20 {
		t.Errorf("%d names left off, want 20 of 52", n)
	}
	f := func(yaml, want string) {
		t.Helper()
		_, out, _ := try("check", "-c", write(t, "gate.yaml", yaml), "--format", "json")
		var keys map[string]json.RawMessage
		if err := json.Unmarshal([]byte(out), &keys); err != nil {
			t.Fatal(err)
		}
		if got := string(keys["tls"]); got != want {
			t.Errorf("key tls is %q, want %q", got, want)
		}
	}
	f(goodConfig, "[]")
	f("listeners: 1\n", "")
}

// A name by which no client gets a connection is warned about, where the listener stands.
func TestCheckWarnsOfUnreachableNames(t *testing.T) {
	dir := t.TempDir()
	rsa, ed := pair(t, dir, "rsa", selfsigned.RSA, "a.example", "b.example", "c.example"), pair(t, dir, "ed", selfsigned.Ed25519, "ed.example")
	path := filepath.Join(dir, "gate.yaml")
	text := `routes: [{static_response: {}}]
listeners:
- {listen: "127.0.0.1:22001", tls: {certificates: [` + rsa + "," + ed + `], policies: [{names: [b.example], groups: [SecP384r1MLKEM1024]}]}}
- {listen: "127.0.0.1:22002", tls: {unknown_name: reject, certificates: [` + rsa + `]}}
- {listen: "127.0.0.1:22003", tls: {certificates: [` + ed + `]}}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := try("check", "-c", path, "--format", "json")
	var got config.Summary
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || !got.Valid {
		t.Fatalf("exit code %d, error %v:\n%s", code, err, out)
	}
	var warned []string
	for _, p := range got.Problems {
		if strings.Contains(p.Message, "gets a connection") {
			warned = append(warned, fmt.Sprintf("%d %s: %s", p.Line, p.Path, p.Message))
		}
	}
	want := []string{
		"3 listeners[0].tls: no client, whatever its kind, gets a connection by asking for b.example: " +
			"the client offers the groups X25519MLKEM768, X25519, P-256, P-384, the listener SecP384r1MLKEM1024",
		"3 listeners[0].tls: no client, whatever its kind, gets a connection by asking for ed.example: the certificate has a key of Ed25519, which the client cannot verify",
		"5 listeners[2].tls: no client, whatever its kind, gets a connection by asking for ed.example, any other name: the certificate has a key of Ed25519, which the client cannot verify",
	}
	if !slices.Equal(warned, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(warned, "\n"), strings.Join(want, "\n"))
	}
	if n := len(got.Problems); got.Warnings != n {
		t.Errorf("%d warnings counted of %d", got.Warnings, n)
	}
}

// A listener whose files change under the check is told about, and the others are tried.
func TestCheckTLSFails(t *testing.T) {
	dir, path := tlsConfig(t)
	cfg, report := config.Load(path)
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "many.key")); err != nil {
		t.Fatal(err)
	}
	all := simulateTLS(cfg)
	if len(all) != 3 || len(all[0].Names) == 0 || !strings.Contains(all[2].Error, "many.key") {
		t.Errorf("got %+v", all)
	}
	var out strings.Builder
	if err := writeTLS(&out, all); err != nil || !strings.Contains(out.String(), "cannot be tried") {
		t.Errorf("error %v, text:\n%s", err, out.String())
	}
}
