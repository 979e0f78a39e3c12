package messaging

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// connectTimeout bounds one attempt to connect; pings find a server that is
	// gone without a word within pingInterval * (maxPings + 1).
	connectTimeout = 2 * time.Second
	pingInterval   = 5 * time.Second
	maxPings       = 2
	// reconnectWait and maxReconnectWait are the least and the most time between two
	// attempts to connect again.
	reconnectWait    = 100 * time.Millisecond
	maxReconnectWait = 2 * time.Second
)

// Connect makes a connection that stays: it connects in the background, also the
// first time, and again whenever it is lost. The name tells a service's
// connections from others', in the server's monitoring and in the names of its
// inboxes, so that a server can allow it those alone. credentials is a file
// (.creds) that is read at every connect, or "" for none.
func Connect(url, name, credentials string, log *slog.Logger) (*nats.Conn, error) {
	log = log.With("nats", name)
	options := []nats.Option{
		nats.Name(name), nats.CustomInboxPrefix("_INBOX_" + name), nats.Timeout(connectTimeout),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(maxPings),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.CustomReconnectDelay(reconnectDelay),
		// Who is refused twice goes on: the credentials may be on their way.
		nats.IgnoreAuthErrorAbort(),
		// Nothing is kept for later: what is sent while there is no connection fails.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(c *nats.Conn) { log.Info("connected", "server", c.ConnectedUrlRedacted()) }),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("connected again", "server", c.ConnectedUrlRedacted()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the connection was lost", "error", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("can't connect", "error", err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Error("from NATS", "error", err) }),
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

// reconnectDelay doubles with each round of attempts, with a random part so that
// clients who lost one server together do not come back together.
func reconnectDelay(rounds int) time.Duration {
	ceiling := min(reconnectWait<<min(rounds, 5), maxReconnectWait)
	return ceiling/2 + rand.N(ceiling/2)
}
