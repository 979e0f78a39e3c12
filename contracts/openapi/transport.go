package openapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The content types that are not simply JSON.
const (
	mediaCSV     = "text/csv"
	mediaNDJSON  = "application/x-ndjson"
	mediaProblem = "application/problem+json"
)

// Transport sends requests through next and calls fail for whatever contradicts
// the document: a response whose status, headers, content type or body is not
// documented for the operation, and a request that was accepted (answered below
// 400) though its parameters or its body are not as documented. A path or method
// that is not in the document may only be refused.
//
// A response is complete when RoundTrip returns it, except for a stream (NDJSON),
// of which each line is validated as it is read, and its end when that is
// reached. A stream that is sent, such as an import, is not validated: its rows
// are judged one by one, and a bad row in an accepted request is no contradiction.
//
// fail may be called from any goroutine that reads a response.
func (d *Document) Transport(next http.RoundTripper, fail func(error)) http.RoundTripper {
	return &transport{d, next, fail}
}

type transport struct {
	document *Document
	next     http.RoundTripper
	fail     func(error)
}

// RoundTrip sends the request as it is.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	route, parameters, err := t.document.router.FindRoute(r)
	// The router takes /v1/reservations for /v1/reservations/{id} with an empty id,
	// where the one has not got the method that the other has; and /v1/stock/ for
	// /v1/stock.
	if err != nil || slices.Contains(slices.Collect(maps.Values(parameters)), "") || strings.HasSuffix(r.URL.Path, "/") {
		route = t.document.nowhere
	}
	report := func(what string, err error) {
		t.fail(fmt.Errorf("%s (%s %s): %s: %w", route.Operation.OperationID, r.Method, r.URL.Path, what, err))
	}

	out, sent := r, new(recording)
	if r.Body != nil && r.Body != http.NoBody && !sendsStream(route.Operation) {
		out = sent.watch(r)
	}
	response, err := t.next.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	if err := t.document.checkResponse(route, r, response, report); err != nil {
		report(fmt.Sprintf("response %d", response.StatusCode), err)
	}
	if response.StatusCode < 400 && route != t.document.nowhere {
		if err := t.document.checkRequest(route, parameters, r, sent.bytes()); err != nil {
			report(fmt.Sprintf("the request was answered %d", response.StatusCode), err)
		}
	}
	return response, nil
}

// checkResponse compares a response with what the route documents, and leaves
// it to be read as if nobody had.
func (d *Document) checkResponse(route *routers.Route, r *http.Request, response *http.Response, report func(string, error)) error {
	documented := route.Operation.Responses.Status(response.StatusCode)
	if documented == nil {
		return errors.New("the status is not documented")
	}
	err := openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		// It only wants to know that the method is not HEAD, of which it checks nothing.
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: new(http.Request), Route: route},
		Status:                 response.StatusCode,
		Header:                 response.Header,
		Options:                &openapi3filter.Options{ExcludeResponseBody: true, MultiError: true},
	})
	if err != nil || r.Method == http.MethodHead { // a HEAD's response has no body
		return err
	}
	media, schema, err := d.schemaOf(documented.Value.Content, response.Header)
	if err != nil {
		return err
	}
	if media == mediaNDJSON {
		response.Body = &lines{ReadCloser: response.Body, schema: schema, fail: func(err error) { report("a line of the response", err) }}
		return nil
	}
	body, readErr := io.ReadAll(response.Body)
	response.Body = replay{io.MultiReader(bytes.NewReader(body), broken{readErr}), response.Body}
	if readErr != nil {
		return nil //nolint:nilerr // The connection broke; the caller meets the error when it reads the body.
	}
	value, err := validate(schema, body)
	if err == nil && media == mediaProblem {
		err = d.checkMembers(value)
	}
	return err
}

// checkMembers reports members of a problem that are not documented. Its schema
// allows any, because others may add to a problem; we would document what we add.
func (d *Document) checkMembers(value any) error {
	var unknown []string
	for _, member := range slices.Sorted(maps.Keys(value.(map[string]any))) {
		if d.spec.Components.Schemas["Problem"].Value.Properties[member] == nil {
			unknown = append(unknown, member)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("the problem has members that are not documented: %s", strings.Join(unknown, ", "))
	}
	return nil
}

// checkRequest compares a request that was accepted with what the route documents.
func (d *Document) checkRequest(route *routers.Route, parameters map[string]string, r *http.Request, body []byte) error {
	err := openapi3filter.ValidateRequest(r.Context(), &openapi3filter.RequestValidationInput{
		Request: r, PathParams: parameters, Route: route,
		// Defaults would be written into the request, which is the caller's.
		Options: &openapi3filter.Options{ExcludeRequestBody: true, SkipSettingDefaults: true, MultiError: true},
	})
	return errors.Join(err, checkQuery(route, r), d.checkRequestBody(route.Operation, r, body))
}

// checkQuery reports parameters that are not documented, or are repeated and
// may not be. OpenAPI has no way to say so, but both documents do in words.
func checkQuery(route *routers.Route, r *http.Request) error {
	var errs []error
	for name, values := range r.URL.Query() {
		parameter := route.Operation.Parameters.GetByInAndName(openapi3.ParameterInQuery, name)
		switch {
		case parameter == nil:
			errs = append(errs, fmt.Errorf("query parameter %q is not documented", name))
		case len(values) > 1 && !parameter.Schema.Value.Type.Is(openapi3.TypeArray):
			errs = append(errs, fmt.Errorf("query parameter %q is repeated", name))
		}
	}
	return errors.Join(errs...)
}

func (d *Document) checkRequestBody(operation *openapi3.Operation, r *http.Request, body []byte) error {
	if operation.RequestBody == nil {
		if len(body) > 0 {
			return errors.New("the operation takes no body, and there was one")
		}
		return nil
	}
	_, schema, err := d.schemaOf(operation.RequestBody.Value.Content, r.Header)
	if err != nil || sendsStream(operation) {
		return err
	}
	_, err = validate(schema, body)
	return err
}

// schemaOf finds the schema of a body by its content type.
func (d *Document) schemaOf(content openapi3.Content, header http.Header) (media string, schema *jsonschema.Schema, err error) {
	contentType := header.Get("Content-Type")
	media, _, err = mime.ParseMediaType(contentType)
	body := content.Get(contentType)
	if err != nil || body == nil {
		return "", nil, fmt.Errorf("the content type %q is not documented", contentType)
	}
	return media, d.schemas[body.Schema.Ref], nil
}

func validate(schema *jsonschema.Schema, body []byte) (any, error) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("the body is no JSON: %w", err)
	}
	if err := schema.Validate(value); err != nil {
		return nil, fmt.Errorf("%w\nin %.1000s", err, body)
	}
	return value, nil
}

// sendsStream reports whether the operation's request is a stream of rows.
func sendsStream(operation *openapi3.Operation) bool {
	return operation.RequestBody != nil && operation.RequestBody.Value.Content[mediaNDJSON] != nil
}

// recording keeps a copy of a request's body as it is sent. The body is not read
// ahead: a test may send it as slowly as it likes.
type recording struct {
	mu   sync.Mutex
	sent bytes.Buffer
}

// watch returns the request with a body that is recorded.
func (c *recording) watch(r *http.Request) *http.Request {
	out := r.WithContext(r.Context())
	out.Body = c.body(r.Body)
	if r.GetBody != nil {
		out.GetBody = func() (io.ReadCloser, error) { // the request is sent once more
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			return c.body(body), nil
		}
	}
	return out
}

func (c *recording) body(of io.ReadCloser) io.ReadCloser {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent.Reset()
	return replay{io.TeeReader(of, c), of}
}

// Write implements io.Writer for the copy.
func (c *recording) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent.Write(p)
}

func (c *recording) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.sent.Bytes())
}

// replay reads from one thing and closes another.
type replay struct {
	io.Reader
	io.Closer
}

// broken ends a reader with an error; with io.EOF where it is nil.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return 0, io.EOF
}

// lines validates each line of a body as it is read.
type lines struct {
	io.ReadCloser
	schema *jsonschema.Schema
	fail   func(error)
	// line is the one that is not complete yet.
	line []byte
}

// Read reads on and validates what it completes.
func (l *lines) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	l.line = append(l.line, p[:n]...)
	for {
		line, rest, complete := bytes.Cut(l.line, []byte("\n"))
		if !complete {
			break
		}
		l.line = rest
		if _, err := validate(l.schema, line); err != nil {
			l.fail(err)
		}
	}
	if errors.Is(err, io.EOF) && len(l.line) > 0 {
		l.fail(fmt.Errorf("the body ends in the middle of a line: %.1000s", l.line))
		l.line = nil
	}
	return n, err
}
