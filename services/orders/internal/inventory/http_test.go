package inventory

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

var (
	hold = order.Request{ID: "a", Seq: 1, State: order.ReservationHeld, HoldSeconds: 900, Lines: []order.Demand{
		{SKU: "85123A", Location: "main", Quantity: 6}, {SKU: "85123A", Location: "main", Quantity: 2},
	}}
	expiresAt = time.Date(2026, 11, 24, 13, 0, 0, 0, time.UTC)
)

const (
	heldAnswer = `{"id": "a", "seq": 1, "state": "held", "lines": [{"sku": "85123A", "location": "main", "quantity": 8}],
		"expires_at": "2026-11-24T13:00:00.000Z"}`
	shortage = `{"type": "urn:roundtrip:problem:insufficient-stock", "title": "t", "status": 409, "detail": "d",
		"code": "insufficient-stock", "shortages": [{"sku": "85123A", "location": "main", "requested": 8, "available": 7}],
		"current": {"id": "a", "seq": 1, "state": "none"}}`
)

// serve starts an inventory that answers as the test says, and the wire to it.
func serve(t *testing.T, handler http.HandlerFunc) *HTTP {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return wireTo(t, server.URL, nil)
}

func wireTo(t *testing.T, url string, dial Dial) *HTTP {
	t.Helper()
	wire, err := NewHTTP(url, 8, dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := wire.Close(); err != nil {
			t.Error(err)
		}
	})
	return wire
}

// deadline is long enough for an answer that comes, and short enough to wait
// for one that does not.
func deadline(t *testing.T, within time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(exchange.WithRequestID(t.Context(), "request-1"), within)
	t.Cleanup(cancel)
	return ctx
}

func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the client may have hung up
	}
}

// anyAnswer is one to every request.
var anyAnswer = strings.TrimSuffix(heldAnswer, "}") + `, "levels": []}`

func TestWhatIsSent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ask  func(context.Context, *HTTP) error
		line string
		body string
	}{
		{put(hold), "PUT /v1/reservations/a",
			`{"seq":1,"state":"held","lines":[{"sku":"85123A","location":"main","quantity":6},{"sku":"85123A","location":"main","quantity":2}],"hold_seconds":900}`},
		{put(order.Request{ID: "a", Seq: 2, State: order.ReservationCommitted}), "PUT /v1/reservations/a", `{"seq":2,"state":"committed"}`},
		{put(order.Request{ID: "a", Seq: 3, State: order.ReservationReleased}), "PUT /v1/reservations/a", `{"seq":3,"state":"released"}`},
		{get("a"), "GET /v1/reservations/a", ""},
		{get("../x?y#z"), "GET /v1/reservations/..%2Fx%3Fy%23z", ""},
		{stock("b", "a&c"), "GET /v1/stock?sku=b&sku=a%26c", ""},
		{func(ctx context.Context, h *HTTP) error { _, _, err := h.Reservations(ctx, "c/+"); return err },
			"GET /v1/reservations?cursor=c%2F%2B&limit=200", ""},
	} {
		var line, body string
		var header http.Header
		wire := serve(t, func(w http.ResponseWriter, r *http.Request) {
			content, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			line, body, header = r.Method+" "+r.RequestURI, string(content), r.Header
			answer(http.StatusOK, "application/json", anyAnswer)(w, r)
		})
		if err := c.ask(deadline(t, 3*time.Second), wire); err != nil {
			t.Errorf("%s: %v", c.line, err)
		}
		if line != c.line || body != c.body {
			t.Errorf("sent %s %s, want %s %s", line, body, c.line, c.body)
		}
		if ms, err := strconv.Atoi(header.Get(exchange.TimeoutHeader)); err != nil || ms < 1 || ms > 3000 {
			t.Errorf("%s: says that %q ms are left", c.line, header.Get(exchange.TimeoutHeader))
		}
		if header.Get(exchange.RequestIDHeader) != "request-1" {
			t.Errorf("%s: the request id is %q", c.line, header.Get(exchange.RequestIDHeader))
		}
		if wantType := body != ""; wantType != (header.Get("Content-Type") == "application/json") {
			t.Errorf("%s: the content type is %q", c.line, header.Get("Content-Type"))
		}
	}
}

func put(r order.Request) func(context.Context, *HTTP) error {
	return func(ctx context.Context, h *HTTP) error { _, err := h.PutReservation(ctx, 1, r); return err }
}

func get(id string) func(context.Context, *HTTP) error {
	return func(ctx context.Context, h *HTTP) error { _, err := h.GetReservation(ctx, 1, id); return err }
}

func stock(skus ...string) func(context.Context, *HTTP) error {
	return func(ctx context.Context, h *HTTP) error { _, err := h.GetStock(ctx, 1, skus); return err }
}

func TestAnswersAreReadTolerantly(t *testing.T) {
	t.Parallel()
	want := order.Reservation{ID: "a", Seq: 1, State: order.ReservationHeld, ExpiresAt: expiresAt,
		Lines: []order.Demand{{SKU: "85123A", Location: "main", Quantity: 8}}}
	more := strings.Replace(heldAnswer, `{"id"`, `{"tomorrow": {"s": [1, null]}, "ID": "of another case", "id"`, 1)
	for name, body := range map[string]string{"as it is": heldAnswer, "with fields of tomorrow": more} {
		wire := serve(t, answer(http.StatusOK, "application/json; charset=utf-8", body))
		for what, ask := range map[string]func() (order.Reservation, error){
			"put": func() (order.Reservation, error) { return wire.PutReservation(deadline(t, 3*time.Second), 1, hold) },
			"get": func() (order.Reservation, error) { return wire.GetReservation(deadline(t, 3*time.Second), 1, "a") },
		} {
			if got, err := ask(); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: %+v, %v", what, name, got, err)
			}
		}
	}

	wire := serve(t, answer(http.StatusOK, "application/json", `{"id": "a", "seq": 2, "state": "released", "lines": []}`))
	if got, err := wire.GetReservation(deadline(t, 3*time.Second), 1, "a"); err != nil || got.State != order.ReservationReleased || !got.ExpiresAt.IsZero() {
		t.Errorf("released: %+v, %v", got, err)
	}
	wire = serve(t, answer(http.StatusOK, "application/json",
		`{"levels": [{"sku": "b", "name": "B", "location": "main", "on_hand": 5, "reserved": 2, "available": 3, "version": 7}]}`))
	if got, err := wire.GetStock(deadline(t, 3*time.Second), 1, []string{"b"}); err != nil || !reflect.DeepEqual(got, []order.Level{{SKU: "b", Location: "main", Available: 3}}) {
		t.Errorf("levels: %+v, %v", got, err)
	}
	wire = serve(t, answer(http.StatusOK, "application/json", `{"reservations": [`+heldAnswer+`], "next_cursor": "n"}`))
	if got, next, err := wire.Reservations(deadline(t, 3*time.Second), ""); err != nil || next != "n" || !reflect.DeepEqual(got, []order.Reservation{want}) {
		t.Errorf("reservations: %+v, %q, %v", got, next, err)
	}
	wire = serve(t, answer(http.StatusConflict, problem.MediaType, shortage))
	_, err := wire.PutReservation(deadline(t, 3*time.Second), 1, hold)
	if p := problem.From(err); p.Code != problem.InsufficientStock || len(p.Shortages) != 1 || p.Current == nil || p.Current.ID != "a" {
		t.Errorf("a shortage: %+v", p)
	}
}

// Whatever comes back, orders has to know whether it is an answer: one that no
// rule explains wraps order.ErrUnexplained, a fault of the transport does not.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	const json = "application/json"
	ok := func(body string) http.HandlerFunc { return answer(http.StatusOK, json, body) }
	without := func(field string) http.HandlerFunc {
		return ok(strings.Replace(heldAnswer, `"`+field+`"`, `"another"`, 1))
	}
	with := func(old, replacement string) http.HandlerFunc {
		return ok(strings.Replace(heldAnswer, old, replacement, 1))
	}
	for name, c := range map[string]struct {
		handler     http.HandlerFunc
		code        problem.Code
		unexplained bool
	}{
		"nothing":               {ok(""), problem.Internal, true},
		"garbage":               {ok("\x00\xff{"), problem.Internal, true},
		"null":                  {ok("null"), problem.Internal, true},
		"an empty object":       {ok("{}"), problem.Internal, true},
		"an array":              {ok("[" + heldAnswer + "]"), problem.Internal, true},
		"half of it":            {ok(heldAnswer[:len(heldAnswer)/2]), problem.Internal, true},
		"two of it":             {ok(heldAnswer + heldAnswer), problem.Internal, true},
		"a page":                {answer(http.StatusOK, "text/html", "<html><h1>Welcome</h1></html>"), problem.Internal, true},
		"no id":                 {without("id"), problem.Internal, true},
		"no seq":                {without("seq"), problem.Internal, true},
		"no state":              {without("state"), problem.Internal, true},
		"a hold without an end": {without("expires_at"), problem.Internal, true},
		"an id twice":           {with(`"id"`, `"id": "b", "id"`), problem.Internal, true},
		"a null id":             {with(`"a"`, "null"), problem.Internal, true},
		"a seq in quotes":       {with("1", `"1"`), problem.Internal, true},
		"half a seq":            {with("1", "1.5"), problem.Internal, true},
		"a seq beyond int64":    {with("1", "9223372036854775808"), problem.Internal, true},
		"no such time":          {with("2026-11-24", "2026-13-24"), problem.Internal, true},
		"lines of another kind": {with(`[{"sku"`, `[7, {"sku"`), problem.Internal, true},
		"too much":              {ok(`{"x": "` + strings.Repeat("y", maxAnswer) + `"}`), problem.Internal, true},
		"too much, a problem":   {answer(http.StatusConflict, problem.MediaType, strings.Repeat(" ", maxAnswer)+shortage), problem.Internal, true},
		"created":               {answer(http.StatusCreated, json, heldAnswer), problem.Internal, true},
		"no content":            {answer(http.StatusNoContent, json, ""), problem.Internal, true},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/reservations/a" {
				t.Error("it was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, problem.Internal, true},

		"a proxy's 502":         {answer(http.StatusBadGateway, "text/html", "<html>"), problem.Unavailable, false},
		"a proxy's 503":         {answer(http.StatusServiceUnavailable, "text/plain", "no"), problem.Unavailable, false},
		"a proxy's 504":         {answer(http.StatusGatewayTimeout, "text/plain", "no"), problem.DeadlineExceeded, false},
		"a proxy's 429":         {answer(http.StatusTooManyRequests, "text/plain", "no"), problem.RateLimited, false},
		"a proxy's 403":         {answer(http.StatusForbidden, "text/plain", "no"), problem.Forbidden, false},
		"a stranger's 404":      {answer(http.StatusNotFound, "text/html", "<html>"), problem.Unavailable, false},
		"a 500 in plain text":   {answer(http.StatusInternalServerError, "text/plain", shortage), problem.Internal, false},
		"a shortage as text":    {answer(http.StatusConflict, "text/plain", shortage), problem.Internal, false},
		"half a problem":        {answer(http.StatusConflict, problem.MediaType, shortage[:99]), problem.Internal, false},
		"a problem of tomorrow": {answer(http.StatusConflict, problem.MediaType, `{"code": "tomorrow"}`), "tomorrow", false},

		"a shorter body than was said": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			ok(heldAnswer)(w, r)
		}, problem.Unavailable, false},
		"headers without end": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
			ok(heldAnswer)(w, r)
		}, problem.Unavailable, false},
		"a reset before the answer": {reset(""), problem.Unavailable, false},
		"a reset in the headers":    {reset("HTTP/1.1 200 OK\r\nContent-"), problem.Unavailable, false},
		"a reset in the body":       {reset("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{\"id\""), problem.Unavailable, false},
		"no HTTP":                   {reset("220 mail.example.org ESMTP\r\n\r\n"), problem.Unavailable, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire := serve(t, c.handler)
			for what, ask := range map[string]func(context.Context, *HTTP) error{"put": put(hold), "get": get("a")} {
				err := ask(deadline(t, 5*time.Second), wire)
				var p *problem.Problem
				if !errors.As(err, &p) || p.Code != c.code || errors.Is(err, order.ErrUnexplained) != c.unexplained {
					t.Errorf("%s: got %v; want %s, unexplained: %v", what, err, c.code, c.unexplained)
				}
			}
		})
	}
}

// What a stranger's answer came over is not used again: the way to inventory may have
// been set up since.
func TestAfterAStrangersAnswerItConnectsAnew(t *testing.T) {
	t.Parallel()
	const json = "application/json"
	for name, c := range map[string]struct {
		first       http.HandlerFunc
		connections int32
	}{
		"inventory's":               {answer(http.StatusOK, json, heldAnswer), 1},
		"inventory's, of a problem": {answer(http.StatusConflict, problem.MediaType, shortage), 1},
		"a stranger's 404":          {answer(http.StatusNotFound, "", ""), 2},
		"a stranger's page":         {answer(http.StatusOK, "text/html", "<html>"), 2},
		"a stranger's problem":      {answer(http.StatusForbidden, problem.MediaType, `{"type":"about:blank","status":403}`), 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked, connections atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) == 1 {
					c.first(w, r)
					return
				}
				answer(http.StatusOK, json, heldAnswer)(w, r)
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					connections.Add(1)
				}
			}
			server.Start()
			t.Cleanup(server.Close)
			wire := wireTo(t, server.URL, nil)
			_ = put(hold)(deadline(t, 5*time.Second), wire) // whatever it is
			if err := put(hold)(deadline(t, 5*time.Second), wire); err != nil {
				t.Error(err)
			}
			if n := connections.Load(); n != c.connections {
				t.Errorf("there were %d connections, want %d", n, c.connections)
			}
		})
	}
}

// reset sends the beginning of an answer and then resets the connection.
func reset(beginning string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, beginning)
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// Reservations of many lines do not fit into one answer, 200 of them.
func TestAListThatIsTooMuchIsAskedForInSmallerParts(t *testing.T) {
	t.Parallel()
	wire := serve(t, func(w http.ResponseWriter, r *http.Request) {
		list := `{"reservations": [` + heldAnswer + `], "next_cursor": "n"}`
		if r.URL.Query().Get("limit") != "10" {
			list = strings.Repeat(" ", maxAnswer) + list
		}
		answer(http.StatusOK, "application/json", list)(w, r)
	})
	if got, next, err := wire.Reservations(deadline(t, 5*time.Second), "c"); err != nil || len(got) != 1 || next != "n" {
		t.Errorf("got %d, %q, %v", len(got), next, err)
	}
}

func TestHostileLevelsAndLists(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"{}", `{"levels": null}`, `{"id": "another"}`} {
		wire := serve(t, answer(http.StatusOK, "application/json", body))
		if err := stock("a")(deadline(t, 3*time.Second), wire); !errors.Is(err, order.ErrUnexplained) {
			t.Errorf("levels of %q: %v", body, err)
		}
	}
	for _, body := range []string{"", "[]", `{"levels": [{}]}`, `{"levels": [{"sku": "a", "location": "main"}]}`, `{"levels": 7}`,
		`{"reservations": [{}]}`, `{"reservations": {}}`} {
		wire := serve(t, answer(http.StatusOK, "application/json", body))
		_, _, listErr := wire.Reservations(deadline(t, 3*time.Second), "")
		if err := errors.Join(stock("a")(deadline(t, 3*time.Second), wire), listErr); !errors.Is(err, order.ErrUnexplained) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestWhatComesTooLateIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{"headers": "", "body": "{"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan struct{})
			wire := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if begin != "" {
					_, _ = io.WriteString(w, begin)
					_ = http.NewResponseController(w).Flush()
				}
				<-done
			})
			t.Cleanup(func() { close(done) })
			err := put(hold)(deadline(t, 100*time.Millisecond), wire)
			if problem.CodeOf(err) != problem.DeadlineExceeded || errors.Is(err, order.ErrUnexplained) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestWhatCannotBeConnectedToIsAway(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	l.Close()
	unplugged := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("unplugged") }
	for name, wire := range map[string]*HTTP{
		"refused": wireTo(t, nobody, nil), "unplugged": wireTo(t, "http://inventory:80", unplugged),
		"no such host": wireTo(t, "http://inventory.invalid", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caller := exchange.NewCaller(exchange.Options{MaxInFlight: 1})
			client := NewResending(wire, caller)
			for range 5 {
				if caller.Away() {
					t.Error("away too early")
				}
				_, err := client.PutReservation(deadline(t, 5*time.Second), hold)
				if problem.CodeOf(err) != problem.Unavailable {
					t.Errorf("got %v", err)
				}
			}
			if !caller.Away() {
				t.Error("it is not away")
			}
		})
	}
}

func TestWhatHangsUpIsNotAway(t *testing.T) {
	t.Parallel()
	caller := exchange.NewCaller(exchange.Options{MaxInFlight: 1})
	client := NewResending(serve(t, reset("")), caller)
	for range 10 {
		_, err := client.PutReservation(deadline(t, 5*time.Second), hold)
		if problem.CodeOf(err) != problem.Unavailable || caller.Away() {
			t.Errorf("got %v, away: %v", err, caller.Away())
		}
	}
}

// The library must not send a request twice by itself: repeats are counted and
// paced by exchange.Caller. It is most tempted on a kept connection that breaks
// after the request was sent.
func TestTheLibraryRepeatsNoPut(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var received atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			requests := bufio.NewReader(conn)
			for n := range 2 {
				r, err := http.ReadRequest(requests)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, r.Body)
				received.Add(1)
				if n == 0 {
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(heldAnswer), heldAnswer)
				}
			}
			conn.Close() // the second request on a connection is read and never answered
		}
	}()
	wire := wireTo(t, "http://"+l.Addr().String(), nil)
	if err := put(hold)(deadline(t, 5*time.Second), wire); err != nil {
		t.Fatal(err)
	}
	if err := put(hold)(deadline(t, 5*time.Second), wire); problem.CodeOf(err) != problem.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := received.Load(); n != 2 {
		t.Errorf("%d requests were sent, want 2", n)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	var opened atomic.Int32
	server := httptest.NewServer(answer(http.StatusOK, "application/json", heldAnswer))
	t.Cleanup(server.Close)
	wire := wireTo(t, server.URL, func(ctx context.Context, network, address string) (net.Conn, error) {
		opened.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	})
	for range 20 {
		if err := put(hold)(deadline(t, 5*time.Second), wire); err != nil {
			t.Fatal(err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("20 requests in a row opened %d connections", n)
	}
}

func TestAddressesThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "inventory:8080", "ftp://inventory", "http://", "http://[::1", "/v1"} {
		if _, err := NewHTTP(address, 1, nil); err == nil {
			t.Errorf("%q is accepted", address)
		}
	}
	var path string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		answer(http.StatusOK, "application/json", heldAnswer)(w, r)
	}))
	t.Cleanup(server.Close)
	if err := get("a")(deadline(t, 3*time.Second), wireTo(t, server.URL+"/behind/a/proxy/", nil)); err != nil || path != "/behind/a/proxy/v1/reservations/a" {
		t.Errorf("asked for %s, %v", path, err)
	}
}

// FuzzAnswer: whatever the bytes are, an answer is a reservation with what
// orders relies on, or a problem.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{heldAnswer, shortage, "", "null", "{}", "[]", `{"id": null}`, `{"id":"a","seq":1e3,"state":"held"}`, "<html>"} {
		f.Add(200, "application/json", []byte(seed))
		f.Add(409, problem.MediaType, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		wire := wireTo(t, "http://inventory", nil)
		wire.client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}},
				Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
		})
		got, err := wire.PutReservation(deadline(t, time.Minute), 1, hold)
		var p *problem.Problem
		switch {
		case err == nil && (status != 200 || got.State == order.ReservationHeld && got.ExpiresAt.IsZero()):
			t.Errorf("%d %q is taken for %+v", status, body, got)
		case err != nil && !errors.As(err, &p):
			t.Errorf("%v is no problem", err)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
