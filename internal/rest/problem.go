package rest

import (
	"encoding/json"

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
	_ = c.Blob(p.Code.HTTPStatus(), problem.MediaType, body) // an error means that the caller has hung up
}
