package httpapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/test/support/resttest"
)

// importResult is the report of an import.
type importResult struct {
	rows  []rowReport
	total importReport
}

func parseImport(t *testing.T, r resttest.Response) (out importResult) {
	t.Helper()
	lines := slices.Collect(strings.Lines(r.Body))
	if len(lines) == 0 {
		t.Fatal("the report is empty")
	}
	for _, l := range lines[:len(lines)-1] {
		out.rows = append(out.rows, resttest.Decode[rowReport](t, resttest.Response{Body: l}))
	}
	out.total = resttest.Decode[importReport](t, resttest.Response{Body: lines[len(lines)-1]})
	if out.total.Rows != int64(len(out.rows)) || out.total.Rows != out.total.Done+out.total.Unchanged+out.total.Rejected {
		t.Errorf("%d rows are reported as %+v", len(out.rows), out.total)
	}
	for i, row := range out.rows {
		if row.Row != int64(i+1) {
			t.Errorf("row %d is reported as %+v", i+1, row)
		}
	}
	return out
}

func (s *service) importRows(t *testing.T, media, rows string) importResult {
	t.Helper()
	return parseImport(t, s.ok(t, "POST", "/v1/stock/import", rows, "Content-Type", media))
}

// wantTotal compares the counts of a report.
func (r importResult) wantTotal(t *testing.T, what string, done, unchanged, rejected int64) {
	t.Helper()
	got := r.total
	got.Problem = nil
	if want := (importReport{done + unchanged + rejected, done, unchanged, rejected, nil}); got != want {
		t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

func TestImportSetsLevelsAndIsIdempotent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ media, rows string }{
		"CSV":                       {"text/csv", "sku,name,location,on_hand\na,A thing,main,5\nb,\"B, \"\"quoted\"\"\",shop,0\na,A thing,shop,7\n"},
		"CSV in another order":      {"text/csv", "on_hand,location,name,sku\n5,main,A thing,a\n0,shop,\"B, \"\"quoted\"\"\",b\n7,shop,A thing,a\n"},
		"CSV without a location":    {"text/csv", "sku,name,on_hand\na,A thing,5\n"},
		"CSV of a spreadsheet":      {"text/csv; charset=UTF-8", "\ufeffsku,name,location,on_hand\r\n\r\na,A thing,,005\r\nb,\"B, \"\"quoted\"\"\",shop,0\r\na,A thing,shop,7"},
		"NDJSON":                    {"application/x-ndjson", `{"sku": "a", "name": "A thing", "on_hand": 5}` + "\n" + `{"sku":"b","name":"B, \"quoted\"","location":"shop","on_hand":0}` + "\n" + `{"sku":"a","name":"A thing","location":"shop","on_hand":7}` + "\n"},
		"NDJSON with an empty line": {"application/x-ndjson", "\n" + `{"sku": "a", "name": "A thing", "location": "main", "on_hand": 5}` + "\r\n \r\n" + `{"sku":"b","name":"B, \"quoted\"","location":"shop","on_hand":0}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			first := s.importRows(t, c.media, c.rows)
			n := int64(len(first.rows))
			first.wantTotal(t, "first", n, 0, 0)
			before := s.dump(t)
			s.importRows(t, c.media, c.rows).wantTotal(t, "again", 0, n, 0)
			if after := s.dump(t); after != before {
				t.Errorf("the repeat changed the rows from\n%s to\n%s", before, after)
			}
			got := resttest.Decode[payload.Levels](t, s.ok(t, "GET", "/v1/stock", "")).Levels
			want := []payload.Level{
				{SKU: "a", Name: "A thing", Location: "main", OnHand: 5, Available: 5, Version: 1},
				{SKU: "a", Name: "A thing", Location: "shop", OnHand: 7, Available: 7, Version: 1},
				{SKU: "b", Name: `B, "quoted"`, Location: "shop", Version: 1},
			}
			if !slices.Equal(got, slices.DeleteFunc(want, func(l payload.Level) bool { return !slices.Contains(got, l) })) || int64(len(got)) != n {
				t.Errorf("the levels are %+v", got)
			}
			ref := resttest.Decode[struct{ Entries []entry }](t, s.ok(t, "GET", "/v1/ledger?sku=a", "")).Entries[0].Ref
			if got := s.ledger(t, ref); !strings.HasPrefix(ref, "import-") || slices.Contains(got, "counted") || len(got) == 0 || got[0] != "imported" {
				t.Errorf("the ledger of %s has %v", ref, got)
			}
		})
	}
}

func TestImportChangesOnlyLevelsThatDiffer(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	got := s.importRows(t, "text/csv", "sku,name,on_hand\na,,10\nb,named,10\na,,12\na,,5\nb,,10\n")
	got.wantTotal(t, "then", 2, 2, 1)
	for i, want := range []string{"unchanged", "done", "done", "rejected", "unchanged"} {
		if got.rows[i].Outcome != want {
			t.Errorf("row %d is %s, want %s", i+1, got.rows[i].Outcome, want)
		}
	}
	if p := got.rows[3].Problem; p == nil || p.Code != problem.BelowReserved {
		t.Errorf("the row below what is reserved: %+v", got.rows[3])
	}
	s.wantLevel(t, "then", "a", 12, 6)
	if got := s.ok(t, "GET", "/v1/stock/b", "").Body; !strings.Contains(got, `"name":"named","location":"main","on_hand":10,"reserved":1,"available":9,"version":3`) {
		t.Errorf("b is %s", got)
	}
}

// hostileRows are rows of an import, by content type, each with the pointer of its
// error. They are rejected one by one. After a row with the pointer "stop" nothing
// can be read.
func hostileRows() map[string]map[string]string {
	return map[string]map[string]string{
		mediaCSV: {
			",1,x,main": "/sku", "a b,1,x,main": "/sku", "a/b,1,x,main": "/sku", "\"a\n\",1,x,main": "/sku", "a\x00,1,x,main": "/sku", "\xff,1,x,main": "/sku",
			strings.Repeat("x", 65) + ",1,x,main": "/sku", "'; DROP TABLE levels; --,1,x,main": "/sku", "а,1,x,main": "/sku",
			"a,1,x,the shop": "/location", "a,1,x,é": "/location", "a,1,x,\xe9": "/location",
			"a,1," + strings.Repeat("é", 257) + ",main": "/name", "a,1,caf\xe9,main": "/name", "a,1,x\x00,main": "/name",
			"a,,x,main": "/on_hand", "a,-1,x,main": "/on_hand", "a,+1,x,main": "/on_hand", "a,1.0,x,main": "/on_hand", "a,1e3,x,main": "/on_hand", "a, 1,x,main": "/on_hand",
			"a,0x10,x,main": "/on_hand", "a,1_000,x,main": "/on_hand", "a,one,x,main": "/on_hand", "a,1000000000001,x,main": "/on_hand",
			"a,9223372036854775808,x,main": "/on_hand", "a,18446744073709551617,x,main": "/on_hand", "a,=1+1,x,main": "/on_hand", "a,\u0661,x,main": "/on_hand",
			"a,1,x": "", "a,1,x,main,more": "", "a": "", "a;1;x;main": "", "a,1,x,main,": "",
			`a"b,1,x,main`: "stop", `"a"b,1,x,main`: "stop", `"a,1,x,main`: "stop", strings.Repeat("x", 3*maxRow): "stop",
			`"` + strings.Repeat("x\n", 2*maxRow): "stop",
		},
		mediaNDJSON: {
			"null": "", "[]": "", "7": "", `"a"`: "", "{}": "/on_hand", "{": "-", `{"sku": "a", "on_hand": 1}}`: "-", `{"sku": "a", "on_hand": 1} {}`: "",
			`{"on_hand": 1}`: "/sku", `{"sku": "", "on_hand": 1}`: "/sku", `{"sku": "a b", "on_hand": 1}`: "/sku", `{"sku": 1, "on_hand": 1}`: "/sku", `{"sku": null, "on_hand": 1}`: "/sku",
			`{"sku": "a\u0000", "on_hand": 1}`: "/sku", "{\"sku\": \"\xff\", \"on_hand\": 1}": "-", `{"sku": "\ud800", "on_hand": 1}`: "-",
			`{"sku": "a", "SKU": "b", "on_hand": 1}`: "/SKU", `{"sku": "a", "sku": "b", "on_hand": 1}`: "/sku", `{"sku": "a", "price": 1, "on_hand": 1}`: "/price",
			`{"sku": "a", "location": "", "on_hand": 1}`: "/location", `{"sku": "a", "location": null, "on_hand": 1}`: "/location", `{"sku": "a", "location": "the shop", "on_hand": 1}`: "/location",
			`{"sku": "a", "name": 1, "on_hand": 1}`: "/name", `{"sku": "a", "name": "x\u0000", "on_hand": 1}`: "/name",
			`{"sku": "a", "name": "` + strings.Repeat("é", 257) + `", "on_hand": 1}`: "/name",
			`{"sku": "a"}`: "/on_hand", `{"sku": "a", "on_hand": null}`: "/on_hand", `{"sku": "a", "on_hand": -1}`: "/on_hand", `{"sku": "a", "on_hand": 1.5}`: "/on_hand",
			`{"sku": "a", "on_hand": 1e3}`: "/on_hand", `{"sku": "a", "on_hand": "1"}`: "/on_hand", `{"sku": "a", "on_hand": 1000000000001}`: "/on_hand",
			`{"sku": "a", "on_hand": 9223372036854775808}`: "/on_hand", `{"sku": "a", "on_hand": 01}`: "-", "sku,on_hand": "-", "\ufeff{}": "-",
			strings.Repeat("[", 10_000): "-", strings.Repeat("x", 3*maxRow): "stop",
		},
	}
}

const csvHeader = "sku,on_hand,name,location\n"

func TestHostileRowsAreRejectedOneByOne(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	before := s.dump(t)
	count := 0
	for media, rows := range hostileRows() {
		header, good := "", `{"sku": "a", "on_hand": 10}`+"\n"
		if media == mediaCSV {
			header, good = csvHeader, "a,10,,\n"
		}
		for row, pointer := range rows {
			count++
			got := s.importRows(t, media, header+good+row+"\n"+good)
			if pointer == "stop" {
				got.wantTotal(t, row[:min(len(row), 80)], 0, 1, 0)
				if p := got.total.Problem; p == nil || p.Code != problem.Invalid && p.Code != problem.TooLarge || p.Code == problem.TooLarge != (len(row) > maxRow) {
					t.Errorf("%.80q stops the import with %+v", row, p)
				}
				continue
			}
			got.wantTotal(t, row[:min(len(row), 80)], 0, 2, 1)
			if len(got.rows) != 3 || got.rows[1].Problem == nil || got.total.Problem != nil {
				t.Errorf("%.80q: %+v", row, got)
				continue
			}
			p := got.rows[1].Problem
			named := p.Code == problem.Invalid && pointer == resttest.AnyPointer
			for _, e := range p.Errors {
				named = named || p.Code == problem.Invalid && e.Pointer == pointer
			}
			if !named {
				t.Errorf("%.80q: %+v does not name %q", row, p, pointer)
			}
		}
	}
	if count < 60 {
		t.Errorf("there are only %d rows", count)
	}
	if after := s.dump(t); after != before {
		t.Errorf("the rows changed from\n%s to\n%s", before, after)
	}
	t.Logf("%d hostile rows", count)
}

func TestImportReportsEveryErrorOfARow(t *testing.T) {
	t.Parallel()
	got := start(t).importRows(t, "text/csv", "sku,on_hand,name\na,many,caf\xe9\n").rows[0]
	if p := got.Problem; got.SKU != "a" || p == nil || len(p.Errors) != 2 || p.Errors[0].Pointer != "/name" || p.Errors[1].Pointer != "/on_hand" {
		t.Errorf("got %+v", got)
	}
}

func TestImportOfManyBatches(t *testing.T) {
	t.Parallel()
	s := start(t)
	const rows = 3*importBatch + 7
	var file strings.Builder
	file.WriteString("sku,on_hand\n")
	for i := range rows {
		fmt.Fprintf(&file, "s%04d,%d\n", i, i)
	}
	s.importRows(t, "text/csv", file.String()).wantTotal(t, "first", rows, 0, 0)
	s.importRows(t, "text/csv", file.String()).wantTotal(t, "again", 0, rows, 0)
	s.wantLevel(t, "then", "s0700", 700, 0)
	s.importRows(t, "text/csv", "sku,on_hand\n").wantTotal(t, "no rows", 0, 0, 0)
	s.importRows(t, "application/x-ndjson", "").wantTotal(t, "nothing", 0, 0, 0)
}

// A sender may wait for the report of the rows it has sent before it sends more.
func TestImportReportsWhileItReads(t *testing.T) {
	t.Parallel()
	s := start(t)
	read, write := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/v1/stock/import", read)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/csv")
	rows := func(from int) string {
		var out strings.Builder
		for i := range importBatch {
			fmt.Fprintf(&out, "s%d,1\n", from+i)
		}
		return out.String()
	}
	go func() { _, _ = io.WriteString(write, "sku,on_hand\n"+rows(0)) }() // the report shows whether it arrived
	response, err := s.Contract.Transport(http.DefaultTransport, func(err error) { t.Error(err) }).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for i := range importBatch {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatalf("the report ends at row %d: %v", i+1, err)
		}
	}
	s.wantLevel(t, "before the sender sends more", "s255", 1, 0)
	if _, err := io.WriteString(write, rows(importBatch)); err != nil {
		t.Fatal(err)
	}
	if err := write.Close(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil || !bytes.HasSuffix(rest, []byte(fmt.Sprintf("{\"rows\":%d,\"done\":%[1]d,\"unchanged\":0,\"rejected\":0}\n", 2*importBatch))) {
		t.Errorf("the report ends with %.200s, %v", rest[max(0, len(rest)-200):], err)
	}
}

// An interrupted import has set the levels that it reported, and can be sent again.
func TestInterruptedImportCanBeRepeated(t *testing.T) {
	t.Parallel()
	s := start(t)
	const good = importBatch + 3
	var file strings.Builder
	file.WriteString("sku,on_hand\n")
	for i := range good {
		fmt.Fprintf(&file, "s%d,1\n", i)
	}
	connection, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	// The Content-Length is larger than the body.
	fmt.Fprintf(connection, "POST /v1/stock/import HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", file.Len()+1000, file.String())
	if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := parseImport(t, resttest.Response{Body: string(body)})
	if p := got.total.Problem; p == nil || p.Code != problem.Unavailable || !strings.Contains(p.Detail, "broke off") {
		t.Errorf("the report ends with %+v", got.total)
	}
	got.wantTotal(t, "the interrupted import", good, 0, 0)
	s.importRows(t, "text/csv", file.String()+"more,1\n").wantTotal(t, "the whole import again", 1, good, 0)
}

// FuzzImport checks that every row has a line in the report, and that the report
// has an end.
func FuzzImport(f *testing.F) {
	for media, rows := range hostileRows() {
		for row := range rows {
			if len(row) > 10_000 {
				continue
			}
			if media == mediaCSV {
				row = csvHeader + row
			}
			f.Add(media == mediaCSV, []byte(row+"\n"))
		}
	}
	f.Add(true, []byte(csvHeader+"a,1,x,\n\"b\",2,,shop\r\n"))
	f.Add(false, []byte(`{"sku": "a", "on_hand": 1}`))
	s := start(f)
	f.Fuzz(func(t *testing.T, isCSV bool, body []byte) {
		media := mediaNDJSON
		if isCSV {
			media = mediaCSV
		}
		r := s.Call(t, "POST", "/v1/stock/import", string(body), "Content-Type", media)
		if isCSV && (r.Problem.Code == problem.Invalid || r.Problem.Code == problem.TooLarge) {
			return // the header row
		}
		r.Want(t, "an import", 200, "")
		got := parseImport(t, r)
		if p := got.total.Problem; p != nil && p.Code != problem.Invalid && p.Code != problem.TooLarge {
			t.Errorf("%q ends with %+v", body, p)
		}
		for _, row := range got.rows {
			if p := row.Problem; p != nil && p.Code != problem.Invalid {
				text, _ := json.Marshal(p)
				t.Errorf("%q: row %d got %s", body, row.Row, text)
			}
		}
	})
}
