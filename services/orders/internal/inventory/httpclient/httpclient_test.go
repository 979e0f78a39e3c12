package httpclient

import (
	"bufio"
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
	"roundtrip/internal/restclient"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/inventory/wiretest"
	"roundtrip/services/orders/internal/order"
)

// serve starts a fake inventory with this handler, and connects the wire to it.
func serve(t *testing.T, handler http.HandlerFunc) *Wire {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return wireTo(t, server.URL, nil)
}

func wireTo(t *testing.T, url string, dial inventory.Dial) *Wire {
	t.Helper()
	wire, err := New(url, 8, dial)
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

func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the client may have hung up
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ask  func(context.Context, *Wire) error
		line string
		body string
	}{
		{put(wiretest.Hold), "PUT /v1/reservations/a",
			`{"seq":1,"state":"held","lines":[{"sku":"85123A","location":"main","quantity":6},{"sku":"85123A","location":"main","quantity":2}],"hold_seconds":900}`},
		{put(order.Request{ID: "a", Seq: 2, State: order.ReservationCommitted}), "PUT /v1/reservations/a", `{"seq":2,"state":"committed"}`},
		{put(order.Request{ID: "a", Seq: 3, State: order.ReservationReleased}), "PUT /v1/reservations/a", `{"seq":3,"state":"released"}`},
		{get("a"), "GET /v1/reservations/a", ""},
		{get("../x?y#z"), "GET /v1/reservations/..%2Fx%3Fy%23z", ""},
		{stock("b", "a&c"), "GET /v1/stock?sku=b&sku=a%26c", ""},
		{func(ctx context.Context, h *Wire) error { _, _, err := h.Reservations(ctx, "c/+"); return err },
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
			answer(http.StatusOK, "application/json", wiretest.AnyAnswer)(w, r)
		})
		if err := c.ask(wiretest.Deadline(t, 3*time.Second), wire); err != nil {
			t.Errorf("%s: %v", c.line, err)
		}
		if line != c.line || body != c.body {
			t.Errorf("sent %s %s, want %s %s", line, body, c.line, c.body)
		}
		if ms, err := strconv.Atoi(header.Get(exchange.TimeoutHeader)); err != nil || ms < 1 || ms > 3000 {
			t.Errorf("%s: the timeout header is %q", c.line, header.Get(exchange.TimeoutHeader))
		}
		if header.Get(exchange.RequestIDHeader) != wiretest.RequestID {
			t.Errorf("%s: the request id is %q", c.line, header.Get(exchange.RequestIDHeader))
		}
		if wantType := body != ""; wantType != (header.Get("Content-Type") == "application/json") {
			t.Errorf("%s: the content type is %q", c.line, header.Get("Content-Type"))
		}
	}
}

func put(r order.Request) func(context.Context, *Wire) error {
	return func(ctx context.Context, h *Wire) error { _, err := h.PutReservation(ctx, 1, r); return err }
}

func get(id string) func(context.Context, *Wire) error {
	return func(ctx context.Context, h *Wire) error { _, err := h.GetReservation(ctx, 1, id); return err }
}

func stock(skus ...string) func(context.Context, *Wire) error {
	return func(ctx context.Context, h *Wire) error { _, err := h.GetStock(ctx, 1, skus); return err }
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	t.Parallel()
	want := order.Reservation{ID: "a", Seq: 1, State: order.ReservationHeld, ExpiresAt: wiretest.ExpiresAt,
		Lines: []order.Demand{{SKU: "85123A", Location: "main", Quantity: 8}}}
	more := strings.Replace(wiretest.HeldAnswer, `{"id"`, `{"tomorrow": {"s": [1, null]}, "ID": "of another case", "id"`, 1)
	for name, body := range map[string]string{"as it is": wiretest.HeldAnswer, "with unknown fields": more} {
		wire := serve(t, answer(http.StatusOK, "application/json; charset=utf-8", body))
		for what, ask := range map[string]func() (order.Reservation, error){
			"put": func() (order.Reservation, error) {
				return wire.PutReservation(wiretest.Deadline(t, 3*time.Second), 1, wiretest.Hold)
			},
			"get": func() (order.Reservation, error) {
				return wire.GetReservation(wiretest.Deadline(t, 3*time.Second), 1, "a")
			},
		} {
			if got, err := ask(); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: %+v, %v", what, name, got, err)
			}
		}
	}

	wire := serve(t, answer(http.StatusOK, "application/json", `{"id": "a", "seq": 2, "state": "released", "lines": []}`))
	if got, err := wire.GetReservation(wiretest.Deadline(t, 3*time.Second), 1, "a"); err != nil || got.State != order.ReservationReleased || !got.ExpiresAt.IsZero() {
		t.Errorf("released: %+v, %v", got, err)
	}
	wire = serve(t, answer(http.StatusOK, "application/json",
		`{"levels": [{"sku": "b", "name": "B", "location": "main", "on_hand": 5, "reserved": 2, "available": 3, "version": 7}]}`))
	if got, err := wire.GetStock(wiretest.Deadline(t, 3*time.Second), 1, []string{"b"}); err != nil || !reflect.DeepEqual(got, []order.Level{{SKU: "b", Location: "main", Available: 3}}) {
		t.Errorf("levels: %+v, %v", got, err)
	}
	wire = serve(t, answer(http.StatusOK, "application/json", `{"reservations": [`+wiretest.HeldAnswer+`], "next_cursor": "n"}`))
	if got, next, err := wire.Reservations(wiretest.Deadline(t, 3*time.Second), ""); err != nil || next != "n" || !reflect.DeepEqual(got, []order.Reservation{want}) {
		t.Errorf("reservations: %+v, %q, %v", got, next, err)
	}
	wire = serve(t, answer(http.StatusConflict, problem.MediaType, wiretest.Shortage))
	_, err := wire.PutReservation(wiretest.Deadline(t, 3*time.Second), 1, wiretest.Hold)
	if p := problem.From(err); p.Code != problem.InsufficientStock || len(p.Shortages) != 1 || p.Current == nil || p.Current.ID != "a" {
		t.Errorf("a shortage: %+v", p)
	}
}

// Orders must tell an answer of inventory from anything else. The error for an answer
// that no rule explains wraps order.ErrUnexplained. The error for a transport fault does
// not.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	const json = "application/json"
	ok := func(body string) http.HandlerFunc { return answer(http.StatusOK, json, body) }
	without := func(field string) http.HandlerFunc {
		return ok(strings.Replace(wiretest.HeldAnswer, `"`+field+`"`, `"another"`, 1))
	}
	with := func(old, replacement string) http.HandlerFunc {
		return ok(strings.Replace(wiretest.HeldAnswer, old, replacement, 1))
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
		"an array":              {ok("[" + wiretest.HeldAnswer + "]"), problem.Internal, true},
		"half an answer":        {ok(wiretest.HeldAnswer[:len(wiretest.HeldAnswer)/2]), problem.Internal, true},
		"two answers":           {ok(wiretest.HeldAnswer + wiretest.HeldAnswer), problem.Internal, true},
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
		"an impossible time":    {with("2026-11-24", "2026-13-24"), problem.Internal, true},
		"lines of another kind": {with(`[{"sku"`, `[7, {"sku"`), problem.Internal, true},
		"too large":             {ok(`{"x": "` + strings.Repeat("y", restclient.MaxAnswer) + `"}`), problem.Internal, true},
		"too large a problem":   {answer(http.StatusConflict, problem.MediaType, strings.Repeat(" ", restclient.MaxAnswer)+wiretest.Shortage), problem.Internal, true},
		"created":               {answer(http.StatusCreated, json, wiretest.HeldAnswer), problem.Internal, true},
		"no content":            {answer(http.StatusNoContent, json, ""), problem.Internal, true},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/reservations/a" {
				t.Error("the redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, problem.Internal, true},

		"a proxy's 502":       {answer(http.StatusBadGateway, "text/html", "<html>"), problem.Unavailable, false},
		"a proxy's 503":       {answer(http.StatusServiceUnavailable, "text/plain", "no"), problem.Unavailable, false},
		"a proxy's 504":       {answer(http.StatusGatewayTimeout, "text/plain", "no"), problem.DeadlineExceeded, false},
		"a proxy's 429":       {answer(http.StatusTooManyRequests, "text/plain", "no"), problem.RateLimited, false},
		"a proxy's 403":       {answer(http.StatusForbidden, "text/plain", "no"), problem.Forbidden, false},
		"a foreign 404":       {answer(http.StatusNotFound, "text/html", "<html>"), problem.Unavailable, false},
		"a 500 in plain text": {answer(http.StatusInternalServerError, "text/plain", wiretest.Shortage), problem.Internal, false},
		"a shortage as text":  {answer(http.StatusConflict, "text/plain", wiretest.Shortage), problem.Internal, false},
		"half a problem":      {answer(http.StatusConflict, problem.MediaType, wiretest.Shortage[:99]), problem.Internal, false},
		"an unknown problem":  {answer(http.StatusConflict, problem.MediaType, `{"code": "tomorrow"}`), "tomorrow", false},

		"a body shorter than its length": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			ok(wiretest.HeldAnswer)(w, r)
		}, problem.Unavailable, false},
		"endless headers": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
			ok(wiretest.HeldAnswer)(w, r)
		}, problem.Unavailable, false},
		"a reset before the answer": {reset(""), problem.Unavailable, false},
		"a reset in the headers":    {reset("HTTP/1.1 200 OK\r\nContent-"), problem.Unavailable, false},
		"a reset in the body":       {reset("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{\"id\""), problem.Unavailable, false},
		"another protocol":          {reset("220 mail.example.org ESMTP\r\n\r\n"), problem.Unavailable, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire := serve(t, c.handler)
			for what, ask := range map[string]func(context.Context, *Wire) error{"put": put(wiretest.Hold), "get": get("a")} {
				err := ask(wiretest.Deadline(t, 5*time.Second), wire)
				var p *problem.Problem
				if !errors.As(err, &p) || p.Code != c.code || errors.Is(err, order.ErrUnexplained) != c.unexplained {
					t.Errorf("%s: got %v; want %s, unexplained: %v", what, err, c.code, c.unexplained)
				}
			}
		})
	}
}

// The connection that gave a foreign answer is not used again, because a new connection
// may reach inventory.
func TestForeignAnswerClosesTheConnection(t *testing.T) {
	t.Parallel()
	const json = "application/json"
	for name, c := range map[string]struct {
		first       http.HandlerFunc
		connections int32
	}{
		"inventory's answer":  {answer(http.StatusOK, json, wiretest.HeldAnswer), 1},
		"inventory's problem": {answer(http.StatusConflict, problem.MediaType, wiretest.Shortage), 1},
		"a foreign 404":       {answer(http.StatusNotFound, "", ""), 2},
		"a foreign page":      {answer(http.StatusOK, "text/html", "<html>"), 2},
		"a foreign problem":   {answer(http.StatusForbidden, problem.MediaType, `{"type":"about:blank","status":403}`), 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked, connections atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) == 1 {
					c.first(w, r)
					return
				}
				answer(http.StatusOK, json, wiretest.HeldAnswer)(w, r)
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					connections.Add(1)
				}
			}
			server.Start()
			t.Cleanup(server.Close)
			wire := wireTo(t, server.URL, nil)
			_ = put(wiretest.Hold)(wiretest.Deadline(t, 5*time.Second), wire) // any result
			if err := put(wiretest.Hold)(wiretest.Deadline(t, 5*time.Second), wire); err != nil {
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

// 200 reservations with many lines do not fit into one answer.
func TestTooLargeListIsReadInSmallerPages(t *testing.T) {
	t.Parallel()
	wire := serve(t, func(w http.ResponseWriter, r *http.Request) {
		list := `{"reservations": [` + wiretest.HeldAnswer + `], "next_cursor": "n"}`
		if r.URL.Query().Get("limit") != "10" {
			list = strings.Repeat(" ", restclient.MaxAnswer) + list
		}
		answer(http.StatusOK, "application/json", list)(w, r)
	})
	if got, next, err := wire.Reservations(wiretest.Deadline(t, 5*time.Second), "c"); err != nil || len(got) != 1 || next != "n" {
		t.Errorf("got %d, %q, %v", len(got), next, err)
	}
}

func TestHostileLevelsAndLists(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"{}", `{"levels": null}`, `{"id": "another"}`} {
		wire := serve(t, answer(http.StatusOK, "application/json", body))
		if err := stock("a")(wiretest.Deadline(t, 3*time.Second), wire); !errors.Is(err, order.ErrUnexplained) {
			t.Errorf("levels of %q: %v", body, err)
		}
	}
	for _, body := range []string{"", "[]", `{"levels": [{}]}`, `{"levels": [{"sku": "a", "location": "main"}]}`, `{"levels": 7}`,
		`{"reservations": [{}]}`, `{"reservations": {}}`} {
		wire := serve(t, answer(http.StatusOK, "application/json", body))
		_, _, listErr := wire.Reservations(wiretest.Deadline(t, 3*time.Second), "")
		if err := errors.Join(stock("a")(wiretest.Deadline(t, 3*time.Second), wire), listErr); !errors.Is(err, order.ErrUnexplained) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestLateAnswerIsNotAwaited(t *testing.T) {
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
			err := put(wiretest.Hold)(wiretest.Deadline(t, 100*time.Millisecond), wire)
			if problem.CodeOf(err) != problem.DeadlineExceeded || errors.Is(err, order.ErrUnexplained) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestUnreachableServerIsAway(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	l.Close()
	unplugged := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("unplugged") }
	for name, wire := range map[string]*Wire{
		"refused": wireTo(t, nobody, nil), "unplugged": wireTo(t, "http://inventory:80", unplugged),
		"no such host": wireTo(t, "http://inventory.invalid", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caller := exchange.NewCaller(exchange.Options{})
			client := inventory.NewResending(wire, caller)
			for range 5 {
				if caller.Unreachable() {
					t.Error("the caller is away too early")
				}
				_, err := client.PutReservation(wiretest.Deadline(t, 5*time.Second), wiretest.Hold)
				if problem.CodeOf(err) != problem.Unavailable {
					t.Errorf("got %v", err)
				}
			}
			if !caller.Unreachable() {
				t.Error("the caller is not away")
			}
		})
	}
}

func TestBrokenConnectionIsNotAway(t *testing.T) {
	t.Parallel()
	caller := exchange.NewCaller(exchange.Options{})
	client := inventory.NewResending(serve(t, reset("")), caller)
	for range 10 {
		_, err := client.PutReservation(wiretest.Deadline(t, 5*time.Second), wiretest.Hold)
		if problem.CodeOf(err) != problem.Unavailable || caller.Unreachable() {
			t.Errorf("got %v, away: %v", err, caller.Unreachable())
		}
	}
}

// The library must not send a request twice: exchange.Caller counts and paces
// retries. A kept connection that breaks after the request was sent is the
// likeliest case.
func TestLibraryDoesNotRetryPut(t *testing.T) {
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
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(wiretest.HeldAnswer), wiretest.HeldAnswer)
				}
			}
			conn.Close() // the second request on a connection is read and not answered
		}
	}()
	wire := wireTo(t, "http://"+l.Addr().String(), nil)
	if err := put(wiretest.Hold)(wiretest.Deadline(t, 5*time.Second), wire); err != nil {
		t.Fatal(err)
	}
	if err := put(wiretest.Hold)(wiretest.Deadline(t, 5*time.Second), wire); problem.CodeOf(err) != problem.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := received.Load(); n != 2 {
		t.Errorf("%d requests were sent, want 2", n)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	var opened atomic.Int32
	server := httptest.NewServer(answer(http.StatusOK, "application/json", wiretest.HeldAnswer))
	t.Cleanup(server.Close)
	wire := wireTo(t, server.URL, func(ctx context.Context, network, address string) (net.Conn, error) {
		opened.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	})
	for range 20 {
		if err := put(wiretest.Hold)(wiretest.Deadline(t, 5*time.Second), wire); err != nil {
			t.Fatal(err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("20 requests opened %d connections, want 1", n)
	}
}

func TestInvalidAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "inventory:8080", "ftp://inventory", "http://", "http://[::1", "/v1"} {
		if _, err := New(address, 1, nil); err == nil {
			t.Errorf("%q is accepted", address)
		}
	}
	var path string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		answer(http.StatusOK, "application/json", wiretest.HeldAnswer)(w, r)
	}))
	t.Cleanup(server.Close)
	if err := get("a")(wiretest.Deadline(t, 3*time.Second), wireTo(t, server.URL+"/behind/a/proxy/", nil)); err != nil || path != "/behind/a/proxy/v1/reservations/a" {
		t.Errorf("asked for %s, %v", path, err)
	}
}

// FuzzAnswer checks that every body becomes a reservation with all that orders
// needs, or a problem.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{wiretest.HeldAnswer, wiretest.Shortage, "", "null", "{}", "[]", `{"id": null}`, `{"id":"a","seq":1e3,"state":"held"}`, "<html>"} {
		f.Add(200, "application/json", []byte(seed))
		f.Add(409, problem.MediaType, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		sent := restclient.Answer{Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: body}
		var read inventory.ReservationBody
		var got order.Reservation
		err := explain(sent.Decode(&read))
		if err == nil {
			got, err = read.Decode()
		}
		var p *problem.Problem
		switch {
		case err == nil && (status != 200 || got.State == order.ReservationHeld && got.ExpiresAt.IsZero()):
			t.Errorf("%d %q became %+v", status, body, got)
		case err != nil && !errors.As(err, &p):
			t.Errorf("the error %v is not a problem", err)
		}
	})
}
