package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// turn measures one candidate once.
func (b *bench) turn(ctx context.Context, c candidate, hot bool, callers int) error {
	if _, err := measure(ctx, c.system.Orders.URL, newPlacing(skusOf(hot)), pace{callers: callers, duration: warmUp}, func() {}); err != nil {
		return err
	}
	before, err := c.used(ctx)
	if err != nil {
		return err
	}
	result, err := c.place(ctx, hot, pace{callers: callers, duration: b.Slice})
	if err != nil {
		return err
	}
	f, err := c.used(ctx)
	if err != nil {
		return err
	}
	for i := cpuOrders; i <= syncs; i++ {
		f[i] = (f[i] - before[i]) / float64(result.total.counts[done])
	}
	f[perSecond] = result.throughput(result.total)
	f[p50], f[p99] = result.total.quantile(0.5).Seconds()*1000, result.total.quantile(0.99).Seconds()*1000
	b.note(benchCase{c.store, c.wire, c.merged, hot, callers}, f)
	return nil
}

func (b *bench) note(c benchCase, f figures) {
	b.results[c] = append(b.results[c], f)
	_ = b.bar.Add(1) // an error only affects the display
}

// place places orders. Unknown and refused requests do not count as done. A rejected
// or failed order is an error.
func (c candidate) place(ctx context.Context, hot bool, p pace) (result, error) {
	samples, err := measure(ctx, c.system.Orders.URL, newPlacing(skusOf(hot)), p, func() {})
	if err != nil {
		return result{}, err
	}
	r := summarize(samples)
	if err := r.violation(); err != nil {
		return r, fmt.Errorf("%s, %s: %w", c.store, p, err)
	}
	return r, nil
}

// used returns the resources used so far: each process's processor time in
// milliseconds (milliseconds for one order are seconds for 1,000), and the syncs.
func (c candidate) used(ctx context.Context) (figures, error) {
	f := noFigures()
	for figure, pid := range map[int]int{cpuOrders: c.system.Orders.PID(), cpuInventory: c.system.Inventory.PID(), cpuLoad: os.Getpid()} {
		cpu, err := processCPU(pid)
		if err != nil {
			return f, err
		}
		f[figure] = cpu.Seconds() * 1000
	}
	switch c.store {
	case onSQLite:
		f[syncs] = 0
		for _, service := range []string{"inventory", "orders"} {
			n, err := fileSyncs(filepath.Join(c.folder, service+".db"))
			if err != nil {
				return f, err
			}
			f[syncs] += float64(n)
		}
	case onPostgres:
		cpu, err := c.postgres.CPU(ctx)
		if err != nil {
			return f, err
		}
		f[cpuPostgres] = cpu.Seconds() * 1000
	}
	return f, nil
}

const pgbenchClients = 64

func (b *bench) turnOfPgbench(ctx context.Context, hot bool) error {
	before, err := b.postgres.CPU(ctx)
	if err != nil {
		return err
	}
	result, err := pgbench(ctx, b.postgres, b.limit, pgbenchClients, skusOf(hot), b.Slice)
	if err != nil {
		return err
	}
	after, err := b.postgres.CPU(ctx)
	if err != nil {
		return err
	}
	f := noFigures()
	f[perSecond], f[cpuPostgres] = result.perSecond, (after-before).Seconds()*1000/float64(result.done)
	b.note(benchCase{onPgbench, "", false, hot, pgbenchClients}, f)
	return nil
}
