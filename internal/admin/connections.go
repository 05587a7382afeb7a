package admin

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"tickgate/internal/meter"
	"tickgate/internal/unit"
)

// How many connections one answer lists.
const (
	defaultLimit = 100
	maxLimit     = 10_000
)

// connParameter is a parameter of the list of connections. set puts its value, which is not
// empty, into the filter.
type connParameter struct {
	name string
	help string // what the index shows after the equals sign
	set  func(f *ConnFilter, value string) error
}

// connParameters is what /api/v1/connections understands, in the order of the index.
var connParameters = []connParameter{
	{"id", "", func(f *ConnFilter, v string) (err error) { f.ID, err = parseID("id: ", v); return err }},
	{"listener", "", func(f *ConnFilter, v string) error { f.Listener = v; return nil }},
	{"state", "", func(f *ConnFilter, v string) (err error) { f.State, err = parseState(v); return err }},
	{"route", "", func(f *ConnFilter, v string) error { f.Route = v; return nil }},
	{"peer", "ADDR[/BITS]", func(f *ConnFilter, v string) (err error) { f.Peer, err = parsePeer(v); return err }},
	{"min_age", "30s", func(f *ConnFilter, v string) (err error) { f.MinAge, err = parseDuration("min_age", v); return err }},
	{"max_age", "1h", func(f *ConnFilter, v string) (err error) { f.MaxAge, err = parsePositive("max_age", v); return err }},
	{"min_queued", "64KiB", func(f *ConnFilter, v string) (err error) { f.MinQueued, err = parseQueued(v); return err }},
	{"sort", "age|queued|rtt", func(f *ConnFilter, v string) (err error) { f.Sort, err = parseOrder(v); return err }},
	{"limit", "", func(f *ConnFilter, v string) (err error) { f.Limit, err = parseLimit(v); return err }},
}

// connectionsHelp is the line of the index.
func connectionsHelp() string {
	var b strings.Builder
	b.WriteString("client connections that meet all of:")
	mark := "?"
	for _, p := range connParameters {
		b.WriteString(" " + mark + p.name + "=" + p.help)
		mark = "&"
	}
	return b.String()
}

func (s *Server) serveConnections(rc *fasthttp.RequestCtx) {
	filter, err := parseConnFilter(rc.QueryArgs())
	if err != nil {
		writeError(rc, fasthttp.StatusBadRequest, err.Error())
		return
	}
	writeJSON(rc, fasthttp.StatusOK, s.gateway.Connections(filter))
}

func (s *Server) serveConnection(rc *fasthttp.RequestCtx) {
	id, err := connectionID(rc)
	if err != nil {
		writeError(rc, fasthttp.StatusBadRequest, err.Error())
		return
	}
	s.answerConnection(rc, fasthttp.StatusOK, func() (any, error) { return s.gateway.Connection(id) })
}

// serveClose answers with 202: a connection that is closed in order ends a little later.
func (s *Server) serveClose(rc *fasthttp.RequestCtx) {
	id, err := connectionID(rc)
	reset := false
	for key, value := range rc.QueryArgs().All() {
		if err != nil {
			break
		}
		if string(key) != "reset" {
			err = unknownParameter(key, "reset")
			continue
		}
		reset, err = parseSwitch("reset", string(value))
	}
	if err != nil {
		writeError(rc, fasthttp.StatusBadRequest, err.Error())
		return
	}
	s.answerConnection(rc, fasthttp.StatusAccepted, func() (any, error) { return s.gateway.CloseConnection(id, reset) })
}

func (s *Server) answerConnection(rc *fasthttp.RequestCtx, status int, ask func() (any, error)) {
	conn, err := ask()
	if err != nil {
		writeFailure(rc, err)
		return
	}
	writeJSON(rc, status, conn)
}

// connectionID returns the id in the path.
func connectionID(rc *fasthttp.RequestCtx) (uint64, error) {
	text, err := pathParam(rc, "id")
	if err != nil {
		return 0, err
	}
	return parseID("connection ", text)
}

func parseConnFilter(args *fasthttp.Args) (ConnFilter, error) {
	filter := ConnFilter{Limit: defaultLimit}
	for key, value := range args.All() {
		if err := filter.set(string(key), string(value)); err != nil {
			return ConnFilter{}, err
		}
	}
	if filter.MaxAge > 0 && filter.MinAge > filter.MaxAge {
		return ConnFilter{}, fmt.Errorf("min_age: %q (want at most max_age, which is %s)", filter.MinAge, filter.MaxAge)
	}
	return filter, nil
}

// set puts one parameter into the filter; an empty value is as none.
func (f *ConnFilter) set(name, value string) error {
	names := make([]string, len(connParameters))
	for i, p := range connParameters {
		names[i] = p.name
		if p.name != name {
			continue
		}
		if value == "" {
			return nil
		}
		return p.set(f, value)
	}
	return unknownParameter([]byte(name), names...)
}

// unknownParameter is the error about a parameter that is none of those wanted.
func unknownParameter(key []byte, want ...string) error {
	list := want[0]
	if last := len(want) - 1; last > 0 {
		list = strings.Join(want[:last], ", ") + " or " + want[last]
	}
	return fmt.Errorf("unknown parameter %q (want %s)", key, list)
}

// parseID reads the id of a connection. The text before it is for the error.
func parseID(what, value string) (uint64, error) {
	id, err := strconv.ParseUint(value, 10, 64)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("%s%q (want the id of a connection, a number from 1)", what, value)
	}
	return id, nil
}

func parseState(value string) (string, error) {
	states := meter.ConnStates()
	words := make([]string, len(states))
	for i, s := range states {
		words[i] = s.String()
		if words[i] == value {
			return value, nil
		}
	}
	last := len(words) - 1
	return "", fmt.Errorf("state: %q (want %s or %s)", value, strings.Join(words[:last], ", "), words[last])
}

func parseOrder(value string) (ConnOrder, error) {
	for o := range numConnOrders {
		if o.String() == value {
			return o, nil
		}
	}
	return 0, fmt.Errorf("sort: %q (want age, queued or rtt)", value)
}

func parseLimit(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxLimit {
		return 0, fmt.Errorf("limit: %q (want a number from 1 to %d)", value, maxLimit)
	}
	return n, nil
}

// parseDuration reads a duration of 0 or more.
func parseDuration(name, value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s: %q (want a duration with a unit, such as 500ms, 30s or 1h)", name, value)
	}
	return d, nil
}

// parsePositive reads a duration above 0, where 0 means that there is none.
func parsePositive(name, value string) (time.Duration, error) {
	d, err := parseDuration(name, value)
	if err == nil && d == 0 {
		err = fmt.Errorf("%s: %q (want a duration above 0)", name, value)
	}
	return d, err
}

// parseQueued reads a size; without a unit it is bytes, as everywhere in a query.
func parseQueued(value string) (unit.Size, error) {
	n, err := unit.ParseSize(value)
	if err != nil {
		return 0, fmt.Errorf("min_queued: %q (want bytes, or a size such as 64KiB)", value)
	}
	return n, nil
}

func parseSwitch(name, value string) (bool, error) {
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s: %q (want true or false)", name, value)
	}
	return on, nil
}

// parsePeer reads an address or a CIDR block; an address is a block of one.
func parsePeer(value string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(value); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	block, err := netip.ParsePrefix(value)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("peer: %q (want an address or a block such as 10.0.0.0/8)", value)
	}
	return block.Masked(), nil
}
