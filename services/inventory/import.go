package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"roundtrip/internal/cli"
	"roundtrip/internal/restclient"
)

type importCommand struct {
	File   string `arg:"" help:"CSV with a header row, or NDJSON: sku, name, location (optional), on_hand. - reads standard input."`
	URL    string `help:"URL of the inventory to import into." default:"http://127.0.0.1:8081"`
	Format string `help:"csv or ndjson. Default: guessed from the file's name." enum:"csv,ndjson," default:""`
}

// Run sends the file and prints every rejected row.
func (i importCommand) Run(ctx context.Context) error {
	in, size := io.Reader(os.Stdin), int64(-1)
	if i.File != "-" {
		file, err := os.Open(i.File)
		if err != nil {
			return err
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil {
			size = info.Size()
		}
		in = file
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		bar := progressbar.DefaultBytes(size, "importing")
		defer bar.Close()
		in = io.TeeReader(in, bar)
	}
	client, err := restclient.New(i.URL, restclient.Options{Proxy: http.ProxyFromEnvironment})
	if err != nil {
		return err
	}
	report, err := client.Upload(ctx, http.MethodPost, "/v1/stock/import", i.mediaType(), in)
	if err != nil {
		return err
	}
	defer report.Close()
	return showReport(report, os.Stdout)
}

func (i importCommand) mediaType() string {
	if i.Format == "ndjson" || i.Format == "" && strings.HasSuffix(filepath.Base(i.File), "json") {
		return "application/x-ndjson"
	}
	return "text/csv"
}

// showReport prints the rejected rows and the totals from the last line.
func showReport(report io.Reader, out io.Writer) error {
	type problem struct {
		Detail string
		Errors []struct{ Pointer, Detail string }
	}
	var line struct {
		Row                             int64
		SKU, Location, Outcome          string
		Problem                         *problem
		Rows, Done, Unchanged, Rejected *int64
	}
	rejected := func() {
		fmt.Fprintf(out, "row %d (%s at %s) was rejected: %s", line.Row, line.SKU, line.Location, line.Problem.Detail)
		for _, e := range line.Problem.Errors {
			fmt.Fprintf(out, " %s %s.", strings.TrimPrefix(e.Pointer, "/"), e.Detail)
		}
		fmt.Fprintln(out)
	}
	lines := bufio.NewReader(report)
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("the report is incomplete, so part of the file may not be imported; import the file again: %w", err)
		}
		line.Problem, line.Rows = nil, nil
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(&line); err != nil {
			return fmt.Errorf("read the report: %w", err)
		}
		switch {
		case line.Rows == nil && line.Problem != nil:
			rejected()
		case line.Rows != nil:
			fmt.Fprintf(out, "%d rows: %d done, %d unchanged, %d rejected\n", *line.Rows, *line.Done, *line.Unchanged, *line.Rejected)
			if line.Problem != nil {
				return fmt.Errorf("only part of the file could be read: %s %v", line.Problem.Detail, line.Problem.Errors)
			}
			if *line.Rejected > 0 {
				return cli.Exit(cli.ExitDifference, fmt.Errorf("%d rows were rejected", *line.Rejected))
			}
			return nil
		}
	}
}
