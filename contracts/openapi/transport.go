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

// Transport sends requests through next and calls fail for each contradiction of
// the document. One is a response whose status, headers, content type or body is
// not documented for the operation. The other is a request that was accepted
// (answered below 400) although its parameters or its body are not as documented.
// A path or method that is not in the document must be refused.
//
// RoundTrip reads and validates a whole response before it returns it. A stream
// (NDJSON) is different: each line is validated as the caller reads it, and the end
// when the caller reaches it. A request that is a stream, such as an import, is not
// validated, because the service judges each row and may reject some.
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
	// If /v1/reservations does not have the method, the router matches the path as
	// /v1/reservations/{id} with an empty id. It also matches /v1/stock/ as /v1/stock.
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

// checkResponse compares a response with what the route documents. The caller can
// still read the whole body afterwards.
func (d *Document) checkResponse(route *routers.Route, r *http.Request, response *http.Response, report func(string, error)) error {
	documented := route.Operation.Responses.Status(response.StatusCode)
	if documented == nil {
		return errors.New("the status is not documented")
	}
	err := openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		// It uses the request only to skip the checks for HEAD, so an empty one will do.
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

// checkMembers reports undocumented members of a problem. The schema allows any
// member, because a proxy may add its own. The services' own must be documented.
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
		// kin-openapi would write defaults into the caller's request.
		Options: &openapi3filter.Options{ExcludeRequestBody: true, SkipSettingDefaults: true, MultiError: true},
	})
	return errors.Join(err, checkQuery(route, r), d.checkRequestBody(route.Operation, r, body))
}

// checkQuery reports query parameters that are not documented, and those that are
// repeated although they may be given only once. OpenAPI can't express these rules;
// both documents state them in words.
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
		return nil, fmt.Errorf("the body is not JSON: %w", err)
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

// recording keeps a copy of a request's body as it is sent. It does not read ahead,
// so a test may send the body slowly.
type recording struct {
	mu   sync.Mutex
	sent bytes.Buffer
}

// watch returns the request with a body that is recorded.
func (c *recording) watch(r *http.Request) *http.Request {
	out := r.WithContext(r.Context())
	out.Body = c.body(r.Body)
	if r.GetBody != nil {
		out.GetBody = func() (io.ReadCloser, error) { // the request is sent again
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

// replay reads from its Reader and closes its Closer.
type replay struct {
	io.Reader
	io.Closer
}

// broken is a reader that returns err at once, or io.EOF if err is nil.
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
	// line is the last line, as far as it was read.
	line []byte
}

// Read reads from the body and validates each line that is complete.
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
