package h1

import (
	"crypto/sha1"
	"encoding/base64"

	"tickgate/internal/reason"
)

// settleWebSocket checks the handshake of RFC 6455 section 4.2.1.
func (h *RequestHead) settleWebSocket() reason.Reason {
	if !h.Has(SecWebSocketVersion) || h.Repeated(SecWebSocketVersion) {
		return reason.BadUpgrade
	}
	if string(h.Get(SecWebSocketVersion)) != "13" {
		h.UpgradeRequired = true
		return reason.BadUpgrade
	}
	if h.Repeated(SecWebSocketKey) || !validKey(h.Get(SecWebSocketKey)) {
		return reason.BadUpgrade
	}
	if h.Has(SecWebSocketProtocol) && !h.validProtocols() {
		return reason.BadUpgrade
	}
	h.WebSocket = true
	return reason.OK
}

// validKey reports whether key is the base64 of 16 bytes.
func validKey(key []byte) bool {
	return len(key) == 24 && key[22] == '=' && key[23] == '=' && all(key[:22], classBase64)
}

// validProtocols demands tokens in every Sec-WebSocket-Protocol field. An empty field, though
// it could be ignored, makes some backends select a protocol that the client never offered.
func (h *RequestHead) validProtocols() bool {
	for i := range h.Fields {
		if h.Fields[i].ID != SecWebSocketProtocol {
			continue
		}
		value := h.Value(i)
		if len(value) == 0 || value[len(value)-1] == ',' {
			return false
		}
		for item, rest, ok := nextItem(value); ok; item, rest, ok = nextItem(rest) {
			if !isToken(item) {
				return false
			}
		}
	}
	return true
}

// WebSocketAccept returns the Sec-WebSocket-Accept value that answers a Sec-WebSocket-Key (RFC
// 6455 section 4.2.2).
func WebSocketAccept(key []byte) (accept [28]byte) {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	var buf [64]byte
	sum := sha1.Sum(append(append(buf[:0], key...), guid...))
	base64.StdEncoding.Encode(accept[:], sum[:])
	return accept
}
