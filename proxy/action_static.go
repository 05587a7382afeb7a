package proxy

import (
	"tickgate/config"
	"tickgate/internal/reason"
)

// staticAction answers from the configuration.
type staticAction struct {
	status      int
	contentType string
	body        *template
}

func compileStatic(_ *builder, r *config.Route, rt *route) (action, error) {
	s := r.StaticResponse
	body, err := compileTemplate(s.Body, rt.pathRegex)
	if err != nil {
		return nil, err
	}
	return &staticAction{status: s.Status, contentType: s.ContentType, body: body}, nil
}

func (a *staticAction) kind() string { return "static_response" }

func (a *staticAction) serve(x *Exchange) {
	body := a.body.append(x.scratch[:0], x)
	x.scratch = body
	x.reply(a.status, a.contentType, nil, body)
	x.ended = reason.LocalResponse
}
