package tlsterm

import "crypto/tls"

// ticketKeys holds the keys that session tickets are sealed with, apart from any
// tls.Config, so that stores of successive snapshots can share them. Cloning a
// tls.Config would not do: the clone's automatic keys go their own way from then on.
//
// The keys are those of crypto/tls: made at random, a new one each day, and each
// accepted for seven days. They never leave the process.
type ticketKeys struct {
	// keeper serves no connection; it makes and rotates the keys.
	keeper tls.Config
}

func (k *ticketKeys) wrap(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
	return k.keeper.EncryptTicket(cs, ss)
}

func (k *ticketKeys) unwrap(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
	return k.keeper.DecryptTicket(ticket, cs)
}
