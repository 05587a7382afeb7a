// Package tlsterm terminates TLS: the certificate store (choice by SNI), the
// tls.Config of a listener, and the typed reasons for which a handshake fails.
// It is a leaf: it imports no sibling and no fasthttp.
//
// # Choice of a certificate
//
// By server name, in any case: exact, then a wildcard of one label, then the default,
// which is the first certificate (with unknown_name: reject, only for a client that
// sends no name). Several certificates for one name are chosen by what the client can
// verify: ECDSA, then Ed25519, then RSA; file order among equals.
//
// # What crypto/tls chooses
//
// Beyond the versions, nothing is configured here, and what Go chooses is followed
// on purpose, as it moves with every release. In Go 1.26 a server:
//
//   - picks the highest version both sides speak;
//   - in TLS 1.3, picks AES-GCM when this machine has AES instructions and the client puts it first, and
//     ChaCha20-Poly1305 otherwise. Suites of TLS 1.3 cannot be configured;
//   - in TLS 1.2, offers only ECDHE suites with an AEAD (AES-GCM, ChaCha20-Poly1305), and those with AES-CBC and
//     SHA-1 behind them for old clients; no RSA key exchange, no 3DES, no RC4;
//   - exchanges keys by X25519MLKEM768 (post-quantum, also SecP256r1MLKEM768 and SecP384r1MLKEM1024), X25519,
//     P-256, P-384 and P-521;
//   - never renegotiates, compresses, or takes early data (0-RTT) from a client of a
//     TCP connection, so nothing is replayed;
//   - refuses a client that offers application protocols (ALPN) without http/1.1.
//
// # Sessions
//
// Clients resume by tickets (TLS 1.2 and 1.3). A ticket is the name of a key (16 bytes), then the session as crypto/tls seals
// it, with a sum of the TLS options it was negotiated under; it opens only under the same ones. Handshakes find the keys in one
// immutable ticketSet behind an atomic pointer. Keys come from memory, from files or from a KeySource such as Redis, which
// one goroutine of Tickets looks at: no handshake waits for it, and what cannot be read leaves the last keys in place.
//
// # Handshakes
//
// The package does not run them: a caller does, with tls.Server(conn, store.Config()) and a
// deadline of its own, and asks FailureReason about the error. Bounding how many run at once
// belongs here, too, around that call.
package tlsterm
