package httpapi

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/internal/strictjson"
	"roundtrip/services/inventory/internal/stock"
)

const (
	mediaCSV    = "text/csv"
	mediaNDJSON = "application/x-ndjson"

	// importBatch is how many rows are decided in one transaction.
	importBatch = 256
	// maxRow is the most bytes one row may have.
	maxRow = 64 << 10
	// importPause is how long a stream may pause. After that, the import stops.
	importPause = 30 * time.Second
)

// importRow is one row. err says why the row could not be read.
type importRow struct {
	stock.ImportRow
	err error
}

// rowReader returns the rows of a stream one by one, and io.EOF at its end. After any
// other error the stream can't be read further.
type rowReader func() (importRow, error)

type rowReport struct {
	Row      int64            `json:"row"`
	SKU      string           `json:"sku"`
	Location string           `json:"location"`
	Outcome  string           `json:"outcome"`
	Problem  *problem.Problem `json:"problem,omitzero"`
}

type importReport struct {
	Rows      int64            `json:"rows"`
	Done      int64            `json:"done"`
	Unchanged int64            `json:"unchanged"`
	Rejected  int64            `json:"rejected"`
	Problem   *problem.Problem `json:"problem,omitzero"`
}

// importStock sets levels row by row while the rows still arrive, and reports on each
// row. It keeps only one batch of rows in memory, so a stream may have any length.
func (a api) importStock(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	control := http.NewResponseController(c.Response())
	sender := pausing{c.Request().Body, c.Response(), control}
	next, err := rowsOf(c, sender)
	if err != nil {
		return err
	}
	// Report while reading. If the connection can't do that, the report follows.
	_ = control.EnableFullDuplex()
	c.Response().Header().Set(echo.HeaderContentType, mediaNDJSON)
	c.Response().WriteHeader(http.StatusOK)

	out := bufio.NewWriter(sender)
	importID := "import-" + uuid.NewString()
	var total importReport
	for {
		rows, err := batch(next, importID, total.Rows)
		// Rows that were read are imported, even if the sender has disconnected.
		a.importBatch(context.WithoutCancel(c.Request().Context()), rows, out, &total)
		if err == nil {
			if err := errors.Join(out.Flush(), control.Flush()); err != nil {
				return err // the connection is closed
			}
			continue
		}
		if !errors.Is(err, io.EOF) {
			total.Problem = rest.AsProblem(err)
		}
		writeLine(out, total)
		err = errors.Join(out.Flush(), control.Flush())
		_ = control.SetReadDeadline(time.Now().Add(importPause))
		// Read the rest of the stream, for at most importPause. Without this, net/http
		// loses the end of the report if the body was not read to its end.
		_, _ = io.Copy(io.Discard, c.Request().Body)
		return err
	}
}

// batch reads up to importBatch rows and numbers them.
func batch(next rowReader, importID string, before int64) ([]importRow, error) {
	var rows []importRow
	for len(rows) < importBatch {
		row, err := next()
		if err != nil {
			return rows, err
		}
		row.ImportID, row.Row = importID, before+int64(len(rows))+1
		rows = append(rows, row)
	}
	return rows, nil
}

func (a api) importBatch(ctx context.Context, rows []importRow, out io.Writer, total *importReport) {
	var readable []stock.ImportRow
	for _, row := range rows {
		if row.err == nil {
			readable = append(readable, row.ImportRow)
		}
	}
	results := a.service.Import(ctx, readable)
	for _, row := range rows {
		report := rowReport{Row: row.Row, SKU: row.SKU, Location: row.Location, Outcome: "unchanged"}
		err := row.err
		if err == nil {
			err = results[0].Err
			if results[0].Changed {
				report.Outcome = "done"
			}
			results = results[1:]
		}
		total.Rows++
		switch {
		case err != nil:
			report.Outcome, report.Problem = "rejected", rest.AsProblem(err)
			total.Rejected++
		case report.Outcome == "done":
			total.Done++
		default:
			total.Unchanged++
		}
		writeLine(out, report)
	}
}

func writeLine(out io.Writer, v any) {
	line, err := json.Marshal(v)
	if err != nil { // reports have only strings, numbers and problems
		panic(err)
	}
	_, _ = out.Write(append(line, '\n')) // Flush returns this error too
}

// pausing is the connection to the sender. The sender may pause for [importPause] before
// each part that it sends, and before each part of the report that it reads.
type pausing struct {
	body    io.Reader
	report  io.Writer
	control *http.ResponseController
}

func (p pausing) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(importPause))
	return p.body.Read(b)
}

func (p pausing) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(importPause))
	return p.report.Write(b)
}

func rowsOf(c echo.Context, body io.Reader) (rowReader, error) {
	media, err := rest.Media(c, mediaCSV, mediaNDJSON)
	if err != nil {
		return nil, err
	}
	if media == mediaCSV {
		return csvRows(body)
	}
	return ndjsonRows(body), nil
}

// csvRows reads CSV (RFC 4180) whose first row names the columns.
func csvRows(body io.Reader) (rowReader, error) {
	limit := &rowLimit{in: body}
	rows := csv.NewReader(limit)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return nil, invalidRow("", "is empty; the first row must name the columns")
	}
	if err != nil {
		return nil, brokenOff(err, "the header row can't be read")
	}
	columns := []string{"sku", "name", "location", "on_hand"}
	var f problem.Fields
	place := map[string]int{}
	for i, name := range header {
		name = strings.TrimPrefix(name, "\ufeff") // spreadsheets write this at the start of a file
		if _, twice := place[name]; twice || !slices.Contains(columns, name) {
			f.Add("", "the header row has an unknown or repeated column; the columns are %v", columns)
		}
		place[name] = i
	}
	for _, name := range []string{"sku", "on_hand"} {
		if _, ok := place[name]; !ok {
			f.Add("", "the header row has no column %s", name)
		}
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return func() (importRow, error) {
		limit.row = 0
		record, err := rows.Read()
		if errors.Is(err, csv.ErrFieldCount) {
			return importRow{err: invalidRow("", "has %d fields, not %d", len(record), len(header))}, nil
		}
		if err != nil {
			return importRow{}, brokenOff(err, "a row can't be read")
		}
		var f problem.Fields
		field := func(name string) string {
			i, ok := place[name]
			if !ok {
				return ""
			}
			if !utf8.ValidString(record[i]) || strings.ContainsRune(record[i], 0) {
				f.Add("/"+name, "must be UTF-8 without NUL")
			}
			return strings.ToValidUTF8(strings.Clone(record[i]), "\ufffd")
		}
		row := importRow{ImportRow: stock.ImportRow{SKU: field("sku"), Name: field("name"), Location: field("location")}}
		if row.Location == "" {
			row.Location = stock.MainLocation
		}
		onHand, err := strconv.ParseUint(field("on_hand"), 10, 63)
		if err != nil {
			f.Add("/on_hand", "must be an integer, written with digits only")
		}
		row.OnHand, row.err = int64(onHand), f.Err()
		return row, nil
	}, nil
}

// ndjsonRows reads one JSON object from each line.
func ndjsonRows(body io.Reader) rowReader {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 4<<10), maxRow)
	return func() (importRow, error) {
		for lines.Scan() {
			if len(strings.TrimSpace(lines.Text())) == 0 {
				continue
			}
			var row struct {
				SKU      string  `json:"sku"`
				Name     string  `json:"name"`
				Location *string `json:"location"`
				OnHand   *int64  `json:"on_hand"`
			}
			err := strictjson.Unmarshal(lines.Bytes(), &row)
			onHand := int64(0)
			if row.OnHand != nil {
				onHand = *row.OnHand
			} else if err == nil {
				err = invalidRow("/on_hand", "is missing")
			}
			return importRow{stock.ImportRow{
				SKU: row.SKU, Name: row.Name, Location: stock.LocationOr(row.Location), OnHand: onHand,
			}, err}, nil
		}
		if err := lines.Err(); err != nil {
			return importRow{}, brokenOff(err, "a row can't be read")
		}
		return importRow{}, io.EOF
	}
}

func invalidRow(pointer, format string, args ...any) error {
	var f problem.Fields
	f.Add(pointer, format, args...)
	return f.Err()
}

// brokenOff returns the reason why no more rows can be read. io.EOF stays io.EOF.
func brokenOff(err error, what string) error {
	var syntax *csv.ParseError
	switch {
	case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	case errors.As(err, &syntax):
		return invalidRow("", "%s: line %d: %s", what, syntax.Line, syntax.Err)
	case errors.Is(err, bufio.ErrTooLong), errors.Is(err, errRowTooLong):
		return problem.New(problem.TooLarge, "A row may have at most %d bytes.", maxRow)
	}
	return problem.Wrap(err, problem.Unavailable, "The stream broke off; what was reported is imported.")
}

var errRowTooLong = errors.New("row too long")

// rowLimit refuses a row that is too long. Without it, a CSV reader would keep the
// whole row in memory, because a quoted field may have any number of lines.
type rowLimit struct {
	in io.Reader
	// row counts the bytes that were read since the last row ended.
	row int
}

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.row > maxRow {
		return 0, errRowTooLong
	}
	n, err := l.in.Read(p)
	l.row += n
	return n, err
}
