package restclient

import (
	"context"
	stdjson "encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/go-json-experiment/json"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// Answer is a response whose body has been read.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

func readAnswer(ctx context.Context, response *http.Response) (Answer, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxAnswer+1))
	if err != nil {
		return Answer{}, fault(ctx, err)
	}
	return Answer{response.StatusCode, response.Header, body}, nil
}

// Decode decodes the body of a 200 into a value. For any other answer it returns the
// answer's problem, or an error that wraps [ErrUnexplained].
func (a Answer) Decode(into any) error {
	if len(a.Body) > MaxAnswer || a.Status != http.StatusOK {
		return a.failure()
	}
	if err := json.Unmarshal(a.Body, into); err != nil {
		return fmt.Errorf("%w: %w", ErrUnexplained, err)
	}
	return nil
}

// failure returns the error of an answer that is not a success.
func (a Answer) failure() error {
	switch {
	case len(a.Body) > MaxAnswer:
		return ErrTooLarge
	case a.Status < 400:
		return fmt.Errorf("%w: it has the status %d", ErrUnexplained, a.Status)
	}
	return a.Problem()
}

// Problem reads the problem in an answer that is not a success. If the body is not a
// problem, for example a proxy's page, only the status counts ([problem.Foreign]).
func (a Answer) Problem() *problem.Problem {
	p := new(problem.Problem)
	media, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil || media != problem.MediaType || stdjson.Unmarshal(a.Body, p) != nil {
		p = problem.Foreign(a.Status)
	}
	p.RetryAfter = exchange.ParseRetryAfter(a.Header.Get(exchange.RetryAfterHeader))
	return p
}
