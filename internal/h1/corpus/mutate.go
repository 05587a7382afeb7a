package corpus

import (
	"math/rand/v2"
	"strings"
)

// splices are fragments that have told parsers apart.
var splices = []string{
	"\r", "\n", "\r\n", "\n\n", "\r\n\r\n", "\x00", "\x0b", "\x0c", "\x7f", "\x80", "\xa0", "\xff", " ", "\t", ":", ";", ",", "%", "%00", "%0d%0a",
	"#", "?", "@", "\\", "\"", "0", "9", "f", "-", "+", "_", "0x", "chunked", ", chunked", "identity", "\r\n ", "\r\n\t",
	"Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n", "Content-Length: 7\r\n", "Host: b.example\r\n",
	"Connection: close\r\n", "Connection: Content-Length\r\n", "Transfer-Encoding : chunked\r\n", "Content_Length: 1\r\n", "Content.Length: 1\r\n",
	"Expect: 100-continue\r\n", "Upgrade: websocket\r\n", "HTTP/1.0", "HTTP/2.0", "0\r\n\r\n", "1\r\nx\r\n",
	"GET /smuggled HTTP/1.1\r\nHost: b.example\r\n\r\n",
}

// Mutate returns raw with one to four changes drawn from rng: bytes flipped, inserted or removed, fragments
// spliced in, lines repeated, moved, cut or joined. The same rng state gives the same result, which may be sound.
func Mutate(rng *rand.Rand, raw string) string {
	for n := 1 + rng.IntN(4); n > 0; n-- {
		raw = mutateOnce(rng, raw)
	}
	return raw
}

func mutateOnce(rng *rand.Rand, raw string) string {
	i, j := rng.IntN(len(raw)+1), rng.IntN(len(raw)+1)
	i, j = min(i, j), max(i, j)
	splice := splices[rng.IntN(len(splices))]
	switch rng.IntN(10) {
	case 0: // any byte in
		return raw[:i] + string([]byte{byte(rng.IntN(256))}) + raw[i:]
	case 1: // a fragment in
		return raw[:i] + splice + raw[i:]
	case 2: // a fragment in place of a byte
		return raw[:i] + splice + raw[min(i+1, len(raw)):]
	case 3: // a few bytes out
		return raw[:i] + raw[min(i+1+rng.IntN(4), len(raw)):]
	case 4: // a few bytes twice
		end := min(i+1+rng.IntN(16), len(raw))
		return raw[:end] + raw[i:end] + raw[end:]
	case 5: // a bit flipped
		if i == len(raw) {
			return raw
		}
		return raw[:i] + string([]byte{raw[i] ^ 1<<rng.IntN(8)}) + raw[i+1:]
	case 6: // an end of line changed
		return replaceNth(rng, raw, "\r\n", []string{"\n", "\r", "\r\r\n", " \r\n", "\r\n ", "\r\n\r\n", ""})
	case 7: // a colon changed
		return replaceNth(rng, raw, ":", []string{" :", "", "::", ":\t", "\x00:", ": ,"})
	case 8: // a line twice, or a fragment as a line
		lines := strings.SplitAfter(raw, "\r\n")
		k := rng.IntN(len(lines))
		if rng.IntN(2) == 0 {
			splice = lines[rng.IntN(len(lines))]
		}
		lines[k] += splice
		return strings.Join(lines, "")
	default: // two parts swapped
		k := min(j+1+rng.IntN(32), len(raw))
		return raw[:i] + raw[j:k] + raw[i:j] + raw[k:]
	}
}

// replaceNth replaces one occurrence of old by one of the choices.
func replaceNth(rng *rand.Rand, raw, old string, choices []string) string {
	n := strings.Count(raw, old)
	if n == 0 {
		return raw
	}
	at := 0
	for k := rng.IntN(n); k > 0; k-- {
		at += strings.Index(raw[at:], old) + len(old)
	}
	at += strings.Index(raw[at:], old)
	return raw[:at] + choices[rng.IntN(len(choices))] + raw[at+len(old):]
}
