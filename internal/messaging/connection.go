package messaging

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// connectTimeout limits one attempt to connect. If a server disappears without
	// closing the connection, pings detect it within pingInterval * (maxPings + 1).
	connectTimeout = 2 * time.Second
	pingInterval   = 5 * time.Second
	maxPings       = 2
	// reconnectWait and maxReconnectWait are the shortest and the longest time between
	// two attempts to connect again.
	reconnectWait    = 100 * time.Millisecond
	maxReconnectWait = 2 * time.Second
)

// Connect makes a connection that lasts. It connects in the background, also the first
// time, and again whenever the connection is lost. The name identifies the service's
// connections in the server's monitoring. The names of its inboxes begin with it too,
// so that a server can allow a service only its own inboxes. credentials is a file
// (.creds) that is read at every connect, or "" for none.
func Connect(url, name, credentials string, log *slog.Logger) (*nats.Conn, error) {
	log = log.With("nats", name)
	options := []nats.Option{
		nats.Name(name), nats.CustomInboxPrefix("_INBOX_" + name), nats.Timeout(connectTimeout),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(maxPings),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.CustomReconnectDelay(reconnectDelay),
		// The client reconnects even after its credentials were refused twice, because new
		// ones may arrive soon.
		nats.IgnoreAuthErrorAbort(),
		// There is no buffer: without a connection, sending fails.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(c *nats.Conn) { log.Info("connected", "server", c.ConnectedUrlRedacted()) }),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("connected again", "server", c.ConnectedUrlRedacted()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the connection was lost", "error", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("can't connect", "error", err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Error("NATS reported an error", "error", err) }),
	}
	if credentials != "" {
		options = append(options, nats.UserCredentials(credentials))
	}
	c, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return c, nil
}

// reconnectDelay doubles with each round of attempts. A part of it is random, so that
// clients that lost the same server do not come back at the same time.
func reconnectDelay(rounds int) time.Duration {
	ceiling := min(reconnectWait<<min(rounds, 5), maxReconnectWait)
	return ceiling/2 + rand.N(ceiling/2)
}
