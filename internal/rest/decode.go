package rest

import (
	"context"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/problem"
	"roundtrip/internal/strictjson"
)

// MaxBody is the largest JSON body, in bytes.
const MaxBody = 1 << 20

// Decode reads a request's JSON body into v with package strictjson. The content
// type must be JSON.
func Decode[T any](c echo.Context, v *T) error {
	if _, err := Media(c, echo.MIMEApplicationJSON); err != nil {
		return err
	}
	body, err := readBody(c)
	if err != nil {
		return err
	}
	return strictjson.Unmarshal(body, v)
}

// NoBody returns an invalid problem if the request has a body.
func NoBody(c echo.Context) error {
	body, err := readBody(c)
	if err != nil || len(body) == 0 {
		return err
	}
	var f problem.Fields
	f.Add("", "this operation takes no body")
	return f.Err()
}

// Media returns the content type of a request. It must be one of those wanted, and
// its charset must be UTF-8. Compressed bodies are refused.
func Media(c echo.Context, wanted ...string) (string, error) {
	header := c.Request().Header
	media, parameters, err := mime.ParseMediaType(header.Get(echo.HeaderContentType))
	charset, hasCharset := parameters["charset"]
	encoding := header.Get(echo.HeaderContentEncoding)
	if err != nil || !slices.Contains(wanted, media) || hasCharset && !strings.EqualFold(charset, "utf-8") ||
		encoding != "" && encoding != "identity" {
		return "", problem.New(problem.UnsupportedMedia, "The body must be %s in UTF-8, not compressed.", strings.Join(wanted, " or "))
	}
	return media, nil
}

// readBody reads a body of at most MaxBody bytes by the request's deadline.
func readBody(c echo.Context) ([]byte, error) {
	ctx := c.Request().Context()
	control := http.NewResponseController(c.Response())
	deadline, ok := ctx.Deadline()
	limited := ok && control.SetReadDeadline(deadline) == nil
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, MaxBody))
	var tooLarge *http.MaxBytesError
	var network net.Error
	isNetwork := errors.As(err, &network)
	switch {
	case err == nil:
		// The limit is removed only here. If the body has not ended, net/http reads the
		// rest of it before it sends the response. Without a limit a sender that stalls
		// would block this forever.
		if limited {
			_ = control.SetReadDeadline(time.Time{})
		}
		return body, nil
	case errors.As(err, &tooLarge):
		return nil, problem.New(problem.TooLarge, "The body may have at most %d bytes.", MaxBody)
	case isNetwork && network.Timeout():
		return nil, problem.Wrap(err, problem.DeadlineExceeded, "The body did not arrive in time.")
	case isNetwork, errors.Is(err, io.ErrUnexpectedEOF), ctx.Err() != nil:
		return nil, errors.Join(context.Canceled, err)
	}
	var f problem.Fields
	f.Add("", "can't be read; check its transfer coding")
	return nil, f.Err()
}
