package config

import (
	"fmt"
	"strconv"
)

// wantListen says what the address of a listener looks like.
const wantListen = `host:port such as ":443" or "127.0.0.1:8080", or "unix:/path"`

// wantPeers says what an entry of a list of peers looks like.
const wantPeers = `an address, a CIDR such as 10.0.0.0/8, or "unix"`

// listeners judges the addresses that clients connect to.
func (v *validator) listeners() {
	if len(v.cfg.Listeners) == 0 && !v.isBroken("listeners") {
		v.fail("listeners", "at least one listener is needed")
	}
	bound := make([]boundAddress, len(v.cfg.Listeners))
	valid := make([]bool, len(v.cfg.Listeners))
	for i := range v.cfg.Listeners {
		l := &v.cfg.Listeners[i]
		path := fmt.Sprintf("listeners[%d]", i)
		if v.isBroken(path) || l.Listen == "" {
			continue
		}
		a, why := parseListen(l.Listen)
		if why != "" {
			v.wrong(path+".listen", l.Listen, wantListen+" ("+why+")")
			continue
		}
		bound[i], valid[i] = a, true
		for j := range i {
			if valid[j] && a.collides(bound[j]) {
				v.fail(path+".listen", "%q takes the same address as listeners[%d] (%q)", l.Listen, j, v.cfg.Listeners[j].Listen)
				break
			}
		}
		v.listener(path, l, a)
	}
	v.adminCollision(bound, valid)
}

// listener judges one listener whose address is sound.
func (v *validator) listener(path string, l *Listener, a boundAddress) {
	switch {
	case a.port == 80 && l.TLS != nil:
		v.warn(path+".tls", "TLS on port 80, where clients speak plain HTTP")
	case a.port == 443 && l.TLS == nil && !v.isBroken(path+".tls"):
		v.warn(path+".listen", "plain HTTP on port 443, where clients speak TLS")
	}
	if a.unix != "" {
		if l.Acceptors > 1 {
			v.warn(path+".acceptors", "has no effect: a Unix socket has one acceptor")
		}
		if mode, err := strconv.ParseUint(l.SocketMode, 8, 32); err != nil || mode > 0o777 {
			v.wrong(path+".socket_mode", l.SocketMode, "octal permissions such as 0660")
		}
	} else if v.isSet(path + ".socket_mode") {
		v.warn(path+".socket_mode", "has no effect: this is not a Unix socket")
	}
	if con := v.cfg.Connections.Max; con > 0 && l.MaxConnections > con {
		v.warn(path+".max_connections", "has no effect above connections.max (%d)", con)
	}
	if l.TLS != nil {
		v.listenerTLS(path+".tls", l.TLS)
	}
	if l.ProxyProtocol != nil {
		v.proxyProtocol(path+".proxy_protocol", l, a)
	}
}

// proxyProtocol judges whose PROXY headers a listener believes.
func (v *validator) proxyProtocol(path string, l *Listener, a boundAddress) {
	o := l.ProxyProtocol
	v.peers(path+".from", o.From)
	for i, text := range o.From {
		at := fmt.Sprintf("%s.from[%d]", path, i)
		switch {
		case text == "unix" && a.unix == "":
			v.warn(at, "has no effect: this is not a Unix socket")
		case text != "unix" && a.unix != "":
			v.warn(at, "has no effect: the peers of a Unix socket are \"unix\"")
		}
	}
	name, limit := "head", v.cfg.Timeouts.Head
	if l.TLS != nil {
		name, limit = "handshake", v.cfg.Timeouts.Handshake
	}
	if v.isSet(path+".timeout") && o.Timeout > limit {
		v.warn(path+".timeout", "has no effect above timeouts.%s (%s)", name, durationText(limit))
	}
}

// admin judges the admin endpoint.
func (v *validator) admin() {
	adm := v.cfg.Admin
	if adm.Listen == "off" {
		return
	}
	a, why := parseListen(adm.Listen)
	if why != "" {
		v.wrong("admin.listen", adm.Listen, wantListen+`, or "off" (`+why+")")
		return
	}
	reachable := a.unix == "" && !a.host.IsLoopback()
	if reachable && adm.Token == "" && !v.isBroken("admin.token") {
		v.warn("admin.listen", "the admin endpoint can be reached from other machines without a token (set admin.token)")
	}
}

func (v *validator) adminCollision(bound []boundAddress, valid []bool) {
	a, why := parseListen(v.cfg.Admin.Listen)
	if why != "" { // "off", or reported by admin
		return
	}
	for i := range bound {
		if valid[i] && a.collides(bound[i]) {
			v.fail(fmt.Sprintf("listeners[%d].listen", i), "%q takes the address of the admin endpoint (admin.listen is %q)",
				v.cfg.Listeners[i].Listen, v.cfg.Admin.Listen)
		}
	}
}
