package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/database"
	"roundtrip/services/inventory/app"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/services/inventory/internal/store"
)

// asCommand is the variable that makes this test binary run as the command.
const asCommand = "INVENTORY_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// command runs the command in another process.
func command(t *testing.T, stdin string, args ...string) (exit int, out string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env, c.Stdin, c.Dir = append(os.Environ(), asCommand+"=yes"), strings.NewReader(stdin), t.TempDir()
	text, err := c.CombinedOutput()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(text)
}

func want(t *testing.T, what string, exit int, out string, wantExit int, says ...string) {
	t.Helper()
	if exit != wantExit {
		t.Errorf("%s: exit %d, want %d:\n%s", what, exit, wantExit, out)
	}
	for _, s := range says {
		if !strings.Contains(out, s) {
			t.Errorf("%s does not print %q, but\n%s", what, s, out)
		}
	}
}

// stocked makes a database with three reservations: x holds units of a, y has
// committed units of b, and z was held for both and then released.
func stocked(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "inventory.db")
	s, _, err := store.Open(t.Context(), database.Options{Source: database.FromAddress("sqlite:" + path)})
	if err != nil {
		t.Fatal(err)
	}
	ten := int64(10)
	for _, c := range []stock.Command{
		stock.Adjust{ID: "a", SKU: "a", Location: "main", OnHand: &ten, Reason: stock.ReasonCounted},
		stock.Adjust{ID: "b", SKU: "b", Location: "main", OnHand: &ten, Reason: stock.ReasonCounted},
		stock.Put{ID: "x", Seq: 1, State: stock.Held, HoldSeconds: stock.MaxHold, Lines: []stock.Line{{SKU: "a", Location: "main", Quantity: 6}}},
		stock.Put{ID: "y", Seq: 1, State: stock.Held, HoldSeconds: 60, Lines: []stock.Line{{SKU: "b", Location: "main", Quantity: 2}}},
		stock.Put{ID: "y", Seq: 2, State: stock.Committed},
		stock.Put{ID: "z", Seq: 1, State: stock.Held, HoldSeconds: 60, Lines: []stock.Line{
			{SKU: "a", Location: "main", Quantity: 1}, {SKU: "b", Location: "main", Quantity: 1}}},
		stock.Put{ID: "z", Seq: 2, State: stock.Released},
	} {
		if r := s.Do(t.Context(), []stock.Command{c})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAuditFindsEveryKindOfDifference(t *testing.T) {
	t.Parallel()
	path := stocked(t)
	exit, out := command(t, "", "audit", "--database=sqlite:"+path)
	want(t, "an audit without differences", exit, out, 0, "levels, ledger and reservations agree")

	for name, c := range map[string]struct {
		plant string
		finds []string
	}{
		"stock without a ledger entry": {"UPDATE levels SET on_hand = 11 WHERE sku = 'a'",
			[]string{"main/a: on hand against the ledger's sum: expected 10, found 11"}},
		"reserved without a reservation": {"UPDATE levels SET reserved = 7 WHERE sku = 'a'",
			[]string{"main/a: reserved against the ledger's sum: expected 6, found 7", "main/a: reserved against what is held: expected 6, found 7"}},
		"a deleted level": {"DELETE FROM levels WHERE sku = 'a'",
			[]string{"main/a: on hand against the ledger's sum: expected 10, found 0", "main/a: reserved against the ledger's sum: expected 6, found 0",
				"main/a: reserved against what is held: expected 6, found 0"}},
		"a release that freed no stock": {"UPDATE reservations SET state = 'released' WHERE id = 'x'",
			[]string{"main/a: reserved against what is held: expected 0, found 6", "x main/a: a reservation's effect on reserved: expected 0, found 6"}},
		"a hold that reserved too little": {"UPDATE reservation_lines SET quantity = 8 WHERE reservation_id = 'x'",
			[]string{"main/a: reserved against what is held: expected 8, found 6", "x main/a: a reservation's effect on reserved: expected 8, found 6"}},
		"a return that restored no stock": {"UPDATE reservations SET state = 'released' WHERE id = 'y'",
			[]string{"y main/b: a reservation's effect on hand: expected 0, found -2"}},
		"an order that took too little": {"UPDATE reservation_lines SET quantity = 3 WHERE reservation_id = 'y'",
			[]string{"y main/b: a reservation's effect on hand: expected -3, found -2"}},
		"an entry with a wrong quantity on hand": {"DROP TRIGGER ledger_stays; UPDATE ledger SET on_hand = 9 WHERE id = 1",
			[]string{"main/a entry 1: the ledger's running on hand: expected 10, found 9"}},
		"an entry with a wrong reserved quantity": {"DROP TRIGGER ledger_stays; UPDATE ledger SET reserved = 5 WHERE id = 3",
			[]string{"main/a entry 3: the ledger's running reserved: expected 6, found 5"}},
		"a deleted entry": {"DROP TRIGGER ledger_is_kept; DELETE FROM ledger WHERE id = 3",
			[]string{"main/a: reserved against the ledger's sum: expected 0, found 6", "x main/a: a reservation's effect on reserved: expected 6, found 0",
				"the ledger's running reserved: expected 1, found 7"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := stocked(t)
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(t.Context(), c.plant); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			exit, out := command(t, "", "audit", "--database=sqlite:"+path)
			want(t, "the audit", exit, out, 1, append(c.finds, "differences")...)
			for line := range strings.Lines(out) { // reservation z is correct everywhere
				if strings.Contains(line, "z ") {
					t.Errorf("it also reports %s", line)
				}
			}
		})
	}
}

func TestAuditFailsWithoutADatabase(t *testing.T) {
	t.Parallel()
	exit, out := command(t, "", "audit", "--database=sqlite:none.db")
	want(t, "an audit of a missing file", exit, out, 2, "no such file")
	path := filepath.Join(t.TempDir(), "text.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	exit, out = command(t, "", "audit", "--database=sqlite:"+path)
	want(t, "an audit of a text file", exit, out, 2, "not a database")
}

// serving starts an inventory and returns its URL.
func serving(t *testing.T) (url string) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, err := app.New(t.Context(), app.Options{
		HTTP: listen(), Admin: listen(), Database: database.Options{Source: database.FromAddress("sqlite:" + filepath.Join(t.TempDir(), "inventory.db"))},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 64,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := a.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return "http://" + a.Addr().String()
}

// levels returns the response with all levels.
func levels(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url + "/v1/stock?limit=200")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRepeatedImportChangesNothing(t *testing.T) {
	t.Parallel()
	const csv = "sku,name,location,on_hand\na,A thing,main,5\nb,,shop,7\n"
	const ndjson = `{"sku": "a", "name": "A thing", "on_hand": 5}` + "\n" + `{"sku": "b", "location": "shop", "on_hand": 7}` + "\n"
	for name, c := range map[string]struct {
		stdin string
		args  []string
	}{
		"CSV":                     {"", []string{file(t, "stock.csv", csv)}},
		"NDJSON":                  {"", []string{file(t, "stock.ndjson", ndjson)}},
		"NDJSON with --format":    {"", []string{"--format=ndjson", file(t, "stock.txt", ndjson)}},
		"CSV from standard input": {csv, []string{"-"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := serving(t)
			args := append([]string{"import", "--url=" + url + "/"}, c.args...)
			exit, out := command(t, c.stdin, args...)
			want(t, "an import", exit, out, 0, "2 rows: 2 done, 0 unchanged, 0 rejected")
			before := levels(t, url)
			if !strings.Contains(before, `"sku":"a","name":"A thing","location":"main","on_hand":5`) || !strings.Contains(before, `"location":"shop","on_hand":7`) {
				t.Errorf("the levels are %s", before)
			}
			exit, out = command(t, c.stdin, args...)
			want(t, "the repeat", exit, out, 0, "2 rows: 0 done, 2 unchanged, 0 rejected")
			if after := levels(t, url); after != before {
				t.Errorf("the repeat changed\n%s to\n%s", before, after)
			}
		})
	}
}

func TestImportSkipsInvalidRows(t *testing.T) {
	t.Parallel()
	url := serving(t)
	path := file(t, "stock.csv", "sku,name,location,on_hand\na,A thing,main,5\n,,,x\nb,caf\xe9,main,many\nc,,main\nd,,main,7\n")
	exit, out := command(t, "", "import", "--url="+url, path)
	want(t, "an import", exit, out, 1, "row 2 ( at main) was rejected", "on_hand must be an integer",
		"row 3 (b at main) was rejected: The request has fields that are not valid. name must be UTF-8 without NUL. on_hand must be an integer",
		"has 3 fields, not 4", "5 rows: 2 done, 0 unchanged, 3 rejected", "3 rows were rejected")
	if got := levels(t, url); !strings.Contains(got, `"sku":"a"`) || !strings.Contains(got, `"sku":"d"`) || strings.Contains(got, `"sku":"b"`) {
		t.Errorf("the levels are %s", got)
	}
}

func TestRepeatCompletesAFailedImport(t *testing.T) {
	t.Parallel()
	url := serving(t)
	var rows bytes.Buffer
	rows.WriteString("sku,on_hand\n")
	for i := range 300 {
		fmt.Fprintf(&rows, "s%03d,5\n", i)
	}
	whole := file(t, "whole.csv", rows.String())
	half := file(t, "half.csv", rows.String()+"\"s300,5\ns301,5\n")
	exit, out := command(t, "", "import", "--url="+url, half)
	want(t, "a file that can be read only in part", exit, out, 2, "300 rows: 300 done, 0 unchanged, 0 rejected", "only part of the file could be read")
	exit, out = command(t, "", "import", "--url="+url, whole)
	want(t, "the complete file", exit, out, 0, "300 rows: 0 done, 300 unchanged, 0 rejected")

	// The connection breaks, so the report has no end.
	breaking := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = io.WriteString(w, `{"row":1,"sku":"s000","location":"main","outcome":"done"}`+"\n"+`{"row":2,"sku"`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(breaking.Close)
	exit, out = command(t, "", "import", "--url="+breaking.URL, whole)
	want(t, "an incomplete report", exit, out, 2, "the report is incomplete", "import the file again")
}

func TestImportFails(t *testing.T) {
	t.Parallel()
	url := serving(t)
	empty := levels(t, url)
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no such file":   {[]string{"--url=" + url, "none.csv"}, "no such file"},
		"a folder":       {[]string{"--url=" + url, t.TempDir()}, "is a directory"},
		"an empty file":  {[]string{"--url=" + url, file(t, "empty.csv", "")}, "invalid"},
		"no header":      {[]string{"--url=" + url, file(t, "rows.csv", "a,5\n")}, "invalid"},
		"unknown format": {[]string{"--url=" + url, "--format=xml", file(t, "x.xml", "<a/>")}, "must be one of"},
		"no server":      {[]string{"--url=http://127.0.0.1:1", file(t, "stock.csv", "sku,on_hand\na,5\n")}, "connection refused"},
		"another server": {[]string{"--url=" + url + "/nowhere", file(t, "stock.csv", "sku,on_hand\na,5\n")}, "not-found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exit, out := command(t, "", append([]string{"import"}, c.args...)...)
			want(t, "an import", exit, out, 2, c.says)
		})
	}
	t.Cleanup(func() {
		if got := levels(t, url); got != empty {
			t.Errorf("the levels are %s", got)
		}
	})
}
