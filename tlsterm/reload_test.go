package tlsterm

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"testing"
	"weak"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
)

// A reload that finds nothing changed returns the store it was given; any other one does
// not, and shares the certificates that did not change.
func TestLoadAgain(t *testing.T) {
	first, second := files(t, selfsigned.ECDSA, "a.example"), files(t, selfsigned.ECDSA, "b.example")
	second.Names = []string{"b.example", "*.b.example"}
	options := func(change func(o *Options)) *Options {
		o := &Options{Certificates: []Certificate{first, second}}
		for i := range o.Certificates {
			o.Certificates[i].Names = slices.Clone(o.Certificates[i].Names)
		}
		if change != nil {
			change(o)
		}
		return o
	}
	rewrite := func(file string, edit func(text []byte) []byte) {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, edit(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	same := func(text []byte) []byte { return bytes.Clone(text) }
	comment := func(text []byte) []byte { return append(bytes.Clone(text), "# renewed\n"...) }

	s := mustLoad(t, options(nil), nil)
	f := func(what string, o *Options, wantSame bool, wantShared ...bool) {
		t.Helper()
		got := mustLoad(t, o, s)
		if (got == s) != wantSame {
			t.Errorf("%s: the same store is %t, want %t", what, got == s, wantSame)
		}
		if (got.Config() == s.Config()) != wantSame {
			t.Errorf("%s: the same configuration is %t, want %t", what, got.Config() == s.Config(), wantSame)
		}
		for i, want := range wantShared {
			if (got.content.Load().loaded[i] == s.content.Load().loaded[i]) != want {
				t.Errorf("%s: certificate %d is shared is %t, want %t", what, i, !want, want)
			}
		}
		s = got
	}
	for range 3 {
		f("nothing changed", options(nil), true)
	}
	rewrite(first.CertFile, same)
	rewrite(first.KeyFile, same)
	f("files written again", options(nil), true)
	rewrite(first.CertFile, comment)
	f("another certificate file", options(nil), false, false, true)
	f("and again", options(nil), true)
	rewrite(second.KeyFile, comment)
	f("another key file", options(nil), false, true, false)
	testcert.SelfSigned(t, selfsigned.ECDSA, "a.example").Write(t, first.CertFile, first.KeyFile)
	f("a renewed certificate", options(nil), false, false, true)
	f("other names", options(func(o *Options) { o.Certificates[1].Names[1] = "c.example" }), false, true, false)
	f("names in the options only", options(func(o *Options) { o.Certificates[0].Names = []string{"a.example"} }), false, false, false)
	f("back", options(nil), false, false, true)
	f("another version", options(func(o *Options) { o.MinVersion = "1.3" }), false, true, true)
	f("back", options(nil), false, true, true)
	f("refusal of unknown names", options(func(o *Options) { o.UnknownName = "reject" }), false, true, true)
	f("another order", options(func(o *Options) { slices.Reverse(o.Certificates) }), false)
	f("back", options(nil), false)
	f("one less", options(func(o *Options) { o.Certificates = o.Certificates[:1] }), false, true)
	twice := options(func(o *Options) { o.Certificates = append(o.Certificates, o.Certificates[0]) })
	f("one twice", twice, false)
	f("one twice again", twice, true)

	// What was shared is described anew: which one is the default depends on the store.
	f("back", options(nil), false)
	f("another order", options(func(o *Options) { slices.Reverse(o.Certificates) }), false)
	if a, b := s.Certificates()[1], s.Certificates()[0]; a.Default || !b.Default {
		t.Errorf("the default is %q: %t, %q: %t", a.Names, a.Default, b.Names, b.Default)
	}
}

// A bad reload says what is wrong, also of files that are not changed.
func TestLoadAgainFails(t *testing.T) {
	c := files(t, selfsigned.ECDSA, "a.example")
	o := &Options{Certificates: []Certificate{c}}
	s := mustLoad(t, o, nil)
	if err := os.Remove(c.KeyFile); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(o, s); err == nil || got != nil {
		t.Errorf("without its key file: %v, %v", got, err)
	}
}

// A tls.Config, which every open connection refers to, keeps the certificates and
// nothing else of its store.
func TestConfigKeepsLittle(t *testing.T) {
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "a.example")}}, nil)
	config, store, cert := s.Config(), weak.Make(s), weak.Make(s.content.Load().loaded[0])
	runtime.KeepAlive(s)
	s = nil
	runtime.GC()
	if store.Value() != nil {
		t.Error("the store is still there")
	}
	if cert.Value() != nil {
		t.Error("the description of a certificate is still there")
	}
	runtime.KeepAlive(config)
}
