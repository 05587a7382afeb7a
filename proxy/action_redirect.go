package proxy

import (
	"tickgate/config"
	"tickgate/internal/reason"
)

// redirectAction answers with a Location.
type redirectAction struct {
	status   int
	location *template
}

func compileRedirect(_ *builder, r *config.Route, rt *route) (action, error) {
	loc, err := compileTemplate(r.Redirect.Location, rt.pathRegex)
	if err != nil {
		return nil, err
	}
	return &redirectAction{status: r.Redirect.Status, location: loc}, nil
}

func (a *redirectAction) kind() string { return "redirect" }

func (a *redirectAction) serve(x *Exchange) {
	loc := append(x.scratch[:0], "Location: "...)
	loc = a.location.append(loc, x)
	loc = append(loc, "\r\n"...)
	x.scratch = loc
	x.reply(a.status, "", loc, nil)
	x.ended = reason.LocalResponse
}
