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
	"roundtrip/test/support/containers"
	"roundtrip/test/support/shop"
)

// breakdown is what happens to a part while callers go on.
type breakdown struct {
	name, about string
	setting     setting
	// whyNot is why it can't happen on a wire.
	whyNot map[string]string
	// reads says that orders can go on reading what it has.
	reads bool
	// harm breaks the part; mend is the end of it.
	harm, mend func(p *pair)
}

// harmFor is how long a part is broken.
const harmFor = 3 * time.Second

// noBroker is why some can't happen on wires other than NATS.
const noBroker = "The services speak to each other directly; there is no server between them."

var breakdowns = []breakdown{
	{
		name: "inventory killed", about: "kill -9 under load, and a restart; on PostgreSQL.", setting: setting{store: "postgres"}, reads: true,
		harm: func(p *pair) { p.kill(p.inventory) }, mend: func(p *pair) { p.again(p.inventory) },
	},
	{
		name: "inventory killed, on SQLite", about: "kill -9 under load, and a restart.", setting: setting{store: "sqlite"}, reads: true,
		harm: func(p *pair) { p.kill(p.inventory) }, mend: func(p *pair) { p.again(p.inventory) },
	},
	{
		name: "orders killed", about: "kill -9 under load, and a restart; on PostgreSQL.", setting: setting{store: "postgres"},
		harm: func(p *pair) { p.kill(p.orders) }, mend: func(p *pair) { p.again(p.orders) },
	},
	{
		name: "orders killed, on SQLite", about: "kill -9 under load, and a restart.", setting: setting{store: "sqlite"},
		harm: func(p *pair) { p.kill(p.orders) }, mend: func(p *pair) { p.again(p.orders) },
	},
	{
		name: "PostgreSQL killed", about: "Both services' server: kill -9 under load, and a restart.", setting: setting{store: "postgres", ownPostgres: true, killsPostgres: true},
		harm: func(p *pair) { p.check(p.postgres.Kill(p.Context())) }, mend: func(p *pair) { p.check(p.postgres.Restart(p.Context())) },
	},
	{
		name: "PostgreSQL paused", about: "Both services' server stands still.", setting: setting{store: "postgres", ownPostgres: true},
		harm: func(p *pair) { p.check(p.postgres.Pause(p.Context())) }, mend: func(p *pair) { p.check(p.postgres.Resume(p.Context())) },
	},
	{
		name: "PostgreSQL out of connections", about: "Somebody else has every connection of both services' server.",
		setting: setting{store: "postgres", ownPostgres: true, postgresArgs: []string{"-c", "max_connections=60"}},
		harm:    func(p *pair) { p.hog() }, mend: func(p *pair) { p.unhog() },
	},
	{
		name: "NATS killed", about: "kill -9 under load, and a restart.", setting: setting{store: "postgres", ownNATS: true}, reads: true,
		whyNot: map[string]string{"http": noBroker, "grpc": noBroker},
		harm:   func(p *pair) { p.check(p.nats.Kill(p.Context())) },
		mend: func(p *pair) {
			p.check(p.nats.Start(p.Context()))
			p.check(answers(p.Context(), p.nats, "4222"))
		},
	},
	full("inventory"), full("orders"),
}

// full is the disk of a service's SQLite database.
func full(service string) breakdown {
	return breakdown{
		name: "the disk of " + service + " full", about: "Nothing more fits beside the SQLite database of " + service + ", until something is removed.", setting: setting{store: "sqlite", smallDisk: service}, reads: true,
		harm: func(p *pair) {
			// It ends when nothing more fits.
			_, err := p.disk.Run(p.Context(), "dd", "if=/dev/zero", "of=/data/filler", "bs=4096")
			if exit := (containers.ExitError{}); err == nil || !errors.As(err, &exit) {
				p.Fatalf("the disk can't be filled: %v", err)
			}
		},
		mend: func(p *pair) {
			_, err := p.disk.Run(p.Context(), "rm", "/data/filler")
			p.check(err)
		},
	}
}

// smallDiskFor makes a disk of a few megabytes for a service, and a container that
// can fill it.
func (p *pair) smallDiskFor(service string) {
	p.Helper()
	name := p.name + "-" + service
	_, err := p.engine.VolumeCreate(p.Context(), client.VolumeCreateOptions{
		Name: name, Driver: "local", DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=32m,uid=65532,mode=0700"}, Labels: containers.Labels(),
	})
	p.check(err)
	p.atEnd(func(ctx context.Context) error {
		_, err := p.engine.VolumeRemove(ctx, name, client.VolumeRemoveOptions{})
		return err
	})
	p.disk, err = containers.PostgresImage.Start(p.Context(), nil, testcontainers.WithEntrypoint("sleep", "infinity"), testcontainers.WithHostConfigModifier(func(host *container.HostConfig) {
		host.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: "/data"}}
	}))
	p.check(err)
	p.atEnd(p.disk.Stop)
	p.volumes = map[string]string{service: name}
}

// hog takes every connection of the pair's PostgreSQL, also those that the services
// have.
func (p *pair) hog() {
	p.Helper()
	address, err := p.postgres.Address(p.Context(), "postgres")
	p.check(err)
	for {
		c, err := pgx.Connect(p.Context(), address)
		if err == nil {
			p.hogged = append(p.hogged, c)
			continue
		}
		// Whoever of the services has one is thrown out, until none has.
		var others int
		p.check(p.hogged[0].QueryRow(p.Context(), "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname <> 'postgres'").Scan(&others))
		if others == 0 {
			return
		}
	}
}

func (p *pair) unhog() {
	p.Helper()
	for _, c := range p.hogged {
		p.check(c.Close(p.Context()))
	}
}

func TestUnderLoad(t *testing.T) {
	t.Parallel()
	for _, b := range breakdowns {
		for _, wire := range wires {
			r, s := loads.row(b.name, b.about), b.setting
			if why := b.whyNot[wire]; why != "" {
				r.open(t, wire, s.store, why)
				continue
			}
			t.Run(b.name+"/"+wire, func(t *testing.T) {
				t.Parallel()
				opened := r.open(t, wire, s.store, "", everyExchange...)
				s := s
				s.wire = wire
				p := startPair(t, s)
				l := p.load(1)
				stop := l.Run()
				l.Flows(30, nil)
				p.diary.during(b.name, func() {
					b.harm(p)
					if b.reads {
						p.mustRead("order-1")
					}
					isClosed(t.Context().Done(), harmFor)
					b.mend(p)
				})
				mended := time.Now()
				l.Flows(30, nil)
				stop()
				p.settles()
				p.diary.settled = time.Since(mended)
				l.Check(nil)
				p.audit()
				p.close(opened)
			})
		}
	}
}

// load is a shop's, of which each request is in the diary.
func (p *pair) load(seed uint64) *shop.Load {
	p.Helper()
	l := shop.NewLoad(p, p.Shop, seed)
	l.Looks = true
	l.Observe = func(operation, id string, began time.Time, r shop.Reply) {
		c := call{operation: operation, order: id, began: began, ended: time.Now(), timeout: exchange.MaxTimeout, reply: r}
		if r.Header != nil {
			c.requestID = r.Header.Get(exchange.RequestIDHeader)
		}
		p.diary.add(c)
	}
	return l
}

// While replicas are replaced or lost, callers notice nothing. These tests have the
// machine to themselves.
func TestReplicasAreReplaced(t *testing.T) {
	r := loads.row("a rolling restart of both", "Two replicas of each: one is added, and an old one stopped, until all are new. No request fails.")
	onReplicas(t, r, func(p *pair) {
		for _, s := range []*service{p.orders, p.inventory} {
			for _, old := range slices.Clone(s.replicas) {
				p.diary.during("a replica of "+s.name+" is replaced", func() {
					p.ready(p.add(s))
					p.remove(s, old)
				})
			}
		}
	})
}

func TestAReplicaIsLost(t *testing.T) {
	r := loads.row("a replica of each killed", "Two replicas of each: one of orders, then one of inventory gets a kill -9. What was in flight at that one of orders breaks, and is "+
		"asked again; no other request fails.")
	onReplicas(t, r, func(p *pair) {
		for _, s := range []*service{p.orders, p.inventory} {
			p.diary.during("a replica of "+s.name+" is killed", func() {
				p.check(s.replicas[0].Kill(p.Context()))
				s.replicas = s.replicas[1:]
				p.route(s)
				isClosed(p.Context().Done(), time.Second)
			})
			p.ready(p.add(s))
		}
	})
}

// onReplicas has load on two replicas of each service, on every wire in turn, and
// does something to them.
func onReplicas(t *testing.T, r *row, do func(p *pair)) {
	for _, wire := range wires {
		t.Run(wire, func(t *testing.T) {
			opened := r.open(t, wire, "postgres", "", everyExchange...)
			p := startPair(t, setting{wire: wire, store: "postgres", ordersReplicas: 2, inventoryReplicas: 2})
			l := p.load(1)
			l.Callers, l.Pace = 16, 10*time.Millisecond
			stop := l.Run()
			l.Flows(200, nil)
			began := time.Now()
			do(p)
			l.Flows(200, nil)
			took := time.Since(began)
			stop()
			p.diary.settled = p.settles()
			flowed, broken := 0, 0
			for _, c := range p.diary.calls {
				if c.began.Before(began) {
					continue
				}
				flowed++
				switch {
				case c.reply.Err != nil:
					broken++
				case c.unknown() || c.reply.Status >= 500:
					opened[c.operation].Errorf("%s %s: %d %s", c.operation, c.order, c.reply.Status, c.reply.Text)
				}
			}
			// As many as there are callers can be on their way in one replica.
			if broken > l.Callers || broken > 0 && r.name == "a rolling restart of both" {
				t.Errorf("%d requests broke", broken)
			}
			rate := fmt.Sprintf("%.0f requests a second", float64(flowed)/took.Seconds())
			t.Log(rate)
			p.diary.notes = append(p.diary.notes, note{began, began.Add(took), rate})
			l.Check(nil)
			p.audit()
			p.close(opened)
		})
	}
}
