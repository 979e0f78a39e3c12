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

// MaxBody is the most bytes a JSON body may have.
const MaxBody = 1 << 20

// Decode reads a request's JSON body into v, as strictly as package strictjson
// does. The content type must say JSON.
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

// NoBody refuses a body on an operation that takes none.
func NoBody(c echo.Context) error {
	body, err := readBody(c)
	if err != nil || len(body) == 0 {
		return err
	}
	var f problem.Fields
	f.Add("", "this operation takes no body")
	return f.Err()
}

// Media is the content type of a request, which must be one of those wanted, in
// UTF-8. No operation takes a compressed body.
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
		// Only here: net/http reads on for a body that has not ended before it sends
		// the response, and without a limit a sender that stalls would hold it forever.
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
	f.Add("", "can't be read; is its transfer coding right?")
	return nil, f.Err()
}
