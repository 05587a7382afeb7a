// Package tlsterm terminates TLS: the certificate store (choice by SNI), the
// tls.Config of a listener, and the typed reasons for which a handshake fails.
// It is a leaf: it imports no sibling and no fasthttp.
//
// # Choice of a certificate
//
// By server name, in any case: exact, then a wildcard of one label, then the default,
// which is the first certificate (with unknown_name: reject, only for a client that
// sends no name). Several certificates for one name are chosen by what the client can
// verify: ECDSA, then Ed25519, then RSA; file order among equals. Behind its own, an exact name has the certificates
// of the wildcard that covers it, for kinds of keys that it lacks: an RSA wildcard serves the clients that
// cannot verify the ECDSA certificate of one of its names.
//
// # Chains
//
// What is sent is the leaf, which is the certificate that the key belongs to, and then each issuer up to the root, whatever the order in
// its file (buildChain); what is missing comes from other files, what is not needed is left out. Everything that is wrong or unwise is
// a Finding; only a fatal one keeps a certificate from being used. Examine and Load find the same.
//
// # What is agreed on
//
// A listener has rules (versions, cipher suites of TLS 1.2, groups, ALPN, client certificates), from a preset and what is set
// beside it, and may have others for some names (Options.Policies). Each set of rules is one tls.Config, built at Load;
// GetConfigForClient only picks, and notes the server name (Facts). The rest is left to crypto/tls on purpose, as it moves with every release. In Go 1.26 a server:
//
//   - picks the highest version both sides speak;
//   - in TLS 1.3, picks AES-GCM when this machine has AES instructions and the client puts it first, and
//     ChaCha20-Poly1305 otherwise. Suites of TLS 1.3 cannot be configured;
//   - orders suites of TLS 1.2 and groups itself: post-quantum groups first, and among those that the client has sent a share for
//     rather than asking for another one. So a list of the options says what is allowed, not what is preferred;
//   - never renegotiates, compresses, or takes early data (0-RTT) from a client of a
//     TCP connection, so nothing is replayed;
//   - refuses a client that offers application protocols (ALPN) of which none is ours.
//
// # Files
//
// A Store looks at the stamps of its files every Options.Watch and reads them again when they have changed and settled. What
// handshakes look up (live) is replaced as a whole by one pointer; what cannot be read, or does not go together, leaves it alone. A tls.Config refers
// to that pointer and never to certificates, so that connections keep no old ones in memory.
//
// Certificates from elsewhere than files, as from an ACME issuer, have their place there: who obtains one makes a loadedCert of it and has Store.publish
// put it beside the others; the answer to a TLS-ALPN-01 challenge (RFC 8737) is a set of rules of its own, which live.configFor picks by the
// protocol that the client offers. Until then, any ACME client that writes files will do, as they are followed.
//
// # Sessions
//
// Clients resume by tickets (TLS 1.2 and 1.3). A ticket is the name of a key (16 bytes), then the session as crypto/tls seals
// it, with a sum of the TLS options it was negotiated under; it opens only under the same ones. Handshakes find the keys in one
// immutable ticketSet behind an atomic pointer. Keys come from memory, from files or from a KeySource such as Redis, which
// one goroutine of Tickets looks at: no handshake waits for it, and what cannot be read leaves the last keys in place.
//
// # Clients
//
// A policy may ask clients for certificates (ClientAuthOptions). crypto/tls verifies the chain; clientAuth.verify judges it again at the end of every
// handshake, resumed ones too, by the authorities and revocation lists of that moment, which are behind an atomic pointer. What was proved is an Identity; IdentityPatterns
// match it. Sessions remember which certificates they rest on, so that a revoked one costs a full handshake.
//
// # Revocation
//
// A Stapler keeps, for each certificate, the last good answer of an OCSP responder. It asks in the background, verifies what comes (readOCSP), and has
// the Store make live anew with copies of the certificates that hold the answers, so that handshakes find them there and know of nothing else. Staplers of a process share their requests (Inquiries). Files in
// which answers outlive the process are read and written beside that, by a goroutine of their own (keepAnswers). What is
// decided stands in stapling and ocspWait, which do nothing and are told the time.
//
// # Handshakes
//
// The package does not run them: a caller does, with tls.Server(conn, store.Config()) and a
// deadline of its own, and asks FailureReason about the error. Bounding how many run at once
// belongs here, too, around that call.
package tlsterm
