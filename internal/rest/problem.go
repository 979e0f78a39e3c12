package rest

import (
	"encoding/json"
	"mime"
	"net/http"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func writeProblem(c echo.Context, p *problem.Problem) {
	if wait, ok := p.Wait(); ok && p.Code.Retry() == problem.After {
		c.Response().Header().Set(echo.HeaderRetryAfter, exchange.FormatRetryAfter(wait))
	}
	body, err := json.Marshal(p)
	if err != nil { // a problem holds strings and numbers only
		panic(err)
	}
	_ = c.Blob(p.Code.HTTPStatus(), problem.MediaType, body) // the caller has gone
}

// ReadProblem reads the problem in a response that is no success. It is
// tolerant: a body that is no problem of ours, such as a proxy's page, is read
// by the status alone ([problem.Foreign]).
func ReadProblem(status int, header http.Header, body []byte) *problem.Problem {
	p := new(problem.Problem)
	media, _, err := mime.ParseMediaType(header.Get(echo.HeaderContentType))
	if err != nil || media != problem.MediaType || json.Unmarshal(body, p) != nil {
		p = problem.Foreign(status)
	}
	p.RetryAfter = exchange.ParseRetryAfter(header.Get(echo.HeaderRetryAfter))
	return p
}
