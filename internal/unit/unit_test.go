package unit

import "testing"

func TestParseSize(t *testing.T) {
	f := func(text string, want Size) {
		t.Helper()
		if got, err := ParseSize(text); got != want || err != nil {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	f("0", 0)
	f("512", 512)
	f("512B", 512)
	f("64KiB", 64<<10)
	f("64 KiB", 64<<10)
	f("2MB", 2e6)
	f("1GiB", 1<<30)
	f("8k", 8<<10)
	f("10m", 10<<20)
}

func TestParseSizeFails(t *testing.T) {
	f := func(text string) {
		t.Helper()
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
	f("")
	f("KiB")
	f("-1")
	f("1.5MB")
	f("10 apples")
	f("9999999999TiB")
}

func TestSizeString(t *testing.T) {
	f := func(s Size, want string) {
		t.Helper()
		if got := s.String(); got != want {
			t.Errorf("%d: %q, want %q", int64(s), got, want)
		}
		if back, err := ParseSize(want); back != s || err != nil {
			t.Errorf("%q does not read back: %d, %v", want, back, err)
		}
	}
	f(0, "0B")
	f(1000, "1000B")
	f(64<<10, "64KiB")
	f(1<<30, "1GiB")
	f(3<<40, "3TiB")
}
