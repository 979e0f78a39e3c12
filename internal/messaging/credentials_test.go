package messaging_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"roundtrip/internal/exchange"
	"roundtrip/internal/messaging"
	"roundtrip/test/support/natsauth"
)

// Each side has the fewest permissions that it needs.
func TestCredentialsAreReadOnEveryConnect(t *testing.T) {
	t.Parallel()
	account, folder := natsauth.New(), t.TempDir()
	write := func(name string, content []byte) (path string) {
		t.Helper()
		path = filepath.Join(folder, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	url := startBroker(t, write("nats.conf", []byte(account.Config())))
	connect := func(name, credentials string) *nats.Conn {
		t.Helper()
		c, err := messaging.Connect(url, name, credentials, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	s := messaging.NewServer(connect("responder", write("responder.creds", account.User(time.Hour, natsauth.Responder("test.v1.*")))), "test.v1", "test", 8,
		exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.DiscardHandler), MaxInFlight: 100, Observe: func(exchange.RequestObservation) {}}))
	s.Handle("Get", func(context.Context, []byte) (any, error) { return "done", nil })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Shutdown(context.WithoutCancel(t.Context())) })

	if _, err := messaging.Connect(url, "caller", filepath.Join(folder, "absent"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("the caller connects without its file")
	}
	own := func(lasts time.Duration) []byte { return account.User(lasts, natsauth.Caller("caller", "test.v1.*")) }
	foreign := natsauth.New().User(time.Hour, natsauth.Caller("caller", "test.v1.*"))
	caller := connect("caller", write("caller.creds", foreign))
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), longWait)
		defer cancel()
		_, err := messaging.Request(ctx, caller, "test.v1.Get", 1, "")
		return err
	}
	eventually := func(what string, condition func() bool) {
		t.Helper()
		for end := time.Now().Add(longWait); !condition(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("timed out waiting: %s", what)
			}
		}
	}
	refused := func(when string) {
		t.Helper()
		time.Sleep(time.Second) // enough for several attempts to connect
		if err := ask(); exchange.Answered(err) || caller.IsClosed() {
			t.Fatalf("%s: got %v; the connection is closed: %t", when, err, caller.IsClosed())
		}
	}
	refused("with another account's credentials")
	write("caller.creds", own(8*time.Second))
	eventually("there is an answer", func() bool { return ask() == nil })
	eventually("expired credentials are refused", func() bool { return !exchange.Answered(ask()) })
	refused("with expired credentials")
	write("caller.creds", []byte("nonsense"))
	refused("with an invalid file")
	write("caller.creds", foreign)
	refused("with another account's credentials again")
	write("caller.creds", own(time.Hour))
	eventually("there is an answer again", func() bool { return ask() == nil })
	if err := caller.Publish("elsewhere", nil); err != nil {
		t.Fatal(err)
	}
	eventually("publishing elsewhere is refused", func() bool { return errors.Is(caller.LastError(), nats.ErrPermissionViolation) })
}

// startBroker starts a NATS server with the configuration at path.
func startBroker(t *testing.T, path string) (url string) {
	t.Helper()
	options, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	broker, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	broker.Start()
	t.Cleanup(func() { broker.Shutdown(); broker.WaitForShutdown() })
	if !broker.ReadyForConnections(longWait) {
		t.Fatal("the NATS server does not answer")
	}
	return broker.ClientURL()
}
