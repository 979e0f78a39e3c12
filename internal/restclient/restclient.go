// Package restclient is the calling half of HTTP. It makes single attempts of an
// exchange. It reads answers tolerantly, so that a responder may add fields before
// its callers know them. It links no server framework; package rest is the serving
// half.
//
// # Errors
//
// Every error that concerns the connection or the responder is a *problem.Problem.
// An attempt that could not connect is [exchange.Unreachable]. An answer whose
// status, size or body no rule explains is [ErrUnexplained].
package restclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// MaxAnswer is the largest answer, in bytes, that a [Client] reads.
const MaxAnswer = 4 << 20

var (
	// ErrUnexplained is wrapped by the error for an answer that no rule explains.
	ErrUnexplained = errors.New("no rule explains the answer")
	// ErrTooLarge is the [ErrUnexplained] for an answer of more than [MaxAnswer] bytes.
	ErrTooLarge = fmt.Errorf("%w: it has more than %d bytes", ErrUnexplained, MaxAnswer)
)

// Client sends requests to one service.
type Client struct {
	base string
	http *http.Client
}

// Options of a [Client]. The zero value has defaults.
type Options struct {
	// Connections is the largest number of idle connections to keep. Default:
	// net/http's.
	Connections int
	// Dial opens a connection. Default: net/http's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Proxy names the proxy for a request, as in [http.Transport]. Default: none.
	Proxy func(*http.Request) (*url.URL, error)
}

// New makes a Client for a service such as http://inventory:8080. It does not
// connect yet.
func New(base string, o Options) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the address must look like http://HOST:PORT, not %q", base)
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 30 * time.Second}).DialContext
	}
	return &Client{
		base: strings.TrimSuffix(base, "/"),
		http: &http.Client{
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := o.Dial(ctx, network, address)
					if err != nil {
						err = dialError{err}
					}
					return conn, err
				},
				Proxy: o.Proxy, MaxIdleConns: o.Connections, MaxIdleConnsPerHost: o.Connections, IdleConnTimeout: 30 * time.Second,
				MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// dialError marks an attempt that could not connect, so that no request was sent.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Exchange makes one attempt. It sends a request with a JSON body (without one if
// body is nil), and decodes the answer of a success into a value.
func (c *Client) Exchange(ctx context.Context, attempt int, method, path string, body, into any) error {
	answer, err := c.Send(ctx, attempt, method, path, body)
	if err != nil {
		return err
	}
	if err = answer.Decode(into); !exchange.Answered(err) {
		// Another server may have answered, for example while a cluster sets up the
		// route to the service. The next attempt opens a new connection.
		c.http.CloseIdleConnections()
	}
	return err
}

// Send makes one attempt and returns the answer, with any status. It reads at most
// [MaxAnswer]+1 bytes of the body.
//
// A PUT is sent once. net/http repeats a PUT only if a kept connection turned out to
// be closed before a byte of the PUT was written. The server then can't have acted
// on it. (net/http also repeats a GET if such a connection closes before the answer.
// That is harmless, because a GET changes nothing.)
func (c *Client) Send(ctx context.Context, attempt int, method, path string, body any) (Answer, error) {
	var content io.Reader
	var contentType string
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return Answer{}, fmt.Errorf("encode the request: %w", err)
		}
		content, contentType = bytes.NewReader(text), "application/json"
	}
	response, err := c.send(ctx, attempt, method, path, contentType, content)
	if err != nil {
		return Answer{}, err
	}
	return readAnswer(ctx, response)
}

// Upload sends a body of any size once. After a success it returns the body of the
// answer as a stream, which the caller closes.
func (c *Client) Upload(ctx context.Context, method, path, contentType string, body io.Reader) (io.ReadCloser, error) {
	response, err := c.send(ctx, 1, method, path, contentType, body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	answer, err := readAnswer(ctx, response)
	if err == nil {
		err = answer.failure()
	}
	return nil, err
}

// send sends a request with the headers that every exchange has.
func (c *Client) send(ctx context.Context, attempt int, method, path, contentType string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	request.Header.Set("Accept", "application/json, "+problem.MediaType)
	request.Header.Set(exchange.RequestIDHeader, exchange.RequestID(ctx))
	request.Header.Set(exchange.AttemptHeader, strconv.Itoa(attempt))
	if trace := exchange.Trace(ctx); trace != "" {
		request.Header.Set(exchange.TraceHeader, trace)
	}
	if left, ok := exchange.Remaining(ctx); ok {
		request.Header.Set(exchange.TimeoutHeader, exchange.FormatTimeout(left))
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fault(ctx, err)
	}
	return response, nil
}

// fault makes the problem of an attempt that did not get a complete answer.
func fault(ctx context.Context, err error) error {
	var dial dialError
	switch {
	case ctx.Err() != nil:
		return problem.Wrap(err, problem.DeadlineExceeded, "There was no answer in time.")
	case errors.As(err, &dial):
		return exchange.Unreachable(err)
	}
	return problem.Wrap(err, problem.Unavailable, "The connection failed.")
}
