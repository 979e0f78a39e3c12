package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"

	"roundtrip/internal/exchange"
	"roundtrip/test/support/caller"
	"roundtrip/test/support/containers"
)

// loadFault is a fault while callers send requests.
type loadFault struct {
	name, about string
	setting     setting
	// whyNot says why the fault can't occur, by wire.
	whyNot map[string]string
	// ordersReads says that orders can still read its orders.
	ordersReads bool
	// inject starts the fault, and heal ends it.
	inject, heal func(sys *system)
}

// faultDuration is how long a fault lasts.
const faultDuration = 3 * time.Second

// noBroker is the reason why NATS faults can't occur on other wires.
const noBroker = "There is no server between the services on this wire."

var loadFaults = []loadFault{
	{
		name: "inventory killed", about: "kill -9 under load, and a restart; on PostgreSQL.", setting: setting{store: "postgres"}, ordersReads: true,
		inject: func(sys *system) { sys.kill(sys.inventory) }, heal: func(sys *system) { sys.restart(sys.inventory) },
	},
	{
		name: "inventory killed, on SQLite", about: "kill -9 under load, and a restart.", setting: setting{store: "sqlite"}, ordersReads: true,
		inject: func(sys *system) { sys.kill(sys.inventory) }, heal: func(sys *system) { sys.restart(sys.inventory) },
	},
	{
		name: "orders killed", about: "kill -9 under load, and a restart; on PostgreSQL.", setting: setting{store: "postgres"},
		inject: func(sys *system) { sys.kill(sys.orders) }, heal: func(sys *system) { sys.restart(sys.orders) },
	},
	{
		name: "orders killed, on SQLite", about: "kill -9 under load, and a restart.", setting: setting{store: "sqlite"},
		inject: func(sys *system) { sys.kill(sys.orders) }, heal: func(sys *system) { sys.restart(sys.orders) },
	},
	{
		name: "PostgreSQL killed", about: "The server of both services: kill -9 under load, and a restart.", setting: setting{store: "postgres", ownPostgres: true, killsPostgres: true},
		inject: func(sys *system) { sys.check(sys.postgres.Kill(sys.Context())) }, heal: func(sys *system) { sys.check(sys.postgres.Restart(sys.Context())) },
	},
	{
		name: "PostgreSQL paused", about: "The server of both services is paused.", setting: setting{store: "postgres", ownPostgres: true},
		inject: func(sys *system) { sys.check(sys.postgres.Pause(sys.Context())) }, heal: func(sys *system) { sys.check(sys.postgres.Resume(sys.Context())) },
	},
	{
		name: "PostgreSQL out of connections", about: "Another client takes every connection of the server.",
		setting: setting{store: "postgres", ownPostgres: true, postgresArgs: []string{"-c", "max_connections=60"}},
		inject:  func(sys *system) { sys.takeConnections() }, heal: func(sys *system) { sys.releaseConnections() },
	},
	{
		name: "NATS killed", about: "kill -9 under load, and a restart.", setting: setting{store: "postgres", ownNATS: true}, ordersReads: true,
		whyNot: map[string]string{"http": noBroker, "grpc": noBroker},
		inject: func(sys *system) { sys.check(sys.nats.Kill(sys.Context())) },
		heal: func(sys *system) {
			sys.check(sys.nats.Start(sys.Context()))
			sys.check(listens(sys.Context(), sys.nats, "4222"))
		},
	},
	diskFull("inventory"), diskFull("orders"),
}

// diskFull fills the disk of a service's SQLite database.
func diskFull(service string) loadFault {
	return loadFault{
		name: "the disk of " + service + " full", about: "The disk with the SQLite database of " + service + " is full until a file is removed.", setting: setting{store: "sqlite", smallDisk: service}, ordersReads: true,
		inject: func(sys *system) {
			// dd fails when the disk is full.
			_, err := sys.disk.Run(sys.Context(), "dd", "if=/dev/zero", "of=/data/filler", "bs=4096")
			if exit := (containers.ExitError{}); err == nil || !errors.As(err, &exit) {
				sys.Fatalf("fill the disk: %v", err)
			}
		},
		heal: func(sys *system) {
			_, err := sys.disk.Run(sys.Context(), "rm", "/data/filler")
			sys.check(err)
		},
	}
}

// makeSmallDisk makes a disk of a few megabytes for a service, and a container that
// can fill it.
func (sys *system) makeSmallDisk(service string) {
	sys.Helper()
	name := sys.name + "-" + service
	_, err := sys.engine.VolumeCreate(sys.Context(), client.VolumeCreateOptions{
		Name: name, Driver: "local", DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=32m,uid=65532,mode=0700"}, Labels: containers.Labels(),
	})
	sys.check(err)
	sys.cleanup(func(ctx context.Context) error {
		_, err := sys.engine.VolumeRemove(ctx, name, client.VolumeRemoveOptions{})
		return err
	})
	sys.disk, err = containers.PostgresImage.Start(sys.Context(), nil, testcontainers.WithEntrypoint("sleep", "infinity"), testcontainers.WithHostConfigModifier(func(host *container.HostConfig) {
		host.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: "/data"}}
	}))
	sys.check(err)
	sys.cleanup(sys.disk.Stop)
	sys.volumes = map[string]string{service: name}
}

// takeConnections takes every connection of the system's PostgreSQL, including those
// of the services.
func (sys *system) takeConnections() {
	sys.Helper()
	address, err := sys.postgres.Address(sys.Context(), "postgres")
	sys.check(err)
	for {
		c, err := pgx.Connect(sys.Context(), address)
		if err == nil {
			sys.takenConnections = append(sys.takenConnections, c)
			continue
		}
		// Terminate the services' connections until none is left.
		var others int
		sys.check(sys.takenConnections[0].QueryRow(sys.Context(), "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname <> 'postgres'").Scan(&others))
		if others == 0 {
			return
		}
	}
}

func (sys *system) releaseConnections() {
	sys.Helper()
	for _, c := range sys.takenConnections {
		sys.check(c.Close(sys.Context()))
	}
}

func TestFaultsUnderLoad(t *testing.T) {
	t.Parallel()
	for _, b := range loadFaults {
		for _, wire := range wires {
			r, s := loads.row(b.name, b.about), b.setting
			if why := b.whyNot[wire]; why != "" {
				r.open(t, wire, s.store, why)
				continue
			}
			t.Run(b.name+"/"+wire, func(t *testing.T) {
				t.Parallel()
				opened := r.open(t, wire, s.store, "", allExchanges...)
				s := s
				s.wire = wire
				sys := startSystem(t, s)
				l := sys.load(1)
				stop := l.Run()
				l.WaitFor(30, nil)
				sys.recorder.during(b.name, func() {
					b.inject(sys)
					if b.ordersReads {
						sys.checkRead("order-1")
					}
					closedWithin(t.Context().Done(), faultDuration)
					b.heal(sys)
				})
				faultEnd := time.Now()
				l.WaitFor(30, nil)
				stop()
				sys.waitSettled()
				sys.recorder.settled = time.Since(faultEnd)
				l.Check(nil)
				sys.audit()
				sys.close(opened)
			})
		}
	}
}

// load makes a load whose requests are recorded.
func (sys *system) load(seed uint64) *caller.Load {
	sys.Helper()
	l := caller.NewLoad(sys, sys.Services, seed)
	l.Reads = true
	l.Observe = func(operation, id string, began time.Time, r caller.Response) {
		c := call{operation: operation, order: id, began: began, end: time.Now(), timeout: exchange.MaxTimeout, response: r}
		if r.Header != nil {
			c.requestID = r.Header.Get(exchange.RequestIDHeader)
		}
		sys.recorder.add(c)
	}
	return l
}

// Callers see no failure while replicas are replaced. This test and the next do not
// run in parallel with others.
func TestRollingRestart(t *testing.T) {
	r := loads.row("a rolling restart of both", "Two replicas of each. A replica is added and an old one stopped, until all are new. No request fails.")
	withReplicas(t, r, func(sys *system) {
		for _, s := range []*service{sys.orders, sys.inventory} {
			for _, old := range slices.Clone(s.replicas) {
				sys.recorder.during("a replica of "+s.name+" is replaced", func() {
					sys.ready(sys.add(s))
					sys.remove(s, old)
				})
			}
		}
	})
}

func TestReplicaKilled(t *testing.T) {
	r := loads.row("a replica of each killed", "Two replicas of each. One of orders, then one of inventory is killed with -9. Requests in flight at the replica of orders break and are "+
		"retried. No other request fails.")
	withReplicas(t, r, func(sys *system) {
		for _, s := range []*service{sys.orders, sys.inventory} {
			sys.recorder.during("a replica of "+s.name+" is killed", func() {
				sys.check(s.replicas[0].Kill(sys.Context()))
				s.replicas = s.replicas[1:]
				sys.route(s)
				closedWithin(sys.Context().Done(), time.Second)
			})
			sys.ready(sys.add(s))
		}
	})
}

// withReplicas runs do with two replicas of each service under load, on one wire
// after the other.
func withReplicas(t *testing.T, r *row, do func(sys *system)) {
	for _, wire := range wires {
		t.Run(wire, func(t *testing.T) {
			opened := r.open(t, wire, "postgres", "", allExchanges...)
			sys := startSystem(t, setting{wire: wire, store: "postgres", ordersReplicas: 2, inventoryReplicas: 2})
			l := sys.load(1)
			l.Callers, l.Pace = 16, 10*time.Millisecond
			stop := l.Run()
			l.WaitFor(200, nil)
			began := time.Now()
			do(sys)
			l.WaitFor(200, nil)
			took := time.Since(began)
			stop()
			sys.recorder.settled = sys.waitSettled()
			sent, broken := 0, 0
			for _, c := range sys.recorder.calls {
				if c.began.Before(began) {
					continue
				}
				sent++
				switch {
				case c.response.Err != nil:
					broken++
				case c.unknown() || c.response.Status >= 500:
					opened[c.operation].Errorf("%s %s: %d %s", c.operation, c.order, c.response.Status, c.response.Text)
				}
			}
			// A replica has at most one request of each caller in flight.
			if broken > l.Callers || broken > 0 && r.name == "a rolling restart of both" {
				t.Errorf("%d requests broke", broken)
			}
			rate := fmt.Sprintf("%.0f requests a second", float64(sent)/took.Seconds())
			t.Log(rate)
			sys.recorder.annotations = append(sys.recorder.annotations, annotation{began, began.Add(took), rate})
			l.Check(nil)
			sys.audit()
			sys.close(opened)
		})
	}
}
