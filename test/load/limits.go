package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"time"

	"roundtrip/test/support/containers"
)

//go:embed reservation.sql
var reservationScript string

// pgbenchResult counts transactions.
type pgbenchResult struct {
	done      int
	perSecond float64
}

// pgbench makes single reservations, one transaction each.
func pgbench(ctx context.Context, p *containers.Postgres, database string, clients, skus int, duration time.Duration) (pgbenchResult, error) {
	const command = `printf %s "$1" | pgbench --no-vacuum --protocol=prepared --jobs=2 --client="$2" --time="$3" --define=skus="$4" --file=- "$5"`
	// The time includes connecting, which takes seconds on a busy machine. The
	// transactions per second do not.
	seconds := fmt.Sprint(int(math.Ceil(duration.Seconds())) + 3)
	out, err := p.Run(ctx, "sh", "-c", command, "sh", reservationScript, fmt.Sprint(clients), seconds, fmt.Sprint(skus), p.AddressInside(database))
	if err != nil {
		return pgbenchResult{}, err
	}
	return parsePgbench(out)
}

var pgbenchFigures = regexp.MustCompile(`(?s)\nnumber of transactions actually processed: ([1-9][0-9]*)\n` +
	`number of failed transactions: 0 .*\ntps = ([0-9.]+) \(without initial connection time\)\n`)

func parsePgbench(out string) (r pgbenchResult, err error) {
	figures := pgbenchFigures.FindStringSubmatch(out)
	if figures == nil {
		return r, fmt.Errorf("pgbench failed:\n%s", out)
	}
	if r.done, err = strconv.Atoi(figures[1]); err != nil {
		return r, err
	}
	r.perSecond, err = strconv.ParseFloat(figures[2], 64)
	return r, err
}

// echo replaces a service. It only exchanges JSON of the same shape and size: no
// rules, no database, no log. Two echoes show the highest throughput that HTTP and
// JSON allow. It accepts the flags of the services.
type echo struct {
	HTTPAddr     string `name:"http-addr"`
	AdminAddr    string
	Database     string
	InventoryURL string
}

type echoReservation struct {
	ID          string `json:"id,omitempty"`
	Seq         int64  `json:"seq"`
	State       string `json:"state"`
	Lines       []line `json:"lines"`
	HoldSeconds int64  `json:"hold_seconds,omitempty"`
	ExpiresAt   string `json:"expires_at,omitempty"`
}

type echoOrder struct {
	ID    string `json:"id"`
	State string `json:"state"`
	placeBody
	Version       int64         `json:"version"`
	Total         int64         `json:"total"`
	HoldExpiresAt string        `json:"hold_expires_at"`
	CreatedAt     string        `json:"created_at"`
	UpdatedAt     string        `json:"updated_at"`
	LastOperation echoOperation `json:"last_operation"`
}

type echoOperation struct {
	Operation string `json:"operation"`
	Seq       int64  `json:"seq"`
	Outcome   string `json:"outcome"`
}

const echoTime = "2026-01-02T03:04:05.678Z"

// Run serves until ctx is done.
func (e echo) Run(ctx context.Context) error {
	api, err := net.Listen("tcp", e.HTTPAddr)
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", e.AdminAddr)
	if err != nil {
		return err
	}
	server, private := &http.Server{Handler: e.handler()}, &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(api) }()
	go func() { ended <- private.Serve(admin) }()
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("listening", "http", api.Addr().String(), "admin", admin.Addr().String())
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	return errors.Join(err, server.Close(), private.Close())
}

func (e echo) handler() http.Handler {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/reservations/{id}", e.reserve)
	mux.HandleFunc("PUT /v1/orders/{id}", func(w http.ResponseWriter, r *http.Request) { e.place(client, w, r) })
	return mux
}

func (echo) reserve(w http.ResponseWriter, r *http.Request) {
	var asked echoReservation
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	asked.ID, asked.HoldSeconds, asked.ExpiresAt = r.PathValue("id"), 0, echoTime
	answerJSON(w, http.StatusOK, asked)
}

func (e echo) place(client *http.Client, w http.ResponseWriter, r *http.Request) {
	var asked placeBody
	err := json.NewDecoder(r.Body).Decode(&asked)
	var reserved echoReservation
	if err == nil {
		err = e.ask(r.Context(), client, r.PathValue("id"), echoReservation{Seq: 1, State: "held", Lines: asked.Lines, HoldSeconds: asked.HoldSeconds}, &reserved)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerJSON(w, http.StatusCreated, echoOrder{
		ID: reserved.ID, State: "placed", placeBody: asked, Version: 2, Total: 255,
		HoldExpiresAt: reserved.ExpiresAt, CreatedAt: echoTime, UpdatedAt: echoTime,
		LastOperation: echoOperation{"place", reserved.Seq, "done"},
	})
}

func (e echo) ask(ctx context.Context, client *http.Client, id string, body echoReservation, into *echoReservation) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, e.InventoryURL+"/v1/reservations/"+id, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, into) // the text of an error is not JSON, so this fails
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // an error means that the caller is gone
}
