package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/problem"
)

// codeTable is the table of problem codes that clients in other languages, and
// other versions of the services, rely on.
var codeTable = []struct {
	code   problem.Code
	status int
	retry  problem.Retry
}{
	{"invalid", 400, problem.Never},
	{"unauthenticated", 401, problem.Never},
	{"forbidden", 403, problem.Never},
	{"not-found", 404, problem.Never},
	{"method-not-allowed", 405, problem.Never},
	{"insufficient-stock", 409, problem.Never},
	{"reservation-expired", 409, problem.Never},
	{"wrong-state", 409, problem.Never},
	{"below-reserved", 409, problem.Never},
	{"given-up", 409, problem.Never},
	{"operation-pending", 409, problem.After},
	{"stale-seq", 409, problem.Never},
	{"precondition-failed", 412, problem.Never},
	{"too-large", 413, problem.Never},
	{"unsupported-media", 415, problem.Never},
	{"key-reused", 422, problem.Never},
	{"seq-reused", 422, problem.Never},
	{"rate-limited", 429, problem.After},
	{"internal", 500, problem.Never},
	{"overloaded", 503, problem.After},
	{"unavailable", 503, problem.After},
	{"deadline-exceeded", 504, problem.Immediately},
}

func TestProblemTable(t *testing.T) {
	t.Parallel()
	var codes []problem.Code
	titles := map[string]problem.Code{}
	for _, row := range codeTable {
		codes = append(codes, row.code)
		if got := row.code.HTTPStatus(); got != row.status {
			t.Errorf("%s: status %d, want %d", row.code, got, row.status)
		}
		if got := row.code.Retry(); got != row.retry {
			t.Errorf("%s: retry %d, want %d", row.code, got, row.retry)
		}
		title := row.code.Title()
		if other, taken := titles[title]; taken || title == "" || title == string(row.code) {
			t.Errorf("%s: the title %q is empty, the code, or that of %q", row.code, title, other)
		}
		titles[title] = row.code
	}
	slices.Sort(codes)
	if got := problem.Codes(); !slices.Equal(got, codes) {
		t.Errorf("the codes are %q, want %q", got, codes)
	}
}

func TestEveryCodeSurvivesJSON(t *testing.T) {
	t.Parallel()
	for _, row := range codeTable {
		whole := func(p *problem.Problem) *problem.Problem {
			p.Shortages = []problem.Shortage{
				{SKU: "85123A", Location: "main", Requested: 6, Available: math.MaxInt64}, {SKU: "22752", Location: "north", Requested: 1},
			}
			p.Errors = []problem.FieldError{{Pointer: "/lines/0/sku", Detail: "must be a string"}, {Detail: "must be an object"}}
			p.Current = &problem.Current{ID: "o1", Seq: math.MaxInt64, State: "held"}
			return p
		}
		cause := errors.New("password=hunter2")
		body, err := json.Marshal(whole(problem.Wrap(cause, row.code, "What <happened> & %s.", "why")))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), "hunter2") {
			t.Errorf("%s: the JSON has the text of the cause: %s", row.code, body)
		}
		var document struct {
			Type, Title, Detail string
			Status              int
		}
		if err := json.Unmarshal(body, &document); err != nil {
			t.Fatal(err)
		}
		if document.Type != "urn:roundtrip:problem:"+string(row.code) || document.Title != row.code.Title() ||
			document.Status != row.status || document.Detail != "What <happened> & why." {
			t.Errorf("the JSON of %s is %+v", row.code, document)
		}
		var got problem.Problem
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		if want := whole(problem.New(row.code, "What <happened> & why.")); !reflect.DeepEqual(&got, want) {
			t.Errorf("got %+v, want %+v", &got, want)
		}
	}
}

func TestEmptyMembersAreLeftOut(t *testing.T) {
	t.Parallel()
	body, err := json.Marshal(problem.New(problem.NotFound, ""))
	const want = `{"type":"urn:roundtrip:problem:not-found","title":"There is no such thing","status":404,"code":"not-found"}`
	if string(body) != want || err != nil {
		t.Errorf("got %s, %v", body, err)
	}
}

func TestUnknownCodeIsKeptAndNeverRetried(t *testing.T) {
	t.Parallel()
	const sent = `{"code":"teapot","status":503,"detail":"Short and stout.","retry":true,"new":{"a":[null]}}`
	var p problem.Problem
	if err := json.Unmarshal([]byte(sent), &p); err != nil {
		t.Fatal(err)
	}
	p.RetryAfter = time.Second
	if p.Code != "teapot" || p.Detail != "Short and stout." {
		t.Errorf("got %+v", &p)
	}
	if wait, ok := p.Wait(); ok || p.Code.Retry() != problem.Never {
		t.Errorf("an unknown code may be retried after %s", wait)
	}
	if p.Code.Known() || !problem.Invalid.Known() {
		t.Error("Known is wrong for an unknown or a known code")
	}
	body, err := json.Marshal(&p)
	const want = `{"type":"urn:roundtrip:problem:teapot","title":"teapot","status":500,"detail":"Short and stout.","code":"teapot"}`
	if string(body) != want || err != nil {
		t.Errorf("the JSON is %s, %v", body, err)
	}
}

func TestForeignDocumentIsNotAProblem(t *testing.T) {
	t.Parallel()
	for _, document := range []string{
		`{}`, `null`, `[]`, `"invalid"`, `{"code":""}`, `{"code":null}`, `{"code":400}`, `{"title":"x","status":400}`,
		`{"code":"invalid","shortages":{}}`, `{"code":"inval`, ``,
		`{"type":"about:blank","code":"wrong-state"}`, `{"type":"https://gateway.example/errors/1","code":"wrong-state"}`,
		`{"type":"urn:roundtrip:problem:","code":"wrong-state"}`, `{"type":"urn:roundtrip:problem:not-found","code":"wrong-state"}`,
		`{"type":["urn:roundtrip:problem:wrong-state"],"code":"wrong-state"}`,
	} {
		var p problem.Problem
		if err := json.Unmarshal([]byte(document), &p); err == nil {
			t.Errorf("%s was accepted as %+v", document, &p)
		}
	}
}

func TestOtherErrorsAreInternalAndDiscloseNothing(t *testing.T) {
	t.Parallel()
	plain := errors.New("disk /dev/sda1 is full")
	p := problem.From(plain)
	if p.Code != problem.Internal || problem.CodeOf(plain) != problem.Internal || p.Detail == "" {
		t.Errorf("got %+v", p)
	}
	if strings.Contains(p.Detail, "sda1") {
		t.Errorf("the detail discloses the cause: %s", p.Detail)
	}
	if !errors.Is(p, plain) || !strings.Contains(p.Error(), "sda1") {
		t.Errorf("the error text lacks the cause: %v", p)
	}
}

func TestProblemIsFoundInAnErrorChain(t *testing.T) {
	t.Parallel()
	p := problem.New(problem.WrongState, "It is %s.", "released")
	for name, err := range map[string]error{
		"itself":  p,
		"wrapped": fmt.Errorf("put o1: %w", fmt.Errorf("decide: %w", p)),
		"joined":  errors.Join(errors.New("close"), p),
		// The outermost problem is the one for the caller.
		"a cause": fmt.Errorf("put o1: %w", problem.Wrap(p, problem.WrongState, "It is released.")),
	} {
		if got := problem.From(err); got.Code != problem.WrongState || got.Detail != "It is released." || !errors.Is(got, p) {
			t.Errorf("%s: got %v", name, got)
		}
		if got := problem.CodeOf(err); got != problem.WrongState {
			t.Errorf("%s: got %s", name, got)
		}
	}
	outer := problem.Wrap(p, problem.Internal, "")
	if got := problem.From(outer); got != outer {
		t.Errorf("the cause hides the outer problem: %v", got)
	}
	if got := problem.CodeOf(nil); got != "" {
		t.Errorf("the code of no error is %q", got)
	}
}

func TestErrorTextHasDetailAndCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("read: connection reset")
	for want, p := range map[string]*problem.Problem{
		"internal":          problem.New(problem.Internal, ""),
		"not-found: No o1.": problem.New(problem.NotFound, "No %s.", "o1"),
		"unavailable: Later. (read: connection reset)": problem.Wrap(cause, problem.Unavailable, "Later."),
	} {
		if got := p.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A status that belongs to one code becomes that code. A status that several codes
// share must not look like one of them.
func TestForStatus(t *testing.T) {
	t.Parallel()
	codes := map[int][]problem.Code{}
	for _, row := range codeTable {
		codes[row.status] = append(codes[row.status], row.code)
	}
	for status := range 1000 {
		want := problem.Internal
		switch {
		case status == 502 || status == 503:
			want = problem.Unavailable
		case len(codes[status]) == 1:
			want = codes[status][0]
		}
		if got := problem.ForStatus(status); got != want {
			t.Errorf("the status %d became %s, want %s", status, got, want)
		}
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	for _, row := range codeTable {
		for advice, want := range map[time.Duration]time.Duration{0: time.Second, time.Minute: time.Minute, -1: time.Second} {
			p := problem.Problem{Code: row.code, RetryAfter: advice}
			if row.retry != problem.After {
				want = 0
			}
			if wait, ok := p.Wait(); wait != want || ok != (row.retry != problem.Never) {
				t.Errorf("%s with the advice %s: got %s, %v", row.code, advice, wait, ok)
			}
		}
	}
}
