package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"roundtrip/test/support/containers"
)

// clockTick is the unit of processor time in /proc/PID/stat: USER_HZ, 100 on every
// architecture that Go knows (proc(5)).
const clockTick = time.Second / 100

// processCPU is the processor time that a process has used.
func processCPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(string(text))
}

// parseStat reads utime and stime, the 14th and 15th field. The second field is the
// command's name in brackets. It may contain any character.
func parseStat(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("not a process's stat: %q", stat)
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("not a process's stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// peakMemory is the peak resident memory of a process, in bytes.
func peakMemory(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parsePeak(string(text))
}

func parsePeak(status string) (int64, error) {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("not a process's status: %.40q", status)
}

// fileSyncs is how often a service on SQLite has synced its files. SQLite does not
// count syncs, so this computes them from the files, at no cost to the service
// (sqlite.org/walformat.html):
//
//   - The index of the write-ahead log (-shm) counts the committed
//     transactions. With synchronous=FULL each of them syncs the log once.
//   - The log's header (-wal) counts how often the log was restarted. Each restart
//     syncs the log, the database, and the new header.
//
// strace on both services counted the same number (docs/performance.md).
func fileSyncs(database string) (int, error) {
	index, err := os.ReadFile(database + "-shm")
	if err != nil {
		return 0, err
	}
	log, err := os.ReadFile(database + "-wal")
	if err != nil {
		return 0, err
	}
	if len(index) < 12 || len(log) < 16 {
		return 0, fmt.Errorf("%s has no write-ahead log", database)
	}
	commits, begun := binary.NativeEndian.Uint32(index[8:]), binary.BigEndian.Uint32(log[12:])
	return int(commits) + 3*int(begun), nil
}

// serverSyncs is how often the server has synced its log. A connection may not report
// its syncs until it closes, so this waits until all connections are closed.
func serverSyncs(ctx context.Context, p *containers.Postgres) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		out, err := p.Run(ctx, "psql", "-At", "-F", " ", "-c", `SELECT wal_sync, (SELECT count(*) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) FROM pg_stat_wal`, p.AddressInside("postgres"))
		if err != nil {
			return 0, err
		}
		var syncs, connections int
		if _, err := fmt.Sscan(out, &syncs, &connections); err != nil {
			return 0, fmt.Errorf("read %q: %w", out, err)
		}
		if connections == 0 {
			return syncs, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return 0, fmt.Errorf("%d connections are still open", connections)
		}
	}
}
