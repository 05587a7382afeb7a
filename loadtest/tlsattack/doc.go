// Package tlsattack is clients that mean a TLS server harm: they take connections, memory, workers or processor
// time and give little for it. It says what became of each connection; whether the server bears it, others have to
// tell that use it meanwhile (packages httpload and tlsload).
//
// # Kinds
//
//	silent   connects and says nothing
//	dribble  sends a ClientHello byte by byte, with a pause before each
//	stall    sends a whole ClientHello, and then nothing: the server has done its share of the work, and waits
//	mutate   sends ClientHellos with errors in them (package hello), each followed by FIN
//	flood    sends ClientHellos at a rate and hangs up once it is answered
//
// The first three keep a number of connections open, and open another for each that the server ends. A mutant is made
// of the seed and its number, so that one can be sent again.
//
// # What a flood costs here
//
// A client that means to finish its handshake makes a key and verifies a signature, which is about what the
// server pays: a tool that did so on the same machine could not ask for ten times what the server can do. A flood does
// neither. It copies one ClientHello with another random and another X25519 key, which nobody knows the private
// half of, and looks for the answer some milliseconds later, by one system call and without an event loop: some 30 µs for
// each connection, all told. It hangs up with RST, so that the ports are free again at once.
package tlsattack
