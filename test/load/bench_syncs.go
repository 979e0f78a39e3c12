package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"roundtrip/test/support/processes"
)

// countSyncs counts PostgreSQL's syncs. A connection may not report its syncs until
// it closes. So each case stops its services before it reads the counter, and
// measures nothing else.
func (b *bench) countSyncs(ctx context.Context) error {
	for _, merged := range []bool{true, false} {
		if !b.wants(onPostgres, overHTTP, merged) {
			continue
		}
		if err := b.countSyncsOf(ctx, merged); err != nil {
			return err
		}
	}
	if !b.wants(onPgbench, "", false) {
		return nil
	}
	before, err := serverSyncs(ctx, b.postgres)
	if err != nil {
		return err
	}
	result, err := pgbench(ctx, b.postgres, b.limit, pgbenchClients, allSKUs, b.Slice)
	if err != nil {
		return err
	}
	after, err := serverSyncs(ctx, b.postgres)
	b.noteSyncs(benchCase{onPgbench, "", false, false, pgbenchClients}, after-before, result.done)
	return err
}

func (b *bench) countSyncsOf(ctx context.Context, merged bool) (err error) {
	c, err := b.start(ctx, onPostgres, overHTTP, merged)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.system.stop(ctx)) }()
	before, err := c.restart(ctx)
	for _, callers := range callerCounts {
		for _, hot := range []bool{false, true} {
			if err != nil {
				return err
			}
			result, err := c.place(ctx, hot, pace{callers: callers, duration: b.Slice})
			if err != nil {
				return err
			}
			after, err := c.restart(ctx)
			if err != nil {
				return err
			}
			b.noteSyncs(benchCase{onPostgres, overHTTP, merged, hot, callers}, after-before, result.total.counts[done])
			before = after
		}
	}
	return err
}

func (b *bench) noteSyncs(c benchCase, n, orders int) {
	f := noFigures()
	f[syncs] = float64(n) / float64(orders)
	b.note(c, f)
}

// restart stops the services, counts the server's syncs, and starts them again.
func (c candidate) restart(ctx context.Context) (int, error) {
	if err := c.system.stop(ctx); err != nil {
		return 0, err
	}
	n, err := serverSyncs(ctx, c.postgres)
	for _, process := range []**processes.Process{&c.system.Inventory, &c.system.Orders} {
		if err == nil {
			*process, err = (*process).Restart(ctx)
		}
	}
	return n, err
}

// starts is how often each start is timed.
const starts = 7

// timeStarts measures the time from the start of a process on SQLite until it
// accepts requests. A run with --only skips it.
func (b *bench) timeStarts(ctx context.Context) error {
	if b.only != nil {
		return nil
	}
	for i := range starts {
		for _, service := range []string{"inventory", "orders"} {
			for _, database := range []string{"new", "existing"} {
				o, err := target{Bin: b.Bin}.service(ctx, service, "", filepath.Join(b.folder, fmt.Sprint("start-", i)))
				if err != nil {
					return err
				}
				began := time.Now()
				process, err := processes.Start(ctx, o)
				took := time.Since(began)
				if err == nil {
					err = process.Stop(ctx)
				}
				if err != nil {
					return err
				}
				name := service + ", " + database + " database"
				b.facts.ready[name] = append(b.facts.ready[name], took.Seconds()*1000)
			}
		}
	}
	return nil
}
