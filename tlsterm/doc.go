// Package tlsterm terminates TLS: the certificate store (choice by SNI), the
// tls.Config of a listener, and the typed reasons for which a handshake fails.
// It is a leaf: it imports no sibling and no fasthttp.
package tlsterm
